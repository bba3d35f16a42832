"""The numbers that a regression sees: a row for each vote, a column for each thing it may hang on.

A preset's column is 1 on its votes, and everything else is 0 at the middle, so that a preset's
coefficient is the log odds of preferring the first arm, sides and position being even.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saif.study.analysis.observations import Observation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Design:
    """y: (n,) 1 the first arm, 0 the second, ½ neither. x: (n, n_terms). participants, prompts:
    (n,) places in a list of them; prompts is empty in free chat. n_presets: the first so many
    terms are presets."""

    y: "Floats"
    x: "Floats"
    names: tuple[str, ...]
    n_presets: int
    participants: "Places"
    prompts: "Places"

    @property
    def n_participants(self) -> int:
        return int(self.participants.max()) + 1

    @property
    def n_prompts(self) -> int:
        return int(self.prompts.max()) + 1 if self.prompts.size else 0


def design(seen: Sequence[Observation], first: str, *, length: bool) -> Design:
    """seen: votes that are no skips. length: with the difference of the answers' log lengths, for
    which every vote needs its tokens. A column that the others determine is left out."""
    import numpy as np

    presets = list(dict.fromkeys(one.preset for one in seen))
    columns = {name: np.array([float(one.preset == name) for one in seen]) for name in presets}
    optional = {
        "first arm on the left": np.array([0.5 if one.first_left else -0.5 for one in seen]),
        "ten trials later": np.array([one.position / 10 for one in seen]),
    }
    if length:
        optional["twice as long"] = np.array([_log_ratio(one) for one in seen])
    for name, column in optional.items():
        centred = column if name != "ten trials later" else column - column.mean()
        wider = np.column_stack([*columns.values(), centred])
        if np.linalg.matrix_rank(wider) == len(columns) + 1:
            columns[name] = centred
    prompts = [one.vote.prompt for one in seen]
    return Design(
        y=np.array([_score(one, first) for one in seen]),
        x=np.column_stack(list(columns.values())),
        names=tuple(columns),
        n_presets=len(presets),
        participants=_places([one.vote.participant for one in seen]),
        prompts=np.array([], dtype=np.intp) if None in prompts else _places(prompts),
    )


def _score(one: Observation, first: str) -> float:
    return 0.5 if one.vote.preferred is None else float(one.vote.preferred == first)


def _log_ratio(one: Observation) -> float:
    """log2 of the first arm's length over the second's; an empty answer counts as one token."""
    first, second = one.tokens_first, one.tokens_second
    if first is None or second is None:
        raise ValueError("a vote without the lengths of its answers")
    return math.log2(max(1, first) / max(1, second))


def _places(names: Sequence[str | None]) -> "Places":
    import numpy as np

    order = {name: place for place, name in enumerate(sorted(map(str, set(names))))}
    return np.array([order[str(name)] for name in names], dtype=np.intp)
