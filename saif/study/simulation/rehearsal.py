"""A study rehearsed: played by bots from consent to code, exported, analysed, and held against what
was planted in it."""

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saif.core.types import check_between
from saif.errors import StudyError
from saif.study.analysis.analyse import analyse
from saif.study.analysis.data import from_export
from saif.study.analysis.results import Analysis
from saif.study.data.export import export
from saif.study.design.publish import Version, write_version
from saif.study.design.study_file import Study
from saif.study.simulation.simulate import Crowd, simulate
from saif.study.store.store import Store

MOST = 10_000
"""Bots of a rehearsal."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Whether the interval of one preset holds what was planted. None without an interval."""

    preset: str
    planted: float
    value: float | None
    low: float | None
    high: float | None

    @property
    def recovered(self) -> bool | None:
        if self.low is None or self.high is None:
            return None
        return self.low <= self.planted <= self.high

    @property
    def tells(self) -> bool:
        """Whether the interval is narrow enough to miss anything."""
        return self.low is not None and self.high is not None and self.high - self.low < 0.5


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """ended: how many bots ended how, see `saif.study.simulation.simulate`."""

    ended: Counter[str]
    analysis: Analysis
    recoveries: tuple[Recovery, ...]


def rehearse(
    version: Version,
    n: int,
    crowd: Crowd,
    *,
    data: Path,
    out: Path,
    seed: int = 0,
    tell: Callable[[int], None] | None = None,
) -> Rehearsal:
    """Play it. data: a new folder for the store. out: a new folder for the export, from which all
    numbers come. There is a place for every bot, whatever the study's own quota.

    Raises StudyError where `data` holds something.
    """
    check_between("n", n, 1, MOST)
    if data.exists() and any(data.iterdir()):
        raise StudyError(f"{data} is not empty.", hint="Rehearse in a folder that is new.")
    study = version.study
    roomy = study.quota.model_copy(update={"complete": max(n, study.quota.complete)})
    version = version.model_copy(update={"study": study.model_copy(update={"quota": roomy})})
    # Nobody comes back after the rehearsal, so the key can be thrown away.
    write_version(data, version)  # so that other commands can open what is kept
    store = Store(data, version, secrets.token_bytes(32))
    try:
        ended = simulate(store, n, crowd, seed=seed, tell=tell)
        export(store, out, profile="full", actor="rehearsal")
    finally:
        store.close()
    found = analyse(from_export(out))
    planted = planted_share(crowd, study)
    return Rehearsal(
        ended=ended,
        analysis=found,
        recoveries=tuple(
            Recovery(one.preset, planted, one.share.value, one.share.low, one.share.high)
            for one in found.presets
        ),
    )


def planted_share(crowd: Crowd, study: Study) -> float:
    """What the estimand is in such a crowd: ties count ½, and the careless choose by chance."""
    offered = study.preference.tie or study.preference.both_bad
    ties = crowd.ties if offered else 0.0
    careful = ties / 2 + (1 - ties) * crowd.rate
    return crowd.careless / 2 + (1 - crowd.careless) * careful
