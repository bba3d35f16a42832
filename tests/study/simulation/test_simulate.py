"""Whole studies with planted preferences, played by bots through the real store."""

from pathlib import Path

import pytest
from made_up_participants import KEY, Clock, make_store, person, rows
from made_up_studies import LIBRARY
from read_exports import check_sums, read_votes
from stored_votes import flow, missed_checks, votes

from saif.errors import InputError, StudyError
from saif.study.analysis.estimates import estimate, icc
from saif.study.data.export import export
from saif.study.design.publish import publish
from saif.study.design.study_file import read_study
from saif.study.participation.votes import left_scores, preference_scores
from saif.study.simulation.simulate import BotBehaviour, simulate
from saif.study.store import audit
from saif.study.store.identities import Person
from saif.study.store.store import Store


def test_the_planted_preference_is_recovered_from_the_export(tmp_path: Path) -> None:
    store = make_store(tmp_path, trials__main=8, trials__retest=0)
    crowd = BotBehaviour(rate=0.7, icc=0.15, ties=0.2, dropout=0.3, left=0.1)
    ended = simulate(store, 28, crowd, seed=3)
    assert ended["complete"] + ended["left"] == 28
    assert 3 <= ended["left"] <= 15
    export(store, tmp_path / "out", actor="me")
    check_sums(tmp_path / "out")
    found = read_votes(tmp_path / "out" / "trials.csv")
    assert found == votes(store)
    planted = 0.2 * 0.5 + 0.8 * 0.7  # ties count half
    result = estimate(preference_scores(found, "steered"))
    low, high = result.interval()
    assert low <= planted <= high
    assert low > 0.5
    test = result.t_test()
    assert test is not None
    assert test[1] < 0.001
    # The side bias was planted, too, and is in the left share and not in the preference.
    bias = estimate(left_scores(found))
    assert bias.interval()[0] > 0.5
    store.database.check()
    with store.database.snapshot() as db:
        audit.verify(db)


def test_no_preference_is_not_found_where_none_was_planted(tmp_path: Path) -> None:
    store = make_store(tmp_path, trials__main=8, trials__retest=0)
    simulate(store, 16, BotBehaviour(rate=0.5, dropout=0.0, left=0.2), seed=2)
    low, high = estimate(preference_scores(votes(store), "steered")).interval()
    assert low < 0.5 < high


def test_bots_that_agree_with_themselves_have_a_high_icc(tmp_path: Path) -> None:
    store = make_store(tmp_path, trials__main=8, trials__retest=0)
    crowd = BotBehaviour(rate=0.5, icc=0.6, ties=0.0, dropout=0.0)
    simulate(store, 18, crowd)
    found = icc(preference_scores(votes(store), "steered"))
    assert found == pytest.approx(0.6, abs=0.25)


def test_the_careless_are_left_out_per_protocol(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    simulate(store, 20, BotBehaviour(careless=0.5, dropout=0.0))
    missed = sum(missed_checks(store).values())
    assert 2 <= missed <= 9  # half of the half
    everyone = {one.participant for one in votes(store)}
    attentive = {one.participant for one in votes(store, population="per-protocol")}
    assert len(everyone - attentive) == missed


def test_a_study_fills_up_and_takes_no_more(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock, quota__complete=6)
    ended = simulate(store, 8, BotBehaviour(dropout=0.0))
    assert ended == {"complete": 6, "refused": 2}
    assert flow(store)["complete"] == 6


def test_who_dropped_out_is_replaced(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock, quota__complete=12)
    for seed in range(20):
        simulate(store, 3, BotBehaviour(dropout=0.4), seed=seed)
        clock.pass_by(hours=3)
        if flow(store)["complete"] == 12:
            break
    assert flow(store)["complete"] == 12
    cells = rows(store, "SELECT cell, COUNT(*) FROM cell_pool WHERE state = 'done' GROUP BY cell")
    assert cells == [("0a", 6), ("0b", 6)]


def test_the_example_study_that_ships_can_be_played(tmp_path: Path) -> None:
    study = read_study(LIBRARY.root / "studies" / "example.yaml")
    version, _ = publish(study, LIBRARY, tmp_path / "published")
    store = Store(tmp_path / "store", version, KEY)
    ended = simulate(store, 5, BotBehaviour(dropout=0.0, returning=0.2, failing=0.2))
    assert ended == {"complete": 5}
    assert len(votes(store)) == 40
    assert flow(store)["void_trials"] > 0
    assert rows(store, "SELECT DISTINCT source FROM participant") == [("bot",)]
    asked = {row[0].partition("@")[0] for row in rows(store, "SELECT item_id FROM response")}
    assert asked == {question.id for question in study.questions}


def test_the_same_seed_plays_the_same_study(tmp_path: Path) -> None:
    told = []
    for name in ("one", "two"):
        store = make_store(tmp_path / name)
        simulate(store, 5, BotBehaviour(), seed=4)
        told.append(rows(store, "SELECT position, choice FROM vote JOIN trial USING(trial_id)"))
    assert sorted(told[0]) == sorted(told[1])


def test_people_and_bots_never_share_a_store(tmp_path: Path) -> None:
    played, real = make_store(tmp_path / "played"), make_store(tmp_path / "real")
    simulate(played, 1, BotBehaviour())
    with pytest.raises(StudyError, match="holds simulated participants"):
        played.enrol(person(), share_text=False)
    real.enrol(person(), share_text=False)
    with pytest.raises(StudyError, match="holds people"):
        simulate(real, 1, BotBehaviour())
    with pytest.raises(StudyError, match="holds people"):
        real.enrol(Person("bot", "bot-1"), share_text=False)
    assert len(rows(real, "SELECT * FROM participant")) == 1


@pytest.mark.parametrize("wrong", [{"rate": 1.0}, {"ties": 1.0}, {"dropout": float("nan")}])
def test_an_impossible_crowd_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        BotBehaviour(**wrong)
