"""Redoes the main estimate of this export from trials.csv: `python analysis.py`.

Needs Python and SciPy. For each preset: the mean over participants of their share of votes for the
study's first arm (a tie or both bad counts 1/2), with a 95 % interval and a t test against 1/2.
Votes of one participant count as alike; where prompts were shared, votes on one prompt do, too.
"""

import csv
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

from scipy.stats import beta, norm, t

Vote = tuple[str, str, float]  # participant, prompt (empty in free chat), score


def read(path: Path) -> dict[str, list[Vote]]:
    """preset -> the votes on main trials that count; skipped ones have no score."""
    found: dict[str, list[Vote]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (row["kind"], row["state"]) == ("main", "voted") and row["prefers_first"]:
                prompts = json.loads(row["prompts"])
                prompt = prompts[0] if prompts else ""
                vote = (row["participant"], prompt, float(row["prefers_first"]))
                found[row["preset"]].append(vote)
    return found


def cluster_variance(votes: list[Vote], value: float, cluster_of: tuple[int, ...]) -> float:
    """Variance of the mean over participants, the votes of a cluster summed first."""
    own: dict[str, int] = defaultdict(int)
    for who, _, _ in votes:
        own[who] += 1
    sums: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for vote in votes:
        weight = 1 / (len(own) * own[vote[0]])
        sums[tuple(vote[place] for place in cluster_of)].append(weight * (vote[2] - value))
    squares = math.fsum(math.fsum(parts) ** 2 for parts in sums.values())
    return squares * len(sums) / (len(sums) - 1)


def estimate(votes: list[Vote]) -> dict[str, float | int | None]:
    """The share, its interval and its test."""
    scores: dict[str, list[float]] = defaultdict(list)
    seen: dict[str, set[str]] = defaultdict(set)
    for who, prompt, score in votes:
        scores[who].append(score)
        seen[prompt].add(who)
    n, n_votes = len(scores), len(votes)
    value = math.fsum(math.fsum(own) / len(own) for own in scores.values()) / n
    unknown: dict[str, float | int | None] = dict.fromkeys(["low", "high", "t", "df", "p"])
    found = {"share": value, **unknown, "participants": n, "votes": n_votes}
    if n < 2:
        return found
    df = n - 1
    variance = cluster_variance(votes, value, (0,))
    if "" not in seen and len(seen) > 1 and max(map(len, seen.values())) > 1:
        by_prompt = cluster_variance(votes, value, (1,))
        both = cluster_variance(votes, value, (0, 1))
        variance = max(variance + by_prompt - both, variance, by_prompt)
        df = min(n, len(seen)) - 1

    # As how many independent votes these count (Korn and Graubard 1998).
    binomial = value * (1 - value) / n_votes
    n_eff = df + 1.0 if binomial < 1e-18 else n_votes / max(1.0, variance / binomial)
    n_eff *= (norm.ppf(0.975) / t.ppf(0.975, df)) ** 2
    if n < 15 or value in (0.0, 1.0):  # Clopper and Pearson
        wins = value * n_eff
        found["low"] = float(beta.ppf(0.025, wins, n_eff - wins + 1)) if wins > 0 else 0.0
        found["high"] = float(beta.ppf(0.975, wins + 1, n_eff - wins)) if wins < n_eff else 1.0
    else:  # Wilson
        z = norm.ppf(0.975)
        centre = (value + z**2 / (2 * n_eff)) / (1 + z**2 / n_eff)
        spread = math.sqrt(value * (1 - value) / n_eff + z**2 / (4 * n_eff**2))
        half = z * spread / (1 + z**2 / n_eff)
        found["low"], found["high"] = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    if variance >= 1e-18:
        statistic = (value - 0.5) / math.sqrt(variance)
        found |= {"t": statistic, "df": df, "p": 2 * float(t.sf(abs(statistic), df))}
    return found


if __name__ == "__main__":
    trials = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "trials.csv")
    result = {preset: estimate(votes) for preset, votes in read(trials).items()}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
