"""Main trials as an analysis sees them: the vote, and what may have moved it."""

from collections.abc import Sequence
from dataclasses import dataclass

from saif.study.analysis.data import StudyData
from saif.study.data.tables import Row, Value, vote_of
from saif.study.participation.votes import Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One vote that counts. position: in the participant's plan. tokens_first, tokens_second: of
    the answers of the study's two arms; None where they weren't counted."""

    vote: Vote
    preset: str
    position: int
    first_left: bool
    strength: int | None
    decided_ms: int | None
    tokens_first: int | None
    tokens_second: int | None


def observations(data: StudyData, *, per_protocol: bool = False) -> list[Observation]:
    """The votes on main trials, of everyone who did not withdraw; or only of those who finished
    and passed the checks. What stands there twice is left in, for
    `saif.study.participation.votes` to refuse."""
    kept = keeps_to_protocol(data) if per_protocol else None
    return [
        _observation(row, data.version.study.arms[0])
        for row in voted(data, "main")
        if kept is None or row["participant"] in kept
    ]


def voted(data: StudyData, kind: str) -> list[Row]:
    """Rows of trials of one kind that have a vote."""
    return [row for row in data.tables["trials"] if (row["kind"], row["state"]) == (kind, "voted")]


def missed(data: StudyData) -> dict[str, int]:
    """participant -> how many attention checks they got wrong; who saw none is left out."""
    right = {check.id: check.answer for check in data.version.study.attention}
    counts: dict[str, int] = {}
    for row in voted(data, "attention"):
        who = str(row["participant"])
        wrong = row["choice"] != right.get(str(row["attention_check"]))
        counts[who] = counts.get(who, 0) + wrong
    return counts


def keeps_to_protocol(data: StudyData) -> set[str]:
    """Participants who finished and did not miss too many attention checks."""
    wrong, allowed = missed(data), data.version.study.failed_checks
    return {
        str(row["participant"])
        for row in data.tables["participants"]
        if row["status"] == "complete" and wrong.get(str(row["participant"]), 0) <= allowed
    }


def retest_pairs(data: StudyData) -> list[tuple[Vote, Vote]]:
    """(first, second) votes of one participant on the same two answers."""
    first = {(row["participant"], row["position"]): row for row in voted(data, "main")}
    return [
        (vote_of(first[row["participant"], row["retest_of"]]), vote_of(row))
        for row in voted(data, "retest")
        if (row["participant"], row["retest_of"]) in first
    ]


def votes_of(seen: Sequence[Observation]) -> list[Vote]:
    return [one.vote for one in seen]


def whole(value: Value) -> int | None:
    """A cell of a column of integers."""
    return None if value is None else int(value)


def _observation(row: Row, first: str) -> Observation:
    first_left = row["left_arm"] == first
    tokens = whole(row["tokens_left"]), whole(row["tokens_right"])
    return Observation(
        vote=vote_of(row),
        preset=str(row["preset"]),
        position=whole(row["position"]) or 0,
        first_left=first_left,
        strength=whole(row["strength"]),
        decided_ms=whole(row["decided_ms"]),
        tokens_first=tokens[0 if first_left else 1],
        tokens_second=tokens[1 if first_left else 0],
    )
