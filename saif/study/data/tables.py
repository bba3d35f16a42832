"""The tables of an export: what each column means, and the rows that may leave the store.

Recruitment ids are in none of them. Who withdrew or was erased is in none of them either, only in
the counts.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from saif.study.design.study_file import Study
from saif.study.participation.votes import Vote

Profile = Literal["full", "deidentified", "public"]
"""full: everything; deidentified: nothing that a participant typed; public: what was typed only by
those who agreed to that. Only in full are times more exact than a day: a recruitment service knows
to the second when somebody began."""

Kind = Literal["text", "integer", "number"]
Value = str | int | float | None
Row = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Column:
    """typed: it may hold what a participant wrote, so the profile decides whether it is shown.
    levels: the values it can have, with what they mean; empty for others. sql: where it comes from,
    if not from a column of the same name."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    levels: Mapping[str, str] | None = None
    typed: bool = False
    sql: str = ""


_PARTICIPANT = Column("participant", "text", "random id of the participant", sql="participant_id")
_TRIAL = Column(
    "trial", "text", "id of the trial: participant, position and attempt", sql="trial_id"
)
_PREFERS_FIRST = (
    "CASE choice WHEN 'L' THEN left_arm = :first WHEN 'R' THEN right_arm = :first "
    "WHEN 'skip' THEN NULL WHEN 'tie' THEN 0.5 WHEN 'both_bad' THEN 0.5 END"
)
_TOKENS = (
    "(SELECT SUM(n_tokens) FROM generation JOIN turn USING(turn_id) "
    " WHERE turn.trial_id = trial.trial_id AND side = '{}')"
)
_TIME = "ISO 8601, UTC; a day except in the full profile"
_DAY = len("2026-01-31")

_ANSWER: tuple[tuple[str, Kind, str, str, bool, str], ...] = (
    # An answer may quote the message, so it is as private.
    ("text", "text", "the answer on the {}", "", True, "output_text"),
    ("stop", "text", "why the {} answer ended", "", False, "stop_reason"),
    ("ttft_ms", "number", "time to the {} answer's first token", "ms", False, "ttft_ms"),
    ("details", "text", "how the {} answer was made, JSON", "", False, "details_json"),
)


def _table(source: str, *columns: Column) -> tuple[str, tuple[Column, ...]]:
    chosen = ", ".join(f"{column.sql or column.name} AS {column.name}" for column in columns)
    return f"SELECT {chosen} FROM {source}", columns


TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "participants": _table(
        "participant JOIN consent USING(participant_id)",
        _PARTICIPANT,
        Column("source", "text", "where they were recruited"),
        Column("version", "text", "sha256 of the published study they took part in",
               sql="version_id"),
        Column("cell", "text", "cell of the plan: row of the square, and side"),
        Column("plan_seed", "text", "what their plan was drawn from"),
        Column("status", "text", "how far they came"),
        Column("created_at", "text", "when they consented", _TIME),
        Column("share_text", "integer", "their texts may be published",
               levels={"1": "yes", "0": "no"}),
    ),
    "trials": _table(
        "trial LEFT JOIN last_vote USING(trial_id) WHERE state IN ('voted', 'void')",
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
        Column("attention_check", "text", "id of the attention check", sql="check_id"),
        Column("preset", "text", "preset, placement and strength"),
        Column("prompts", "text", "ids of the fixed prompts, a JSON list", sql="prompts_json"),
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
               "0.5 tie or both bad; missing if skipped", sql=_PREFERS_FIRST),
        Column("strength", "integer", "strength of preference, 1 is the weakest"),
        Column("reason", "text", "why, in the participant's words", typed=True),
        Column("shown_ms", "integer", "from the trial's start until both answers were shown", "ms"),
        Column("decided_ms", "integer", "from then until the vote", "ms"),
        Column("tokens_left", "integer", "length of the left answers", "tokens",
               sql=_TOKENS.format("L")),
        Column("tokens_right", "integer", "length of the right answers", "tokens",
               sql=_TOKENS.format("R")),
        Column("started_at", "text", "when the trial began", _TIME),
        Column("voted_at", "text", "when the vote was stored", _TIME, sql="server_at"),
    ),
    "turns": _table(
        "turn JOIN trial USING(trial_id) "
        "JOIN generation AS l ON l.turn_id = turn.turn_id AND l.side = 'L' "
        "JOIN generation AS r ON r.turn_id = turn.turn_id AND r.side = 'R'",
        _PARTICIPANT,
        _TRIAL,
        Column("turn", "integer", "place in the conversation, from 1", sql="k"),
        Column("user_text", "text", "the message", typed=True),
        *(
            Column(f"{side}_{name}", kind, meaning.format(side), unit, typed=typed,
                   sql=f"{side[0]}.{sql}")
            for name, kind, meaning, unit, typed, sql in _ANSWER
            for side in ("left", "right")
        ),
    ),
    "responses": _table(
        "response GROUP BY participant_id, item_id",
        _PARTICIPANT,
        Column("item", "text", "id of the question, with `@trial` if asked after each",
               sql="item_id"),
        Column("revision", "integer", "how often it was answered; the last is shown",
               sql="MAX(revision)"),
        Column("value", "text", "the answer, JSON", typed=True, sql="value_json"),
        Column("answered_at", "text", "when it was stored", _TIME, sql="server_at"),
    ),
    "events": _table(
        "event",
        _PARTICIPANT,
        _TRIAL,
        Column("kind", "text", "what happened on the page"),
        Column("t_client_ms", "number", "on the page's monotonic clock", "ms"),
        Column("server_at", "text", "when it was stored", _TIME),
    ),
}  # fmt: skip


def tables_in(
    db: sqlite3.Connection, study: Study, profile: Profile, names: Iterable[str] = TABLES
) -> dict[str, list[Row]]:
    """Tables, of the caller's moment, in a fixed order of rows."""
    typed_by_choice = {question.id for question in study.questions if question.kind != "text"}
    shared = dict(
        db.execute(
            "SELECT participant_id, share_text FROM participant "
            "JOIN consent USING(participant_id) WHERE status NOT IN ('withdrawn', 'erased')"
        ).fetchall()
    )
    first = {"first": study.arms[0]}
    return {
        name: [
            _shown(row, columns, profile, bool(shared[str(row["participant"])]), typed_by_choice)
            for row in map(dict, db.execute(f"SELECT * FROM ({query}) ORDER BY 1, 2, 3", first))
            if row["participant"] in shared
        ]
        for name, (query, columns) in ((name, TABLES[name]) for name in names)
    }


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
