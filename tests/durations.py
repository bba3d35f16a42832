"""A pytest plugin: what each test costs, the longest files first, and a budget for a run.

Measured are processor seconds (the process and the children it waited for) and the wall seconds
that an idle machine would have taken: without those in which the test could have run and another
process did. tests/durations.json holds the latter; `make durations` writes it.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("durations.json")
LEAST = 0.2
"""Seconds; tests that take less are not listed."""
TIERS = ("slow", "extended", "browser", "smoke", "contract")
"""Marks that name a tier; a test with none of them is `fast`."""


@dataclass(frozen=True)
class Cost:
    cpu: float = 0.0
    """Processor seconds."""
    wall: float = 0.0
    """Seconds, less those spent waiting for a processor."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu - other.cpu, self.wall - other.wall)

    @classmethod
    def so_far(cls) -> "Cost":
        """Of this process since it began."""
        try:  # the second number: nanoseconds in which this thread was ready and did not run
            waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
        except OSError:
            waited = 0.0
        return cls(sum(os.times()[:4]), time.perf_counter() - waited)


_COSTS = pytest.StashKey[dict[str, Cost]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("durations")
    group.addoption("--costs", type=int, metavar="N", help="print the run's cost and its N dearest")
    group.addoption("--budget", type=float, metavar="S", help="fail above S processor seconds")
    group.addoption("--save-durations", action="store_true", help=f"update {FILE.name}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Account(config), "account")


# Measured where a test runs


def _measured(item: pytest.Item, phase: str) -> Generator[None, object, object]:
    before = Cost.so_far()
    try:
        return (yield)
    finally:
        item.stash.setdefault(_COSTS, {})[phase] = Cost.so_far() - before


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _measured(item, "setup"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _measured(item, "call"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _measured(item, "teardown"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if cost := item.stash.get(_COSTS, {}).get(call.when):
        report.user_properties = [*report.user_properties, ("cost", (cost.cpu, cost.wall))]
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Longest file first where workers share the files, so that none begins a long one last."""
    if hasattr(config, "workerinput"):
        known = _read()
        seconds: defaultdict[str, float] = defaultdict(float)
        for name in {_function(item.nodeid) for item in items}:
            seconds[_file(name)] += known.get(name, 0.0)
        items.sort(key=lambda item: -seconds[_file(item.nodeid)])


# Added up where the run is controlled


class Account:
    """What a run has cost, by test."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.costs: dict[str, Cost] = {}
        self.tiers: dict[str, str] = {}

    @property
    def total(self) -> Cost:
        return sum(self.costs.values(), Cost())

    @property
    def too_dear(self) -> bool:
        budget = self.config.getoption("--budget")
        return budget is not None and self.total.cpu > budget

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tiers[report.nodeid] = next((t for t in TIERS if t in report.keywords), "fast")
        for name, value in report.user_properties:
            if name == "cost":
                self.costs[report.nodeid] = self.costs.get(report.nodeid, Cost()) + Cost(*value)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.config.getoption("--save-durations"):
            _write(self.costs)
        if self.too_dear and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        say = terminalreporter.write_line
        count = self.config.getoption("--costs")
        if count and self.costs:
            terminalreporter.section("cost in processor seconds")
            by_tier: defaultdict[str, float] = defaultdict(float)
            for name, cost in self.costs.items():
                by_tier[self.tiers[name]] += cost.cpu
            ranked = sorted(by_tier.items(), key=lambda pair: -pair[1])
            tiers = ", ".join(f"{tier} {cpu:.0f}" for tier, cpu in ranked)
            say(f"{self.total.cpu:.0f} in all: {tiers}")
            dearest = sorted(self.costs.items(), key=lambda pair: -max(pair[1].cpu, pair[1].wall))
            for name, cost in dearest[:count]:
                say(f"{cost.cpu:6.1f} ({cost.wall:.1f} s) {name}")
        if self.too_dear:
            terminalreporter.section("too dear", red=True)
            say(
                f"These tests took {self.total.cpu:.0f} processor seconds; their budget is "
                f"{self.config.getoption('--budget'):.0f}. Make the dearest cheaper (--costs=20 "
                "lists them), or mark as `extended` what not every contributor needs."
            )


def _function(nodeid: str) -> str:
    """The test's name without its parameters."""
    return nodeid.partition("[")[0].partition("@")[0]


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _read() -> dict[str, float]:
    found: dict[str, float] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    return found


def _write(costs: dict[str, Cost]) -> None:
    """Replace what was measured, and keep the rest as far as its file is still there."""
    spent: defaultdict[str, float] = defaultdict(float)
    for nodeid, cost in costs.items():
        spent[_function(nodeid)] += cost.wall
    root = FILE.parents[1]
    kept = {k: v for k, v in _read().items() if k not in spent and (root / _file(k)).exists()}
    known = kept | {name: round(s, 2) for name, s in spent.items() if s >= LEAST}
    FILE.write_text(json.dumps(known, indent=0, sort_keys=True) + "\n", "utf-8")
