"""Conditions as a report shows them: their order, titles and colours."""

ORDER = (
    "unsteered",
    "steered",
    "prompted",
    "mean-difference",
    "saif",
    "single-latent",
    "random",
    "wrong-instruction",
    "steered-suffix",
    "prompted-suffix",
)
"""In which order conditions are shown."""

_TITLES = {
    "mean-difference": "mean difference",
    "saif": "plain SAIF",
    "single-latent": "single latent",
    "random": "random latents",
    "wrong-instruction": "wrong instruction",
    "steered-suffix": "steered, suffix",
    "prompted-suffix": "prompted, suffix",
}


def title_of(condition: str) -> str:
    return _TITLES.get(condition, condition)


# Okabe and Ito's palette, which the colour-blind can tell apart; the two controls with a suffix
# are paler shades of what they control.
_COLOURS = {
    "unsteered": "#8a929e",
    "steered": "#0072b2",
    "prompted": "#e69f00",
    "mean-difference": "#009e73",
    "saif": "#d55e00",
    "single-latent": "#56b4e9",
    "random": "#cc79a7",
    "wrong-instruction": "#b8a90a",
    "steered-suffix": "#7fb5d6",
    "prompted-suffix": "#f0c566",
}
_OTHER = "#6b7280"


def colour_of(condition: str) -> str:
    """The same condition has the same colour in every picture."""
    return _COLOURS.get(condition, _OTHER)
