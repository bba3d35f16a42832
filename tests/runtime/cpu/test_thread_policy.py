"""The policy drops to one thread where several are slower, and recovers."""

from itertools import pairwise

import pytest

from saif.runtime.cpu.thread_policy import ThreadPolicy

SHAPE = (2, 8)


class Machine:
    """Steps at these milliseconds per number of threads, on a clock that it moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.policy = ThreadPolicy(lambda: self.now)
        self.busy = False

    def run(self, steps: int, shape: object = SHAPE, *, available: int = 2) -> list[int]:
        """The number of threads of each step. Alone two threads take 7 ms and one 12; beside
        another process, which takes turns with them, 28 on average and 14."""
        chosen = []
        for step in range(steps):
            threads = self.policy.choose(shape, available)
            busy = (14, 20 + 16 * (step % 2)) if self.busy else (12, 7)
            seconds = busy[threads > 1] / 1000
            self.now += seconds
            self.policy.record(threads, seconds)
            chosen.append(threads)
        return chosen


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_an_idle_machine_uses_all_threads(machine: Machine) -> None:
    chosen = machine.run(2000)
    assert chosen[:4] == [2] * 4
    assert chosen.count(1) == 4  # one trial, when nothing is known yet
    assert machine.run(3000).count(1) == 4  # and one after 30 seconds


def test_a_busy_machine_uses_one_thread_and_recovers(machine: Machine) -> None:
    machine.run(200)
    machine.busy = True
    chosen = machine.run(200)
    assert 1 in chosen[:14]  # noticed within a few steps
    assert chosen[-100:].count(2) <= 8
    machine.busy = False
    seconds = machine.now
    while machine.run(1) == [1]:
        pass
    machine.run(16)
    assert machine.now - seconds < 5
    assert set(machine.run(200)) == {2}


def test_a_machine_that_was_never_idle_uses_one_thread(machine: Machine) -> None:
    machine.busy = True
    machine.run(12)
    assert set(machine.run(50)) == {1}


def test_trials_that_change_nothing_become_rarer(machine: Machine) -> None:
    machine.busy = True
    trials = []
    for _ in range(20_000):
        if machine.run(1) == [2]:
            trials.append(machine.now)
    gaps = [after - before for before, after in pairwise(trials)]
    assert max(gaps[: len(gaps) // 4]) < max(gaps) <= 31
    assert len(trials) < 100


def test_a_step_that_is_more_work_is_not_taken_for_a_busy_machine(machine: Machine) -> None:
    machine.run(300)
    policy, chosen = machine.policy, []
    for _ in range(100):
        chosen.append(policy.choose((64, 8), 2))
        policy.record(chosen[-1], 0.3)
        machine.now += 0.1
    assert set(chosen) == {2}


def test_a_trial_compares_steps_of_one_shape(machine: Machine) -> None:
    """Where rows leave in the middle of it, it begins anew."""
    machine.busy = True
    machine.run(7)
    assert machine.policy._trial is not None
    assert machine.run(8, "another").count(1) == 4
    assert set(machine.run(20, "another")) == {1}


def test_one_thread_stays_one(machine: Machine) -> None:
    assert set(machine.run(100, available=1)) == {1}
    assert machine.run(4, available=2) == [2] * 4
    machine.busy = True
    machine.run(100, available=2)
    assert machine.run(4, available=3) == [3] * 4  # what was learnt does not hold for three
