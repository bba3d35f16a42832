"""The study file is read strictly, doubted in words, and frozen by its hashes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up_studies import EXAMPLE, LIBRARY, MODEL_FOLDER, plain, small_library, study
from pydantic import ValidationError

from saif.errors import InputError, StudyError
from saif.study.design.check import check
from saif.study.design.publish import (
    canonical,
    check_fingerprint,
    check_presets,
    publish,
    read_version,
    versions,
)
from saif.study.design.questions import check_answer
from saif.study.design.study_file import Study, read_study

# The file


def test_the_example_that_ships_is_valid_and_publishable() -> None:
    found = read_study(EXAMPLE)
    assert found.arms == ["steered", "unsteered"]
    assert {finding.field for finding in check(found, LIBRARY)} == {"ethics.irb", "prompts.items"}


PROMPTS = plain()["prompts"]["items"]
DAMAGES: list[tuple[str, dict[str, Any]]] = [
    ("colour", {"colour": "red"}),
    ("trials.colour", {"trials__colour": "red"}),
    ("id", {"id": "../etc/passwd"}),
    ("id", {"id": "Two Answers"}),
    ("id", {"id": 7}),
    ("schema_version", {"schema_version": 2}),
    ("seed", {"seed": "12"}),
    ("seed", {"seed": -1}),
    ("arms", {"arms": ["steered"]}),
    ("arms", {"arms": ["steered", "steered"]}),
    ("arms (item 2)", {"arms": ["steered", "placebo"]}),
    ("other", {"arms": ["steered", "other"]}),
    ("other", {"other": {"preset": "letter", "placement": "pre"}}),
    ("presets", {"presets": []}),
    ("presets", {"presets": [{"preset": "letter", "placement": "pre"}] * 2}),
    ("presets (item 1).placement", {"presets": [{"preset": "letter", "placement": "middle"}]}),
    (
        "presets (item 1).strength",
        {"presets": [{"preset": "letter", "placement": "pre", "strength": float("nan")}]},
    ),
    (
        "presets (item 1).strength",
        {"presets": [{"preset": "letter", "placement": "pre", "strength": 99.0}]},
    ),
    ("trials.main", {"trials__main": 0}),
    ("trials.main", {"trials__main": True}),
    ("trials.main", {"trials__main": 2.5}),
    (
        "trials.main",
        {
            "trials__main": 7,
            "presets": [{"preset": "letter", "placement": place} for place in ("pre", "post")],
        },
    ),
    ("trials.retest", {"trials__retest": 9}),
    ("prompts.items", {"trials__turns": 2}),
    ("prompts.practice", {"trials__practice": 2}),
    ("prompts.items 'a'.text", {"prompts__items": [{"id": "a", "text": ""}]}),
    ("prompts", {"prompts__items": [*PROMPTS, PROMPTS[0]]}),
    ("prompts", {"prompts": {"kind": "chess"}}),
    ("preference.strength", {"preference__strength": list("abcdefgh")}),
    ("questions 'a'", {"questions": [{"kind": "colour", "id": "a", "text": "?"}]}),
    (
        "questions",
        {"questions": [{"kind": "text", "id": "a", "when": "end", "text": "?"}] * 2},
    ),
    (
        "questions 'a'",
        {"questions": [{"kind": "choice", "id": "a", "when": "end", "text": "?",
                        "options": ["x", "x"]}]},
    ),
    (
        "questions 'a'.options (item 1)",
        {"questions": [{"kind": "choice", "id": "a", "when": "end", "text": "?",
                        "options": [True, False]}]},
    ),
    (
        "questions 'a'.points",
        {"questions": [{"kind": "likert", "id": "a", "when": "end", "text": "?", "points": 1,
                        "low": "x", "high": "y"}]},
    ),
    ("attention", {"attention": [{"id": "a", "after": 9, "answer": "L", "text": "left"}]}),
    ("attention 'a'.answer",
     {"attention": [{"id": "a", "after": 1, "answer": "?", "text": "left"}]}),
    ("consent.locale", {"consent__locale": "English"}),
    ("consent.version", {"consent__version": 1}),
    ("ethics.contact", {"ethics__contact": ""}),
    ("recruitment", {"recruitment": {"kind": "friends"}}),
    ("recruitment.partial", {"recruitment": {"kind": "prolific", "complete": "AAAA",
                                      "screened_out": "BBBB", "no_consent": "CCCC"}}),
    ("recruitment", {"recruitment": {"kind": "prolific", "complete": "AAAA",
                              "screened_out": "AAAA", "no_consent": "CCCC", "partial": "DDDD"}}),
    ("quota.complete", {"quota__complete": 1}),
    ("retention_days", {"retention_days": 0}),
    ("generation.temperature", {"generation__temperature": float("inf")}),
    ("failed_checks", {"failed_checks": -1}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "changes"), DAMAGES, ids=lambda value: str(value)[:40])
def test_a_damaged_study_is_refused_by_field(
    tmp_path: Path, field: str, changes: dict[str, Any]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(plain(**changes)), "utf-8")
    with pytest.raises(StudyError) as caught:
        read_study(path)
    message = str(caught.value)
    assert message.startswith(f"study.yaml: {field}") or f" {field}: " in message
    assert "\n" not in message


@pytest.mark.parametrize("field", sorted(set(plain()) - {
    "generation", "questions", "attention", "failed_checks", "resume"
}))  # fmt: skip
def test_what_has_no_default_must_be_given(tmp_path: Path, field: str) -> None:
    made = plain()
    del made[field]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(made), "utf-8")
    with pytest.raises(StudyError, match=rf"study.yaml: {field}: is missing"):
        read_study(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"42", b"- a", b"id: [", b"a: 2026-99-99", b"\xff\xfe\x00", b"[" * 1500, b"!!python/x y"],
)
def test_what_is_no_study_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(StudyError) as caught:
        read_study(path)
    assert "\n" not in str(caught.value)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(EXAMPLE.read_text("utf-8") + "\nretention_days: 3\n", "utf-8")
    with pytest.raises(StudyError, match="'retention_days' is given twice"):
        read_study(path)


def test_a_file_that_is_too_large_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(StudyError, match="larger than"):
        read_study(path)
    with pytest.raises(StudyError, match="can't be read"):
        read_study(tmp_path / "none.yaml")


# Answers to questions


def test_an_answer_must_fit_its_question() -> None:
    adult, fluent, guess, french, remarks = study().questions
    for question, good, bad in [
        (adult, ["18 or older", "younger than 18"], ["17", None]),
        (fluent, [1, 5, None], [0, 6, "3", True, 2.0]),
        (guess, ["L", "R", "unsure"], ["tie", None, 1]),
        (french, ["none", "well"], ["Well", "", None, ["well"]]),
        (remarks, ["", "x" * 1000, None], ["x" * 1001, 5, "\ud800"]),
    ]:
        for value in good:
            check_answer(question, value)
        for value in bad:
            with pytest.raises(InputError, match=f"no answer to '{question.id}'"):
                check_answer(question, value)


def test_the_choices_are_those_offered() -> None:
    assert study().preference.choices == ("L", "R", "tie", "both_bad", "skip")
    made = study(preference__tie=False, preference__both_bad=False)
    assert made.preference.choices == ("L", "R", "skip")


SCREEN = {"kind": "choice", "id": "a", "when": "start", "text": "?", "options": ["x", "y", "z"]}


def test_only_a_required_choice_at_the_start_screens_out() -> None:
    made = study(questions=[{**SCREEN, "accept": ["x", "y"]}]).questions[0]
    assert made.kind == "choice"
    assert [made.screens_out(value) for value in ("x", "y", "z")] == [False, False, True]
    asked = study(questions=[SCREEN]).questions[0]
    assert asked.kind == "choice"
    assert not asked.screens_out("z")
    for wrong in (
        {"accept": ["x"], "when": "end"},
        {"accept": ["x"], "required": False},
        {"accept": ["other"]},
        {"accept": ["x", "y", "z"]},
        {"accept": []},
    ):
        with pytest.raises(ValidationError, match="accept"):
            study(questions=[{**SCREEN, **wrong}])


# Doubts


def fields_of(made: Study, severity: str) -> set[str]:
    return {one.field for one in check(made, LIBRARY) if one.severity == severity}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("presets 'no-such/pre/1'", {"presets": [{"preset": "no-such", "placement": "pre"}]}),
        ("presets 'translate-french/post/1'", {"model": "google/gemma-2-2b-it"}),
        ("title", {"title": "Do you prefer steered answers?"}),
        ("id", {"id": "translate-french-study"}),
        ("preference.text", {"preference__text": "Which preset is better?"}),
        ("consent.text", {"consent__text": "We compare a steered model with another."}),
        (
            "other",
            {
                "arms": ["steered", "other"],
                "other": {"preset": "translate-french", "placement": "post", "strength": 1.0},
            },
        ),
        ("prompts.task", {"prompts": {"kind": "free", "task": "Find out what was steered."}}),
        (
            "questions 'a'",
            {"questions": [{"kind": "text", "id": "a", "when": "trial", "text": "Unsteered?"}]},
        ),
    ],
)
def test_what_is_wrong_is_said_and_keeps_the_study_from_being_published(
    tmp_path: Path, field: str, changes: dict[str, Any]
) -> None:
    made = study(**changes)
    assert fields_of(made, "wrong") == {field}
    with pytest.raises(StudyError, match=f"wrong: {field}"):
        publish(made, LIBRARY, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("arms", {"arms": ["unsteered", "steered"]}),
        ("title", {"title": "About translate-french"}),
        ("questions", {"questions": []}),
        ("consent.text", {"consent__text": "Just click."}),
        ("debrief", {"debrief": "Thank you."}),
        ("consent.ask_to_share", {"prompts": {"kind": "free", "task": "Chat."},
                                  "consent__ask_to_share": False}),
        ("trials.main", {"trials__main": 7}),
        ("trials.practice", {"trials__practice": 0}),
        ("trials.retest", {"trials__retest": 0}),
        ("attention", {"attention": []}),
        ("failed_checks", {"failed_checks": 2}),
        ("quota.complete", {"quota__complete": 14}),
        (
            "attention",
            {
                "attention": plain()["attention"][:1],
                "failed_checks": 0,
                "recruitment": {"kind": "prolific", "complete": "AAAA", "screened_out": "BBBB",
                                "no_consent": "CCCC", "partial": "DDDD"},
            },
        ),
    ],
)  # fmt: skip
def test_what_is_doubtful_is_said(field: str, changes: dict[str, Any]) -> None:
    made = study(**changes)
    assert field in fields_of(made, "doubtful") - fields_of(study(), "doubtful")
    assert not fields_of(made, "wrong")


def test_a_consent_text_that_says_little_is_told_what_it_lacks() -> None:
    missing = [
        finding.message
        for finding in check(study(consent__text="This research takes ten minutes."), LIBRARY)
        if finding.field == "consent.text"
    ]
    assert any("withdraw" in message for message in missing)
    assert not any("this is research" in message for message in missing)


# Publishing


def test_a_version_is_known_by_its_hashes(tmp_path: Path) -> None:
    library = small_library(tmp_path / "presets")
    version, path = publish(study(), library, tmp_path / "out", code="abc")
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == version.id
    assert canonical(json.loads(content)) == content.decode()
    assert version.study == study()
    text = study().consent.text.encode()
    assert version.consent_sha256 == hashlib.sha256(text).hexdigest()
    for name, sha256 in version.presets.items():
        file = (library.root / MODEL_FOLDER / name).read_bytes()
        assert hashlib.sha256(file).hexdigest() == sha256
    assert set(version.presets) == {"translate-french.json", "translate-french.safetensors"}
    assert read_version(path) == version
    assert read_version(path, version_id=version.id) == version


def test_publishing_the_same_again_makes_no_new_version(tmp_path: Path) -> None:
    library = small_library(tmp_path / "presets")
    first, path = publish(study(), library, tmp_path / "out")
    before = path.stat().st_mtime_ns
    assert publish(study(), library, tmp_path / "out") == (first, path)
    assert path.stat().st_mtime_ns == before
    second, other = publish(study(title="Which do you like?"), library, tmp_path / "out")
    assert (second.number, other.name) == (2, "version-002.json")
    assert versions(tmp_path / "out") == [first, second]
    assert first.id != second.id


def test_a_crash_while_publishing_is_mended_by_publishing_again(tmp_path: Path) -> None:
    library = small_library(tmp_path / "presets")
    version, path = publish(study(), library, tmp_path / "out")
    path.unlink()  # only the checksum had been written
    assert publish(study(), library, tmp_path / "out") == (version, path)
    assert versions(tmp_path / "out") == [version]


@pytest.mark.parametrize("place", ["title", "consent", "hash"])
def test_an_edited_version_is_refused(tmp_path: Path, place: str) -> None:
    library = small_library(tmp_path / "presets")
    version, path = publish(study(), library, tmp_path / "out")
    content = json.loads(path.read_bytes())
    if place == "title":
        content["study"]["title"] = "Another title"
    elif place == "consent":
        content["study"]["consent"]["text"] += " And your soul."
    path.write_text(canonical(content), "utf-8")
    sums = path.with_suffix(".sha256")
    if place == "hash":
        sums.write_text("0" * 64, "utf-8")
    for again in (lambda: read_version(path), lambda: publish(study(), library, tmp_path / "out")):
        with pytest.raises(StudyError, match="was changed after it was published"):
            again()
    # Whoever also forges the checksum is found out by the id that the votes carry.
    if place == "title":
        sums.write_text(hashlib.sha256(path.read_bytes()).hexdigest(), "utf-8")
        assert read_version(path).id != version.id
        with pytest.raises(StudyError, match="was changed"):
            read_version(path, version_id=version.id)
    if place == "consent":  # its own hash is inside, too
        sums.write_text(hashlib.sha256(path.read_bytes()).hexdigest(), "utf-8")
        with pytest.raises(StudyError, match="was changed"):
            read_version(path)


def test_a_version_written_in_another_way_is_refused(tmp_path: Path) -> None:
    """Its id would no longer be the checksum of its file."""
    version, path = publish(study(), small_library(tmp_path / "presets"), tmp_path / "out")
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1), "utf-8")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".sha256").write_text(sha256, "utf-8")
    for version_id in (None, version.id):
        with pytest.raises(StudyError, match="was changed"):
            read_version(path, version_id=version_id)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"number": 1}'])
def test_what_is_no_version_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "version-001.json"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=r"version-001"):
        read_version(path)
    path.with_suffix(".sha256").write_text(hashlib.sha256(content).hexdigest(), "utf-8")
    with pytest.raises(StudyError, match="is no version: ") as caught:
        read_version(path)
    assert "\n" not in str(caught.value)


def test_another_study_is_not_published_into_the_same_folder(tmp_path: Path) -> None:
    publish(study(), LIBRARY, tmp_path)
    with pytest.raises(StudyError, match="holds the study 'two-answers'"):
        publish(study(id="another"), LIBRARY, tmp_path)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_preset_that_changed_since_is_refused(tmp_path: Path, suffix: str) -> None:
    library = small_library(tmp_path / "presets")
    version, _ = publish(study(), library, tmp_path / "out")
    check_presets(version, library)
    path = library.root / MODEL_FOLDER / f"translate-french{suffix}"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(StudyError, match=f"translate-french{suffix} is not the file"):
        check_presets(version, library)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    version, _ = publish(study(), LIBRARY, tmp_path)
    check_fingerprint(version, version.fingerprint)
    with pytest.raises(StudyError, match="not those the study was published with"):
        check_fingerprint(version, "0000")


def test_a_study_file_s_problems_are_told_in_words_and_together(tmp_path: Path) -> None:
    made = plain(preference__bothbad=True, preference__strength=[1, 2])
    made["arm"] = made.pop("arms")
    made["prompts"]["practice"] = None
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(made), "utf-8")
    with pytest.raises(StudyError) as caught:
        read_study(path)
    assert str(caught.value) == (
        "study.yaml: preference.bothbad: is not known here; did you mean 'both_bad'?; "
        "arm: is not known here; did you mean 'arms'?; arms: is missing; "
        "prompts.practice: must be a list; for an empty one, write []; and 2 more."
    )
    path.write_text("schema_version: 1\nquota:\n\tcomplete: 3\n", "utf-8")
    with pytest.raises(StudyError) as caught:
        read_study(path)
    assert caught.value.hint == "Use spaces there instead of a tab."


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("title", {"title": "Do you prefer the translated answer?"}),
        ("questions 'own'", {"questions": [
            {"kind": "choice", "id": "own", "when": "trial", "text": "Which?",
             "options": ["the translation", "the other"]}]}),
    ],
)  # fmt: skip
def test_what_the_preset_is_about_may_tell(field: str, changes: dict[str, Any]) -> None:
    made = study(presets=[{"preset": "translate-french", "placement": "post"}], **changes)
    told = {found.field: found for found in check(made, LIBRARY)}
    assert "may tell" in told[field].message
    assert told[field].severity == "doubtful"


def test_a_message_that_is_there_twice_is_doubtful() -> None:
    items = [{"id": f"item-{i}", "text": "The same." if i < 2 else f"Text {i}."} for i in range(12)]
    found = check(study(prompts__items=items), LIBRARY)
    assert "'The same.' is there 2 times." in {one.message for one in found}
