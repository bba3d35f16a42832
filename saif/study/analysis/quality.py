"""How good the data are: who came how far, how they voted, whether they were blind and awake.

Nothing here says which arm was preferred, so it may be looked at while a study runs.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from saif.study.analysis.data import StudyData
from saif.study.analysis.observations import (
    Observation,
    keeps_to_protocol,
    missed,
    observations,
    retest_pairs,
    voted,
    votes_of,
)
from saif.study.analysis.reliability import Guess, bang_index, retest
from saif.study.analysis.results import Attention, Bin, Blinding, Flow, Quality, Steadiness, Times
from saif.study.analysis.shares import share
from saif.study.data.tables import Row
from saif.study.design.study_file import Study
from saif.study.participation.votes import Score, left_scores

SECONDS = (1, 2, 3, 5, 10, 20, 30, 60)
"""Edges of the histogram of response times."""


def quality(data: StudyData) -> Quality:
    """What may be shown of any study at any time."""
    seen = observations(data)
    votes = votes_of(seen)
    choices = Counter(vote.choice for vote in votes)
    return Quality(
        flow=_flow(data, seen),
        votes=len(votes),
        ties=choices["tie"],
        both_bad=choices["both_bad"],
        skips=choices["skip"],
        voids=_voids(data),
        left=share(left_scores(votes)),
        steadiness=_steadiness(data),
        blinding=_blinding(data),
        attention=_attention(data),
        times=_times(data, seen),
        notes=tuple(_notes(data)),
    )


def _flow(data: StudyData, seen: Sequence[Observation]) -> Flow:
    counts = data.flow
    study = data.version.study
    complete = [row for row in data.tables["participants"] if row["status"] == "complete"]
    wrong = missed(data)
    gone = ("enrolled", "active", "complete", "screened", "stale", "withdrawn", "erased")
    return Flow(
        consented=sum(counts[status] for status in gone),
        going_on=counts["enrolled"] + counts["active"],
        screened=counts["screened"],
        stale=counts["stale"],
        withdrawn=counts["withdrawn"],
        erased=counts["erased"],
        complete=counts["complete"],
        missed_checks=sum(
            wrong.get(str(row["participant"]), 0) > study.failed_checks for row in complete
        ),
        voted=len({one.vote.participant for one in seen if one.vote.choice != "skip"}),
        per_protocol=len(keeps_to_protocol(data)),
        planned=study.quota.complete,
    )


def _voids(data: StudyData) -> dict[str, int]:
    found = Counter(
        str(row["void_reason"])
        for row in data.tables["trials"]
        if row["state"] == "void" and row["kind"] == "main"
    )
    return dict(sorted(found.items()))


def _steadiness(data: StudyData) -> Steadiness | None:
    pairs = [pair for pair in retest_pairs(data) if "skip" not in (pair[0].choice, pair[1].choice)]
    if not pairs:
        return None
    found = retest(pairs)
    flips = share(
        [
            Score(
                one.participant,
                one.prompt,
                float((one.preferred or one.choice) != (two.preferred or two.choice)),
            )
            for one, two in pairs
        ],
        prompts=False,
    )
    kappa = found.kappa
    return Steadiness(
        pairs=len(pairs),
        flips=flips,
        kappa=kappa.value if kappa else None,
        kappa_low=kappa.low if kappa else None,
        kappa_high=kappa.high if kappa else None,
    )


def changed_arm(study: Study) -> str | None:
    """The arm whose answer counts as the changed one; None where both arms are steered."""
    steered = [arm for arm in study.arms if arm in ("steered", "other")]
    if steered:
        return steered[0] if len(steered) == 1 else None
    return next(arm for arm in study.arms if arm != "unsteered")


def _blinding(data: StudyData) -> Blinding:
    """Each participant's guess, held against the sides of their last main trial."""
    study = data.version.study
    question = next((one for one in study.questions if one.kind == "guess"), None)
    changed = changed_arm(study)
    if question is None or changed is None:
        why = "Nobody was asked." if question is None else "Both arms were steered."
        return Blinding(None, None, None, 0, 0, 0, why)
    last: dict[str, Row] = {}
    for row in voted(data, "main"):  # in the order of positions
        last[str(row["participant"])] = row
    guesses: dict[str, Guess] = {}
    for row in data.tables["responses"]:
        who = str(row["participant"])
        guess = json.loads(str(row["value"])) if row["item"] == question.id else None
        if guess is None or who not in last:
            continue
        side = "L" if last[who]["left_arm"] == changed else "R"
        guesses[who] = "unsure" if guess == "unsure" else "right" if guess == side else "wrong"
    counts = Counter(guesses.values())
    told = counts["right"], counts["wrong"], counts["unsure"]
    if not guesses:
        return Blinding(None, None, None, *told, "Nobody has answered yet.")
    found = bang_index(guesses)
    return Blinding(found.value, found.low, found.high, *told)


def _attention(data: StudyData) -> tuple[Attention, ...]:
    answered: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    right = {check.id: check.answer for check in data.version.study.attention}
    for row in voted(data, "attention"):
        name = str(row["attention_check"])
        answered[name] += 1
        wrong[name] += row["choice"] != right.get(name)
    return tuple(Attention(name, answered[name], wrong[name]) for name in right)


def _times(data: StudyData, seen: Sequence[Observation]) -> Times:
    seconds = sorted(one.decided_ms / 1000 for one in seen if one.decided_ms is not None)
    labels = [
        f"<{SECONDS[0]}",
        *(f"{low}–{high}" for low, high in pairwise(SECONDS)),
        f"≥{SECONDS[-1]}",
    ]
    edges = (-math.inf, *SECONDS, math.inf)
    quarters = statistics.quantiles(seconds, method="inclusive") if len(seconds) > 1 else None
    return Times(
        n=len(seconds),
        median=statistics.median(seconds) if seconds else None,
        quarter=quarters[0] if quarters else None,
        three_quarters=quarters[2] if quarters else None,
        hasty=sum(one < 1 for one in seconds),
        histogram=tuple(
            Bin(label, sum(low <= one < high for one in seconds))
            for label, (low, high) in zip(labels, pairwise(edges), strict=True)
        ),
        first_token_gap_ms=_first_token_gap(data),
    )


def _first_token_gap(data: StudyData) -> tuple[float, float] | None:
    gaps = [
        abs(float(left) - float(right))
        for row in data.tables["turns"]
        if (left := row["left_ttft_ms"]) is not None and (right := row["right_ttft_ms"]) is not None
    ]
    return (statistics.median(gaps), max(gaps)) if gaps else None


def _notes(data: StudyData) -> list[str]:
    rows = data.tables["participants"]
    versions = {row["version"] for row in rows}
    notes = []
    if len(versions) > 1:
        notes.append(
            f"Participants took part in {len(versions)} versions of the study; they are analysed "
            "together."
        )
    if {row["source"] for row in rows} == {"bot"}:
        notes.append("The participants are made up.")
    return notes
