"""How often the intervals of an analysis hold the truth, and how often its tests are wrong.

    PYTHONPATH=.:tests/study python tests/study/analysis/measure_coverage.py --sets 200

Prints a line of a Markdown table per cell: participants, whether they share eight messages or each
writes their own, and the true rate; then the coverage of the headline's 95 % interval and of each
model's, and at a rate of one half how often each p value is below 0.05. Each participant votes
eight times. Log odds vary between participants by 0.6 and between messages by 0.5 (standard
deviations), around a centre that makes the mean rate the true one. `docs/results/studies.md` holds
what came out.
"""

import argparse
import math
import sys
from collections import defaultdict

import numpy as np
from made_up_data import data_of, trial_rows
from made_up_votes import vote
from scipy.optimize import brentq
from scipy.special import expit

from saif.study.analysis.analyse import analyse

VOTES = 8
SD_PARTICIPANTS, SD_MESSAGES = 0.6, 0.5


def centre(rate: float) -> float:
    """The log odds around which levels vary so that the mean rate is `rate`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    spread = math.hypot(SD_PARTICIPANTS, SD_MESSAGES)

    def excess(at: float) -> float:
        return float(weights @ expit(at + spread * nodes) / weights.sum()) - rate

    return float(brentq(excess, -8, 8, xtol=1e-12))


def rows_of(seed: int, people: int, shared: bool, rate: float) -> list:
    rng = np.random.default_rng([seed, people, shared, int(1000 * rate)])
    log_odds = centre(rate) + SD_PARTICIPANTS * rng.normal(size=(people, 1))
    log_odds = log_odds + SD_MESSAGES * rng.normal(size=VOTES if shared else (people, VOTES))
    wins = rng.random((people, VOTES)) < expit(log_odds)
    first_left = rng.random((people, VOTES)) < 0.5
    made = []
    for person, place in np.ndindex(people, VOTES):
        on_left = bool(first_left[person, place])
        left, right = ("steered", "unsteered")[:: 1 if on_left else -1]
        message = f"q{place}" if shared else None
        made.append(
            vote(
                f"{person}-{place}",
                f"p{person:03d}",
                "L" if wins[person, place] == on_left else "R",
                left=left,
                right=right,
                prompt=message,
            )
        )
    # Without lengths, so that the model with them, which is not measured, is not fitted.
    return [{**row, "tokens_left": None} for row in trial_rows(made)]


def cell(people: int, shared: bool, rate: float, sets: int) -> str:
    held: defaultdict[str, list[bool]] = defaultdict(list)
    alarms: defaultdict[str, list[bool]] = defaultdict(list)
    for seed in range(sets):
        found = analyse(data_of(rows_of(seed, people, shared, rate)))
        preset = found.presets[0]
        assert preset.share.low is not None
        assert preset.share.high is not None
        assert preset.tests is not None
        held["headline"].append(preset.share.low <= rate <= preset.share.high)
        alarms["headline"].append(preset.tests.headline < 0.05)
        for model in found.models:
            if model.terms and "length" not in model.name:
                term = model.terms[0]
                held[model.name].append(term.probability_low <= rate <= term.probability_high)
                alarms[model.name].append(term.p < 0.05)
    parts = [
        f"{name} {np.mean(hits):.3f}"
        + (f" / {np.mean(alarms[name]):.3f}" if rate == 0.5 else "")
        + (f" ({len(hits)} fits)" if len(hits) < sets else "")
        for name, hits in held.items()
    ]
    return f"| {people} | {'shared' if shared else 'own'} | {rate} | {' | '.join(parts)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--people", type=int, nargs="*", default=[8, 15, 30, 100])
    given = parser.parse_args()
    for people in given.people:
        for shared in (False, True):
            for rate in (0.5, 0.65, 0.9):
                sys.stdout.write(cell(people, shared, rate, given.sets) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
