"""Exports: the same cells in three formats, nothing private, and the same statistics when read."""

import csv
import io
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_participants import (
    answers,
    cast,
    complete,
    made_ready,
    make_store,
    person,
    rows,
    walk,
)
from read_exports import check_sums, read_votes
from stored_votes import votes

from saif.errors import InputError, StudyError
from saif.study.analysis.estimates import estimate, estimate_two_way, icc, sign_flip_p
from saif.study.data.export import (
    _CODECS,
    export,
    guarded,
    read_table,
    sums_of,
)
from saif.study.data.tables import TABLES, Column, codebook
from saif.study.durability.erasure import withdraw
from saif.study.participation.events import note_event
from saif.study.participation.steps import add_exchange, begin, call_off, finish, respond
from saif.study.participation.votes import Choice, preference_scores
from saif.study.store.identities import Person
from saif.study.store.store import Store
from saif.study.store.trials import Trial

NASTY = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "\nx",
    "'quoted",
    "''",
    "",
    "a,b;c",
    'say "hi"',
    "two\r\nlines\nand\rone",
    "עברית ‮ RTL",
    "🙂 e\u0301",
    "nul \x00 inside",
    "None",
    "NaN",
    "007",
    "\u2028",
]
FORMATS = sorted(_CODECS)


def talk(store: Store, name: str, said: str, *, share: bool = True) -> str:
    """A participant who types `said` wherever they can."""
    entry = store.enrol(person(name), share_text=share)
    note_event(store, entry.token, "shown", t_client_ms=0.1 + 0.2)
    trial = begin(store, entry.token)
    assert trial is not None
    call_off(store, entry.token, trial.trial_id, "failed", detail=said)
    while (trial := begin(store, entry.token)) is not None:
        if trial.state == "running":
            message = said or "nothing"
            trial = add_exchange(store, entry.token, trial.trial_id, answers(trial, said), message)
        choice = "tie" if trial.position % 3 == 0 and trial.kind == "main" else "L"
        cast(store, entry.token, trial, choice, reason=said, decided_ms=12)
    respond(store, entry.token, "remarks", said)
    finish(store, entry.token)
    return entry.participant_id


def chatting(tmp_path: Path) -> Store:
    return make_store(tmp_path, prompts={"kind": "free", "task": "Chat."})


# Formats


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(), st.sampled_from(NASTY)), max_size=8))
def test_any_text_comes_back_from_any_format(texts: list[str | None]) -> None:
    columns = (Column("a", "text", ""), Column("b", "integer", ""), Column("c", "number", ""))
    table = [
        {"a": text, "b": None if i % 3 else -i, "c": None if i % 2 else i / 7}
        for i, text in enumerate(texts)
    ]
    for name in FORMATS:
        assert _CODECS[name][1](_CODECS[name][0](table, columns), columns) == table, name


@pytest.mark.parametrize("text", NASTY)
def test_no_cell_begins_as_a_formula(text: str) -> None:
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert guarded(-0.5) == "-0.5"  # a number is one


def test_ten_thousand_rows_are_the_same_in_all_formats() -> None:
    columns = TABLES["responses"][1]
    table = [
        {
            "participant": f"p{i}",
            "item": NASTY[i % len(NASTY)],
            "revision": i,
            "value": NASTY[i * 7 % len(NASTY)] + str(i),
            "answered_at": None,
        }
        for i in range(10_000)
    ]
    for name in FORMATS:
        assert _CODECS[name][1](_CODECS[name][0](table, columns), columns) == table, name


def test_an_ordinary_reader_understands_the_csv(tmp_path: Path) -> None:
    import pandas as pd

    store = make_store(tmp_path)
    complete(store)
    export(store, tmp_path / "out", actor="me")
    frame = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert list(frame.columns) == [column.name for column in TABLES["trials"][1]]
    assert frame["prefers_first"].dropna().isin([0, 0.5, 1]).all()
    assert len(frame) == 5


# A whole export


def test_the_formats_of_a_study_agree_cell_by_cell(tmp_path: Path) -> None:
    store = chatting(tmp_path)
    for number, said in enumerate(NASTY[:12]):
        talk(store, str(number), said)
    export(store, tmp_path / "out", profile="full", actor="me")
    check_sums(tmp_path / "out")
    for name in TABLES:
        read = [read_table(tmp_path / "out" / f"{name}.{suffix}") for suffix in FORMATS]
        assert read[0] == read[1] == read[2]
        assert read[0], name
    trials = read_table(tmp_path / "out" / "trials.csv")
    assert {row["reason"] for row in trials if row["state"] == "voted"} == set(NASTY[:12])
    assert {row["state"] for row in trials} == {"voted", "void"}
    said = {row["user_text"] for row in read_table(tmp_path / "out" / "turns.jsonl")}
    assert said == {text or "nothing" for text in NASTY[:12]}


def right(trial: Trial) -> Choice:
    return "R"


def test_statistics_of_an_export_are_those_of_the_store(tmp_path: Path) -> None:
    store = make_store(tmp_path, trials__main=6)
    for number in range(6):
        complete(store, number, (lambda trial: "LR"[trial.position % 2]) if number % 2 else right)
    entry = store.enrol(person("revises"), share_text=False)
    walk(store, entry.token, lambda trial: "tie" if trial.kind == "main" else "L")
    export(store, tmp_path / "out", actor="me")
    wanted = votes(store)
    assert len(wanted) == 42
    for suffix in FORMATS:
        found = read_votes(tmp_path / "out" / f"trials.{suffix}")
        assert sorted(found, key=str) == sorted(wanted, key=str)
        for analyse in (estimate, estimate_two_way, icc, sign_flip_p):
            assert analyse(preference_scores(found, "steered")) == analyse(
                preference_scores(wanted, "steered")
            )
    column = [
        row["prefers_first"]
        for row in read_table(tmp_path / "out" / "trials.parquet")
        if row["kind"] == "main"
    ]
    scores = [score.value for score in preference_scores(wanted, "steered")]
    assert sorted(map(float, column)) == sorted(scores)  # type: ignore[arg-type]


def test_rows_that_were_pasted_twice_are_refused_by_the_statistics(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    export(store, tmp_path / "out", actor="me")
    path = tmp_path / "out" / "trials.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(InputError, match="more than one vote"):
        preference_scores(read_votes(path), "steered")


def test_who_withdrew_or_was_erased_is_only_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    kept, withdrawn, erased = (complete(store, name) for name in ("kept", "drawn", "gone"))
    withdraw(store, withdrawn, "analysis", actor="participant")
    withdraw(store, erased, "erase", actor="participant")
    export(store, tmp_path / "out", profile="full", actor="me")
    for name in TABLES:
        content = (tmp_path / "out" / f"{name}.jsonl").read_text("utf-8")
        assert withdrawn not in content
        assert erased not in content
    assert kept in (tmp_path / "out" / "trials.csv").read_text("utf-8")
    counts = json.loads((tmp_path / "out" / "consort.json").read_text("utf-8"))
    assert (counts["complete"], counts["withdrawn"], counts["erased"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("profile", "shown"),
    [("full", {"shares", "keeps"}), ("public", {"shares"}), ("deidentified", set())],
)
def test_what_was_typed_leaves_only_as_the_profile_says(
    tmp_path: Path, profile: str, shown: set[str]
) -> None:
    store = chatting(tmp_path)
    talk(store, "one", "CANARY-shares", share=True)
    talk(store, "two", "CANARY-keeps", share=False)
    export(store, tmp_path / "out", profile=profile, actor="me")  # type: ignore[arg-type]
    for path in (tmp_path / "out").iterdir():
        for word in ("shares", "keeps"):
            if f"CANARY-{word}".encode() in path.read_bytes():
                assert word in shown
    text = (tmp_path / "out" / "turns.jsonl").read_text("utf-8")
    assert {word for word in ("shares", "keeps") if f"CANARY-{word}" in text} == shown
    called_off = [row for row in read_table(tmp_path / "out" / "trials.csv") if row["void_reason"]]
    details = {row["void_detail"] for row in called_off}
    assert details - {None} == {f"CANARY-{word}" for word in shown}


def test_answers_that_were_offered_are_in_every_profile(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token = store.enrol(person(), share_text=False).token
    trial = made_ready(store, token)
    cast(store, token, trial)
    respond(store, token, "fluent", 2, trial_id=trial.trial_id)
    respond(store, token, "fluent", 4, trial_id=trial.trial_id)  # the last answer counts
    respond(store, token, "remarks", "private")
    export(store, tmp_path / "out", actor="me")
    told = {row["item"]: row["value"] for row in read_table(tmp_path / "out" / "responses.csv")}
    assert told == {f"fluent@{trial.trial_id}": "4", "remarks": None}


@pytest.mark.parametrize("profile", ["full", "public", "deidentified"])
def test_no_recruitment_id_leaves(tmp_path: Path, profile: str) -> None:
    store = make_store(tmp_path, recruitment={
        "kind": "prolific", "complete": "AAAA", "screened_out": "BBBB", "no_consent": "CCCC",
        "partial": "DDDD",
    })  # fmt: skip
    pids = [f"5a9d64f5f6dfdd0001ea{number:04x}" for number in range(4)]
    for pid in pids:
        walk(store, store.enrol(Person("prolific", pid), share_text=True).token)
    hashes = [row[0].hex() for row in rows(store, "SELECT pid_hmac FROM participant")]
    export(store, tmp_path / "out", profile=profile, actor="me")  # type: ignore[arg-type]
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert not any(text.encode() in content for text in [*pids, *hashes])


def test_an_export_is_noted_and_its_checksums_are_checked(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    out = tmp_path / "out"
    export(store, out, actor="researcher")
    assert rows(store, "SELECT actor, object FROM audit WHERE action = 'export'") == [
        ("researcher", "out")
    ]
    check_sums(out)
    with pytest.raises(StudyError, match="not empty"):
        export(store, out, actor="researcher")
    with pytest.raises(StudyError, match="is no export"):
        sums_of(tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_damaged_table_is_refused_in_words(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"trials.{suffix}"
    for content in (b"\xff\xfe", b"{}", b"a,b\r\n1,2\r\n", b'"'):
        path.write_bytes(content)
        with pytest.raises(StudyError, match=r"trials\.\w+ can't be read"):
            read_table(path)
    with pytest.raises(StudyError, match="not a table"):
        read_table(tmp_path / f"secrets.{suffix}")


def test_the_codebook_tells_of_every_column(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    export(store, tmp_path / "out", actor="me")
    page = (tmp_path / "out" / "codebook.md").read_text("utf-8")
    for name, columns in codebook().items():
        header = next(
            csv.reader(io.StringIO((tmp_path / "out" / f"{name}.csv").read_text("utf-8")))
        )
        assert header == list(columns)
        assert f"## {name}" in page
        for column, about in columns.items():
            assert about["meaning"]
            assert f"| {column} |" in page
    levels = codebook()["trials"]["choice"]["levels"]
    assert set(levels) == {"L", "R", "tie", "both_bad", "skip"}  # type: ignore[call-overload]
    description = json.loads((tmp_path / "out" / "dataset_description.json").read_text("utf-8"))
    assert "prefers_first" in description["variableMeasured"]


def test_an_export_while_others_vote_is_of_one_moment(tmp_path: Path) -> None:
    """Whoever answered the last question has all votes in the same export."""
    store = make_store(tmp_path)
    done = threading.Event()

    def busy() -> None:
        for number in range(8):
            complete(store, number)
        done.set()

    thread = threading.Thread(target=busy)
    thread.start()
    number = 0
    while not done.is_set() or number == 0:
        folder = tmp_path / f"out-{number}"
        export(store, folder, profile="full", actor="me")
        complete_ones = {row["participant"] for row in read_table(folder / "responses.csv")}
        trials = read_table(folder / "trials.csv")
        for name in complete_ones:
            assert sum(row["participant"] == name for row in trials) == 5
        known = {row["participant"] for row in read_table(folder / "participants.csv")}
        assert {row["participant"] for row in trials} <= known
        counted = json.loads((folder / "consort.json").read_text("utf-8"))
        statuses = [row["status"] for row in read_table(folder / "participants.csv")]
        assert counted["complete"] == statuses.count("complete")
        number += 1
    thread.join()
