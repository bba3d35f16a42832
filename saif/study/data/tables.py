"""The tables of an export: what each column means, and the rows that may leave the store.

Recruitment ids are in none of them. Who withdrew or was erased is in none of them either, only in
the counts.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from saif.study.design.study_file import Study
from saif.study.participation.votes import Vote
from saif.study.store.store import Store

Profile = Literal["full", "deidentified", "public"]
"""full: everything; deidentified: nothing that a participant typed; public: what was typed only by
those who agreed to that. Only in full are times more exact than a day: a recruitment service knows
to the second when somebody began."""

Value = str | int | float | None
Row = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Column:
    """typed: it may hold what a participant wrote, so the profile decides whether it is shown.
    levels: the values it can have, with what they mean; empty for others."""

    name: str
    kind: Literal["text", "integer", "number"]
    meaning: str
    unit: str = ""
    levels: Mapping[str, str] | None = None
    typed: bool = False


_PARTICIPANT = Column("participant", "text", "random id of the participant")
_TRIAL = Column("trial", "text", "id of the trial: participant, position and attempt")
_TIME = "ISO 8601, UTC; a day except in the full profile"
_DAY = len("2026-01-31")

TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "participants": (
        "SELECT participant_id AS participant, source, version_id AS version, cell, plan_seed, "
        "status, created_at, share_text FROM participant JOIN consent USING(participant_id)",
        (
            _PARTICIPANT,
            Column("source", "text", "where they were recruited"),
            Column("version", "text", "sha256 of the published study they took part in"),
            Column("cell", "text", "cell of the plan: row of the square, and side"),
            Column("plan_seed", "text", "what their plan was drawn from"),
            Column("status", "text", "how far they came"),
            Column("created_at", "text", "when they consented", _TIME),
            Column("share_text", "integer", "their texts may be published", levels={
                "1": "yes", "0": "no"
            }),
        ),
    ),
    "trials": (
        "SELECT participant_id AS participant, position, attempt, trial_id AS trial, kind, "
        "retest_of, check_id AS attention_check, preset, prompts_json AS prompts, left_arm, "
        "right_arm, gen_seed, state, void_reason, void_detail, revision, choice, "
        "CASE choice WHEN 'L' THEN left_arm = :first WHEN 'R' THEN right_arm = :first "
        "WHEN 'skip' THEN NULL WHEN 'tie' THEN 0.5 WHEN 'both_bad' THEN 0.5 END AS prefers_first, "
        "strength, reason, shown_ms, decided_ms, "
        "(SELECT SUM(n_tokens) FROM generation JOIN turn USING(turn_id) "
        " WHERE turn.trial_id = trial.trial_id AND side = 'L') AS tokens_left, "
        "(SELECT SUM(n_tokens) FROM generation JOIN turn USING(turn_id) "
        " WHERE turn.trial_id = trial.trial_id AND side = 'R') AS tokens_right, "
        "started_at, server_at AS voted_at "
        "FROM trial LEFT JOIN last_vote USING(trial_id) WHERE state IN ('voted', 'void')",
        (
            _PARTICIPANT,
            Column("position", "integer", "place in the participant's plan, from 1"),
            Column("attempt", "integer", "counts how often the trial was issued, from 1"),
            _TRIAL,
            Column("kind", "text", "what the trial is for", levels={
                "practice": "to get used to it", "main": "analysed",
                "attention": "a check that tells what to choose",
                "retest": "a main trial again, sides swapped",
            }),
            Column("retest_of", "integer", "position of the trial that is shown again"),
            Column("attention_check", "text", "id of the attention check"),
            Column("preset", "text", "preset, placement and strength"),
            Column("prompts", "text", "ids of the fixed prompts, a JSON list"),
            Column("left_arm", "text", "arm shown on the left"),
            Column("right_arm", "text", "arm shown on the right"),
            Column("gen_seed", "integer", "seed of the sampling, the same for both arms"),
            Column("state", "text", "whether it counts", levels={
                "voted": "has a vote", "void": "called off and issued again"
            }),
            Column("void_reason", "text", "why it was called off"),
            # A participant's report, or what failed, which may quote a message.
            Column("void_detail", "text", "what was said about it", typed=True),
            Column("revision", "integer", "how often the vote was given; the last is shown"),
            Column("choice", "text", "the vote", levels={
                "L": "left is better", "R": "right is better", "tie": "neither is better",
                "both_bad": "neither is any good", "skip": "no answer",
            }),
            Column("prefers_first", "number", "the study's first arm was preferred: 1 yes, 0 no, "
                   "0.5 tie or both bad; missing if skipped"),
            Column("strength", "integer", "strength of preference, 1 is the weakest"),
            Column("reason", "text", "why, in the participant's words", typed=True),
            Column("shown_ms", "integer", "from the trial's start until both answers were shown",
                   "ms"),
            Column("decided_ms", "integer", "from then until the vote", "ms"),
            Column("tokens_left", "integer", "length of the left answers", "tokens"),
            Column("tokens_right", "integer", "length of the right answers", "tokens"),
            Column("started_at", "text", "when the trial began", _TIME),
            Column("voted_at", "text", "when the vote was stored", _TIME),
        ),
    ),
    "turns": (
        "SELECT participant_id AS participant, trial_id AS trial, k AS turn, user_text, "
        "left_answer.output_text AS left_text, right_answer.output_text AS right_text, "
        "left_answer.stop_reason AS left_stop, right_answer.stop_reason AS right_stop, "
        "left_answer.ttft_ms AS left_ttft_ms, right_answer.ttft_ms AS right_ttft_ms, "
        "left_answer.details_json AS left_details, right_answer.details_json AS right_details "
        "FROM turn JOIN trial USING(trial_id) "
        "JOIN generation AS left_answer ON left_answer.turn_id = turn.turn_id "
        " AND left_answer.side = 'L' "
        "JOIN generation AS right_answer ON right_answer.turn_id = turn.turn_id "
        " AND right_answer.side = 'R'",
        (
            _PARTICIPANT,
            _TRIAL,
            Column("turn", "integer", "place in the conversation, from 1"),
            Column("user_text", "text", "the message", typed=True),
            # An answer may quote the message, so it is as private.
            Column("left_text", "text", "the answer on the left", typed=True),
            Column("right_text", "text", "the answer on the right", typed=True),
            Column("left_stop", "text", "why the left answer ended"),
            Column("right_stop", "text", "why the right answer ended"),
            Column("left_ttft_ms", "number", "time to the left answer's first token", "ms"),
            Column("right_ttft_ms", "number", "time to the right answer's first token", "ms"),
            Column("left_details", "text", "how the left answer was made, JSON"),
            Column("right_details", "text", "how the right answer was made, JSON"),
        ),
    ),
    "responses": (
        "SELECT participant_id AS participant, item_id AS item, MAX(revision) AS revision, "
        "value_json AS value, server_at AS answered_at FROM response "
        "GROUP BY participant_id, item_id",
        (
            _PARTICIPANT,
            Column("item", "text", "id of the question, with `@trial` if asked after each"),
            Column("revision", "integer", "how often it was answered; the last is shown"),
            Column("value", "text", "the answer, JSON", typed=True),
            Column("answered_at", "text", "when it was stored", _TIME),
        ),
    ),
    "events": (
        "SELECT participant_id AS participant, trial_id AS trial, kind, t_client_ms, server_at "
        "FROM event",
        (
            _PARTICIPANT,
            _TRIAL,
            Column("kind", "text", "what happened on the page"),
            Column("t_client_ms", "number", "on the page's monotonic clock", "ms"),
            Column("server_at", "text", "when it was stored", _TIME),
        ),
    ),
}  # fmt: skip


def tables(store: Store, profile: Profile) -> dict[str, list[Row]]:
    """All tables, of one moment, in a fixed order of rows."""
    with store.database.snapshot() as db:
        return tables_in(db, store.study, profile)


def tables_in(db: sqlite3.Connection, study: Study, profile: Profile) -> dict[str, list[Row]]:
    """The same, of the caller's moment."""
    typed_by_choice = {question.id for question in study.questions if question.kind != "text"}
    shared = dict(
        db.execute(
            "SELECT participant_id, share_text FROM participant "
            "JOIN consent USING(participant_id) WHERE status NOT IN ('withdrawn', 'erased')"
        ).fetchall()
    )
    return {
        name: [
            _shown(row, columns, profile, bool(shared[str(row["participant"])]), typed_by_choice)
            for row in _rows(db, query, study.arms[0])
            if row["participant"] in shared
        ]
        for name, (query, columns) in TABLES.items()
    }


def _rows(db: sqlite3.Connection, query: str, first: str) -> Iterator[Row]:
    found = db.execute(f"SELECT * FROM ({query}) ORDER BY 1, 2, 3", {"first": first})
    names = [column[0] for column in found.description]
    for row in found:
        yield dict(zip(names, row, strict=True))


def _shown(
    row: Row, columns: tuple[Column, ...], profile: Profile, shared: bool, harmless: set[str]
) -> Row:
    """The row without what this profile keeps back. harmless: questions that offer their answers,
    so that nothing was typed."""
    if profile == "full":
        return row
    shows_typed = (profile == "public" and shared) or (
        "item" in row and str(row["item"]).partition("@")[0] in harmless
    )
    return {column.name: _kept(row[column.name], column, shows_typed) for column in columns}


def _kept(value: Value, column: Column, shows_typed: bool) -> Value:
    if column.typed and not shows_typed:
        return None
    return value[:_DAY] if column.unit == _TIME and isinstance(value, str) else value


def codebook() -> dict[str, dict[str, dict[str, object]]]:
    """table -> column -> its type, unit, levels and meaning."""
    return {
        name: {
            column.name: {
                "type": column.kind,
                "meaning": column.meaning,
                **({"unit": column.unit} if column.unit else {}),
                **({"levels": dict(column.levels)} if column.levels else {}),
                "missing": "empty in CSV, null in JSON lines and Parquet",
            }
            for column in columns
        }
        for name, (_, columns) in TABLES.items()
    }


def vote_of(row: Mapping[str, Any], participant: str | None = None) -> Vote:
    """The vote of a row of `trials`, whose trial was voted on. participant: another name of who."""
    return Vote(
        trial=row["trial"],
        participant=participant or row["participant"],
        prompt=next(iter(json.loads(row["prompts"])), None),
        left=row["left_arm"],
        right=row["right_arm"],
        choice=row["choice"],
        preset=row["preset"] or "",
        position=row["position"] or 0,
        clarity=row["strength"],
        decided_ms=row["decided_ms"],
        tokens_left=row["tokens_left"],
        tokens_right=row["tokens_right"],
    )
