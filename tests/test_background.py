"""Background work is run in order by a thread that doesn't outlive them."""

import subprocess
import sys
import threading
import time

from saif.background import BackgroundQueue

ENDS = """
import threading, time
from saif.background import BackgroundQueue
tasks, begun = BackgroundQueue("tasks"), threading.Event()
for n in range(1000):
    tasks.add(lambda n=n: (begun.set(), time.sleep(0.2), print(n, flush=True)))
begun.wait()
"""


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "saif-test"]


def test_they_are_done_one_after_the_other() -> None:
    tasks, done = BackgroundQueue("saif-test"), []
    for n in range(20):
        tasks.add(lambda n=n: (time.sleep(0.002), done.append(n)))  # type: ignore[misc]
    assert len(running()) == 1
    tasks.wait()
    assert done == list(range(20))


def test_no_thread_is_left_and_the_next_task_gets_one() -> None:
    tasks, done = BackgroundQueue("saif-test"), []
    for n in (1, 2):
        tasks.add(lambda n=n: done.append(n))
        tasks.wait()
        for thread in running():  # the last steps of its way out
            thread.join(5)
        assert running() == []
        assert len(done) == n


def test_one_that_fails_stops_no_other() -> None:
    tasks, done = BackgroundQueue("saif-test"), []
    tasks.add(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    tasks.add(lambda: done.append(1))
    tasks.wait()
    assert done == [1]


def test_waiting_for_nothing_takes_no_time() -> None:
    BackgroundQueue("saif-test").wait()


def test_a_program_that_ends_waits_for_one_task_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["0"]
