"""Conditions as reports and pages show them: one table of names, titles, colours and order."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShownCondition:
    """How one condition is shown."""

    name: str
    """As it is stored and typed (`saif.experiments.baselines.Condition`)."""
    title: str
    """In tables and figures, in lower case."""
    colour: str
    """The same in every figure."""
    label: str
    """In the app, where a title has to explain itself."""
    control: bool = False
    """Shown in tables, but not where placements are compared."""


# Okabe and Ito's palette, which the colour-blind can tell apart; the two with a suffix are paler
# shades of what they control.
CONDITIONS = (
    ShownCondition("unsteered", "unsteered", "#8a929e", "Unsteered"),
    ShownCondition("steered", "steered", "#0072b2", "Steered"),
    ShownCondition("prompted", "prompted", "#e69f00", "Prompted in words"),
    ShownCondition("mean-difference", "mean difference", "#009e73", "Mean difference"),
    ShownCondition("saif", "plain SAIF", "#d55e00", "Plain SAIF"),
    ShownCondition("single-latent", "single latent", "#56b4e9", "Best latent alone", control=True),
    ShownCondition("random", "random latents", "#cc79a7", "Random latents", control=True),
    ShownCondition(
        "wrong-instruction", "wrong instruction", "#b8a90a", "Wrong instruction", control=True
    ),
    ShownCondition("steered-suffix", "steered, suffix", "#7fb5d6", "Steered, suffix"),
    ShownCondition("prompted-suffix", "prompted, suffix", "#f0c566", "Prompted, suffix"),
)
"""In the order they are shown in."""

_BY_NAME = {condition.name: condition for condition in CONDITIONS}


def shown(name: str) -> ShownCondition:
    """How a condition is shown; one that isn't known, as it is called."""
    unknown = ShownCondition(name, name, "#6b7280", name.replace("-", " ").capitalize())
    return _BY_NAME.get(name, unknown)


def title_of(name: str) -> str:
    return shown(name).title


def rank_of(name: str) -> tuple[int, str]:
    """Sorts conditions; one that isn't known comes last."""
    names = list(_BY_NAME)
    return (names.index(name) if name in names else len(names), name)
