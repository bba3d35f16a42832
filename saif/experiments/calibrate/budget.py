"""How much work a calibration may do: what it searches, on how many texts."""

from dataclasses import dataclass, replace

from saif.core.types import Thoroughness
from saif.presets.instructions import ContentKind
from saif.presets.spec import LatentSource

HALF_LIFE = 16
"""Of a fading push, in tokens. Steady pushes have sent most replies into loops, so the search
starts with fading ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchBudget:
    """How long to search: texts in each round, and tokens per reply in the first and after.

    recipes, doses: what the first round tries at every layer. semifinalists, finalists: how many
    pushes with latents go on to the second round and to the third. The mean differences go on
    with one of every layer, at most `rival_semifinalists`, and `rival_finalists`.
    identify_on: texts that latents are found on where presets are made in one go.
    """

    first: int = 4
    first_tokens: int = 24
    second: int = 12
    third: int = 20
    max_new_tokens: int = 40
    recipes: tuple[LatentSource, ...] = (
        LatentSource(selection="signed", rule="delta", k=15),
        LatentSource(selection="output", rule="delta", k=15),
        LatentSource(selection="contrast", rule="delta", k=15),
        LatentSource(selection="saif", rule="delta", k=15),
        LatentSource(selection="saif", rule="mean", k=15),
    )
    doses: tuple[float, ...] = (0.3, 0.5, 0.75)
    semifinalists: int = 3
    finalists: int = 2
    rival_semifinalists: int = 99
    rival_finalists: int = 3
    identify_on: int = 80


_THOROUGH = SearchBudget()
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
    rival_semifinalists=2,
    rival_finalists=1,
    identify_on=40,
)


def _for_passages(effort: SearchBudget) -> SearchBudget:
    """A passage's summary is only judged once it has come to its end."""
    return replace(effort, first_tokens=64, max_new_tokens=64)


EFFORTS: dict[tuple[Thoroughness, ContentKind], SearchBudget] = {
    ("thorough", "sentence"): _THOROUGH,
    ("thorough", "passage"): _for_passages(_THOROUGH),
    ("quick", "sentence"): _QUICK,
    ("quick", "passage"): _for_passages(_QUICK),
}

MAX_NEW_TOKENS = {kind: effort.max_new_tokens for (_, kind), effort in EFFORTS.items()}
"""Of a reply to be judged; the same at every effort, so that scores can be compared."""
