"""Search budget of a calibration: what it tries, on how many texts."""

from dataclasses import dataclass, replace

from saif.core.types import Thoroughness
from saif.presets.instructions import ContentKind
from saif.presets.spec import LatentSource

HALF_LIFE = 16
"""Of fading steering, in tokens. Steady steering has sent most replies into loops, so the search
starts with fading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchBudget:
    """How long to search: three rounds, each on more texts than the one before."""

    first: int = 4
    """Texts in the first round."""
    first_tokens: int = 24
    """Tokens per reply in it."""
    second: int = 12
    third: int = 20
    max_new_tokens: int = 40
    """Tokens per reply after the first round."""
    recipes: tuple[LatentSource, ...] = (
        LatentSource(selection="signed", rule="delta", k=15),
        LatentSource(selection="output", rule="delta", k=15),
        LatentSource(selection="contrast", rule="delta", k=15),
        LatentSource(selection="saif", rule="delta", k=15),
        LatentSource(selection="saif", rule="mean", k=15),
    )
    """Ways to use latents that the first round tries at every layer."""
    doses: tuple[float, ...] = (0.3, 0.5, 0.75)
    semifinalists: int = 3
    """How many of them go on to the second round."""
    finalists: int = 2
    baseline_semifinalists: int = 99
    """Mean differences that go on, one of every layer at most."""
    baseline_finalists: int = 3
    identify_on: int = 80
    """Texts that latents are found on where presets are made in one go."""


# The two recipes that won most of the thorough searches.
_QUICK = SearchBudget(
    first=3,
    first_tokens=16,
    second=6,
    third=10,
    recipes=(
        LatentSource(selection="signed", rule="delta", k=15),
        LatentSource(selection="contrast", rule="delta", k=15),
    ),
    doses=(0.35, 0.6),
    semifinalists=2,
    finalists=1,
    baseline_semifinalists=2,
    baseline_finalists=1,
    identify_on=40,
)


_SENTENCES: dict[Thoroughness, SearchBudget] = {"thorough": SearchBudget(), "quick": _QUICK}

BUDGETS: dict[tuple[Thoroughness, ContentKind], SearchBudget] = {
    **{(name, "sentence"): budget for name, budget in _SENTENCES.items()},
    # A passage's summary is only checked once it has come to its end.
    **{
        (name, "passage"): replace(budget, first_tokens=64, max_new_tokens=64)
        for name, budget in _SENTENCES.items()
    },
}

MAX_NEW_TOKENS = {kind: budget.max_new_tokens for (_, kind), budget in BUDGETS.items()}
"""Of a reply to be checked; the same at every budget, so that scores can be compared."""
