"""Blind on the wire: nothing but the answers' own text could tell which answer is which."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_participants import rows
from running_study import FREE, Running, served
from wire import Seen, accuracy, watch

from saif.study.server.participant import FOLDER

TELLING = re.compile(rb"steer|preset|latent|feature|strength|layer|\barm\b|french", re.I)
CONSENT = (
    "This is a research study. You will read answers for ten minutes. There is no risk and no "
    "benefit. We store your votes and delete them after a year. It is voluntary; you may withdraw. "
    "You are paid. Questions: contact us."
)


def collected(running: Running, n: int) -> list[Seen]:
    """Trials of as many visitors as it takes."""
    found: dict[str, tuple[float, ...]] = {}
    number = 0
    while len(found) < n:
        visitor = running.visitor(f"visitor-{number}")
        number += 1
        visitor.agree()
        while (page := visitor.ask("next"))["page"] == "trial":
            trial, numbers = watch(visitor)
            if numbers:
                found[trial] = numbers
        assert page["page"] == "end_questions"
    first = running.store.study.arms[0]
    sides = dict(rows(running.store, "SELECT trial_id, left_arm = ? FROM trial", first))
    return [Seen(numbers, bool(sides[trial])) for trial, numbers in found.items()]


def watched(folder: Path, n: int) -> list[Seen]:
    with served(
        folder, trials__main=6, trials__retest=1, generation__max_new_tokens=6, questions=[
            {"kind": "guess", "id": "guess", "text": "Which one was it?"}
        ],
    ) as running:  # fmt: skip
        return collected(running, n)


@pytest.mark.extended
def test_a_classifier_of_all_but_the_text_can_only_guess(tmp_path: Path) -> None:
    seen = watched(tmp_path, 240)
    assert 0.4 < accuracy(seen) < 0.6  # three standard deviations of guessing
    # It would have found a wait that is longer by a millisecond where the left answer is steered.
    leaky = [
        replace(one, numbers=(one.numbers[0] + 0.1 * one.first_left, *one.numbers[1:]))
        for one in seen
    ]
    assert accuracy(leaky) > 0.9


@pytest.mark.slow
def test_a_classifier_is_right_in_half_of_thousands_of_trials(tmp_path: Path) -> None:
    # Of a thousand, guessing alone would be 3 % off every sixteenth time; of these, hardly ever.
    assert abs(accuracy(watched(tmp_path, 2500)) - 0.5) <= 0.03


def test_no_word_on_the_wire_names_a_condition_before_the_end(tmp_path: Path) -> None:
    with served(
        tmp_path, consent__text=CONSENT, preference__text="Which answer is better?"
    ) as running:
        visitor = running.visitor()
        visitor.heard.append(visitor.client.get(visitor.page).content)
        for path in sorted((FOLDER / "static").iterdir()):
            reply = visitor.client.get(f"{running.url}/static/{path.name}")
            assert reply.status_code == 200
            visitor.heard.append(reply.content)
        visitor.agree()
        while (page := visitor.ask("next"))["page"] != "finish":
            if page["page"] == "trial":
                watch(visitor)
                continue
            for question in page["questions"]:
                value = {"likert": 3, "guess": "unsure", "text": "none"}[question["kind"]]
                trial_id = page.get("trial", {}).get("id")
                visitor.ask("respond", question=question["id"], value=value, trial=trial_id)
        answers = [
            row[0].encode() for row in rows(running.store, "SELECT output_text FROM generation")
        ]
        for heard in visitor.heard:
            found = TELLING.search(heard)
            assert found is None, heard[max(found.start() - 80, 0) : found.end() + 80]
        assert answers


def test_every_participant_gets_the_same_page(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        first, second = running.visitor("visitor-1"), running.visitor("visitor-2")
        for visitor in (first, second):
            visitor.agree()
        pages = {one.client.get(one.page, params=one.query).content for one in (first, second)}
        assert len(pages) == 1


def test_each_side_is_steered_equally_often(tmp_path: Path) -> None:
    with served(tmp_path, trials__main=4, attention=[]) as running:
        for number in range(10):
            running.visitor(f"visitor-{number}").agree()
        shares = rows(
            running.store,
            "SELECT SUM(left_arm = 'steered') FROM trial WHERE kind = 'main' "
            "GROUP BY participant_id",
        )
        assert shares == [(2,)] * 10


def test_what_is_too_long_is_refused_alike_whichever_side_is_told_more(tmp_path: Path) -> None:
    with served(
        tmp_path, prompts=FREE, trials__practice=0, attention=[], arms=["prompted", "unsteered"]
    ) as running:
        visitor = running.visitor()
        visitor.agree()
        said = []
        for _ in range(2):
            said.append(visitor.turn(visitor.ask("begin")["trial"]["id"], 0, "x" * 3000))
            visitor.vote("skip")
        sides = rows(running.store, "SELECT DISTINCT left_arm FROM trial WHERE state = 'voted'")
        assert len(sides) == 2
        assert said[0] == said[1]
