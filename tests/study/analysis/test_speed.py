"""The analysis of a large study takes time in proportion to its votes."""

import time

import pytest
from made_up_data import data_of, trial_rows
from made_up_votes import planted

from saif.study.analysis.analyse import analyse


def cpu_seconds(people: int) -> float:
    rows = trial_rows(planted(1, people, 10, 0.6, icc=0.15, ties=0.1))
    begun = time.process_time()
    analyse(data_of(rows))
    return time.process_time() - begun


@pytest.mark.slow
def test_a_hundred_thousand_votes_take_ten_times_as_long_as_ten_thousand() -> None:
    cpu_seconds(100)  # imports
    small, large = cpu_seconds(1_000), cpu_seconds(10_000)
    assert large < 20 * small
    assert large < 30  # 8 s on the two cores where it was written
