"""An analysis finds what was planted, does not care for names and order, and fails in words."""

import json
import math
import random
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from made_up_data import PRESET, data_of, empty_row, trial_row, trial_rows
from made_up_participants import complete, make_store
from made_up_votes import planted, vote

from saif.errors import InputError, StudyError
from saif.study.analysis.analyse import analyse, as_json
from saif.study.analysis.data import StudyData, from_export, from_store
from saif.study.analysis.estimates import estimate, estimate_two_way, icc, sign_flip_p
from saif.study.analysis.quality import changed_arm, quality
from saif.study.analysis.regression import Model
from saif.study.analysis.results import Analysis
from saif.study.data.export import FORMATS, export
from saif.study.data.tables import Row
from saif.study.data.unblinding import look
from saif.study.participation.votes import Choice, Vote, preference_scores
from saif.study.simulation.simulate import BotBehaviour, simulate

REGRESSION = "logistic regression"


def numbers(found: Any) -> list[float]:
    """Every number anywhere in a JSON document."""
    if isinstance(found, dict):
        return [one for value in found.values() for one in numbers(value)]
    if isinstance(found, list | tuple):
        return [one for value in found for one in numbers(value)]
    return [found] if isinstance(found, int | float) else []


def model(found: Analysis, name: str) -> Model:
    return next(one for one in found.models if one.name == name)


# What was planted


@pytest.mark.parametrize("ties", [0.0, 0.3])
def test_a_planted_preference_is_within_every_interval(ties: float) -> None:
    votes = planted(11, 40, 10, 0.68, icc=0.1, ties=ties)
    found = analyse(data_of(trial_rows(votes)))
    rate = ties / 2 + (1 - ties) * 0.68
    preset = found.presets[0]
    assert preset.share.clusters == "participants and prompts"
    for share in (preset.share, *(preset.sensitivities[name] for name in ("per protocol",))):
        assert share.low is not None
        assert share.high is not None
        assert 0.5 < share.low <= rate <= share.high
    dropped = preset.sensitivities["ties dropped"]
    assert dropped.low is not None
    assert dropped.high is not None
    assert dropped.low <= 0.68 <= dropped.high
    assert preset.tie_model is not None
    assert preset.tie_model.low is not None
    assert preset.tie_model.high is not None
    assert preset.tie_model.low <= 0.68 <= preset.tie_model.high
    assert (preset.tie_model.tie > 0) == (ties > 0)
    term = model(found, REGRESSION).terms[0]
    assert term.name == PRESET
    assert term.probability_low is not None
    assert term.probability_high is not None
    assert 0.5 < term.probability_low <= rate <= term.probability_high
    assert math.exp(term.log_odds) == pytest.approx(term.odds)
    assert f"{PRESET}: " in found.summary[1]
    assert "'steered' is preferred." in found.summary[1]


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        (planted(11, 20, 8, 0.8), "'steered' is preferred."),
        (planted(11, 20, 8, 0.2), "'unsteered' is preferred."),
        (planted(3, 12, 4, 0.55, icc=0.2), "Not settled"),
        (planted(3, 300, 20, 0.5), "Within 5 points of no preference."),
    ],
)
def test_the_verdict_says_no_more_than_the_tests(votes: list[Vote], verdict: str) -> None:
    free = [replace(one, prompt=None) for one in votes]
    found = analyse(data_of(trial_rows(free), prompts={"kind": "free", "task": "Chat."}))
    assert verdict in found.summary[1]


def test_the_numbers_are_those_of_the_statistics_module() -> None:
    votes = planted(3, 20, 6, 0.6, icc=0.2, ties=0.2)
    preset = analyse(data_of(trial_rows(votes))).presets[0]
    scores = preference_scores(votes, "steered")
    wanted = estimate_two_way(scores)
    assert (preset.share.low, preset.share.high) == pytest.approx(wanted.interval(), abs=1e-12)
    test = wanted.t_test()
    assert test is not None
    assert preset.tests is not None
    assert (preset.tests.t, preset.tests.df) == (pytest.approx(test[0]), 5)
    assert preset.tests.p == pytest.approx(test[1])
    assert preset.tests.sign_flip == sign_flip_p(scores)
    assert preset.icc == icc(scores)
    alone = preset.sensitivities["participants alone as clusters"]
    assert (alone.low, alone.high) == pytest.approx(estimate(scores).interval(), abs=1e-12)


def test_free_chat_has_participants_alone_as_clusters() -> None:
    votes = [replace(one, prompt=None) for one in planted(3, 20, 6, 0.6)]
    found = analyse(data_of(trial_rows(votes), prompts={"kind": "free", "task": "Chat."}))
    assert found.presets[0].share.clusters == "participants"
    assert found.presets[0].alpha is None
    assert "prompt" not in model(found, REGRESSION).about.partition("Its covariance")[2]
    assert "its t has 19 degrees of freedom" in model(found, REGRESSION).about


def test_agreement_is_told_only_where_all_judged_the_same_answers() -> None:
    rows = trial_rows(planted(3, 8, 6, 0.6))
    assert analyse(data_of(rows)).presets[0].alpha is not None
    drawn = analyse(data_of(rows, generation__temperature=0.7))
    assert drawn.presets[0].alpha is None
    assert not any("the same answers" in limit for limit in drawn.limits)


def test_a_side_bias_is_in_its_own_coefficient_and_not_in_the_preset() -> None:
    rng = random.Random(4)
    rows = []
    for person in range(40):
        for place in range(8):
            left, right = ("steered", "unsteered")[:: 1 if (place + person) % 2 else -1]
            choice: Choice = "L" if rng.random() < 0.7 else "R"
            made = vote(f"{person}-{place}", f"p{person}", choice, left=left, right=right,
                        prompt=f"q{place}")  # fmt: skip
            rows.append(trial_row(made, place + 1))
    found = analyse(data_of(rows))
    terms = {term.name: term for term in model(found, REGRESSION).terms}
    assert terms["first arm on the left"].odds_low > 1.5  # of 5.4
    assert terms[PRESET].odds_low < 1 < terms[PRESET].odds_high
    assert any("position matters" in limit for limit in found.limits)
    assert found.quality.left.value == pytest.approx(0.7, abs=0.06)


def test_holm_is_over_the_presets_of_the_study() -> None:
    presets = [
        {"preset": name, "placement": "post", "strength": 1.0}
        for name in ("translate-french", "translate-german")
    ]
    rows = [
        *trial_rows(planted(1, 12, 4, 0.9), "translate-french/post/1"),
        *[
            {**row, "trial": f"second-{row['trial']}"}
            for row in trial_rows(planted(2, 12, 4, 0.5), "translate-german/post/1")
        ],
    ]
    found = analyse(data_of(rows, presets=presets))
    strong, weak = (one.tests for one in found.presets)
    assert strong is not None
    assert weak is not None
    assert strong.holm == pytest.approx(2 * strong.headline)
    assert weak.holm == pytest.approx(weak.headline)
    assert "(Holm)" in found.summary[1]


# What must make no difference


def test_neither_order_nor_names_change_a_digit() -> None:
    rows = trial_rows(planted(5, 18, 6, 0.6, icc=0.2, ties=0.2))
    shuffled = list(rows)
    random.Random(1).shuffle(shuffled)
    renamed: list[Row] = [
        {**row, "participant": f"{str(row['participant'])[::-1]}x", "trial": f"{i}t"}
        for i, row in enumerate(rows)
    ]
    wanted = as_json(analyse(data_of(rows)))
    assert as_json(analyse(data_of(shuffled))) == wanted
    assert as_json(analyse(data_of(renamed))) == wanted
    assert "p17" not in wanted


def test_what_was_typed_changes_no_number() -> None:
    """So that a profile that keeps texts back gives the same analysis as one that does not."""
    rows = trial_rows(planted(5, 10, 4, 0.6, ties=0.2))
    remarks = [
        empty_row("responses", participant=f"p{person}", item="remarks", value=None)
        for person in range(10)
    ]
    typed = [{**row, "value": json.dumps(f"remark {i * 7 % 10}")} for i, row in enumerate(remarks)]
    reasons: list[Row] = [{**row, "reason": f"{i * 7 % 31}"} for i, row in enumerate(rows)]
    wanted = as_json(analyse(data_of(rows, responses=remarks)))
    assert as_json(analyse(data_of(reasons, responses=remarks))) == wanted
    assert as_json(analyse(data_of(rows, responses=typed))) == wanted


def test_swapping_the_arms_turns_p_into_one_minus_p() -> None:
    rows = trial_rows(planted(6, 30, 6, 0.7, icc=0.1, ties=0.2))
    there = analyse(data_of(rows))
    back = analyse(data_of(rows, arms=["unsteered", "steered"]))
    assert there.arms == back.arms[::-1]
    one, other = there.presets[0], back.presets[0]
    for found, swapped in [
        (one.share, other.share),
        *((one.sensitivities[name], other.sensitivities[name]) for name in one.sensitivities),
    ]:
        assert None not in (found.value, found.low, swapped.high)
        assert found.value + swapped.value == pytest.approx(1, abs=1e-12)  # type: ignore[operator]
        assert found.low + swapped.high == pytest.approx(1, abs=1e-9)  # type: ignore[operator]
    assert one.tests is not None
    assert other.tests is not None
    assert one.tests.p == pytest.approx(other.tests.p)
    assert (one.counts["first"], one.counts["second"]) == (
        other.counts["second"],
        other.counts["first"],
    )
    assert one.tie_model is not None
    assert other.tie_model is not None
    assert one.tie_model.share + other.tie_model.share == pytest.approx(1)
    for tie_model in (one.tie_model, other.tie_model):
        assert tie_model.low is not None
        assert tie_model.high is not None
        assert tie_model.low < tie_model.share < tie_model.high
    terms = [model(found, REGRESSION).terms[0] for found in (there, back)]
    assert terms[0].odds * terms[1].odds == pytest.approx(1, rel=1e-6)
    assert terms[0].odds_low * terms[1].odds_high == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("profile", ["full", "deidentified", "public"])
def test_store_and_every_format_of_every_profile_give_the_same(
    tmp_path: Path, profile: Any
) -> None:
    store = make_store(tmp_path, trials__main=6, quota__complete=8)
    simulate(store, 8, BotBehaviour(rate=0.7, ties=0.2, dropout=0.0, careless=0.1, failing=0.1))
    out = tmp_path / "out"
    export(store, out, profile=profile, actor="me")
    wanted = as_json(analyse(from_store(store)))
    for suffix in FORMATS:
        assert as_json(analyse(from_export(out, format=suffix))) == wanted
    for name in ("csv", "jsonl"):  # whoever got one format only can analyse it
        for path in out.glob(f"*.{name}"):
            path.unlink()
    assert as_json(analyse(from_export(out))) == wanted


# What is refused


def test_a_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    export(store, tmp_path / "out", actor="me")
    for name in ("trials.csv", "config.json", "consort.json", "looks.json"):
        path = tmp_path / "out" / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(StudyError, match=f"{name} is not as it was exported"):
            from_export(tmp_path / "out")
        path.unlink()
        if name != "trials.csv":  # then another format is read
            with pytest.raises(StudyError, match=f"{name} is not as it was exported"):
                from_export(tmp_path / "out")
        path.write_bytes(content)
    with pytest.raises(StudyError, match="is no export"):
        from_export(tmp_path)


def test_a_row_that_is_there_twice_is_refused() -> None:
    rows = trial_rows(planted(1, 4, 4, 0.6))
    with pytest.raises(InputError, match="more than one vote"):
        analyse(data_of([*rows, rows[0]]))


def test_the_outcome_of_a_running_study_stays_hidden(tmp_path: Path) -> None:
    store = make_store(tmp_path, quota__complete=2)
    complete(store, 0)
    with pytest.raises(StudyError, match="until 2 participants are complete; 1 are") as refused:
        analyse(from_store(store))
    assert "--unblind" in refused.value.sentence
    shown = quality(from_store(store))
    assert shown.flow["complete"] == 1
    assert "steered" not in as_json(shown)
    look(store, "The server moves.", actor="me")
    found = analyse(from_store(store), looked=True)
    assert found.looks[0].reason == "The server moves."
    assert any("looked at 1 time" in limit for limit in found.limits)
    assert any(limit.startswith("Interim: 1 of 2") for limit in found.limits)
    complete(store, 1)
    late = analyse(from_store(store))
    assert not any(limit.startswith("Interim") for limit in late.limits)
    assert len(late.looks) == 1


def test_an_export_carries_its_early_looks(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    noted = look(store, "Curiosity.", actor="me")
    export(store, tmp_path / "out", actor="me")
    assert analyse(from_export(tmp_path / "out")).looks == (noted,)


# Poor data


def everyone(choose: Any, people: int = 4, votes: int = 4) -> list[Vote]:
    made = []
    for person in range(people):
        for place in range(votes):
            left, right = ("steered", "unsteered")[:: 1 if place % 2 else -1]
            made.append(
                vote(f"{person}-{place}", f"p{person}", choose(person, place, left), left=left,
                     right=right, prompt=f"q{place}")
            )  # fmt: skip
    return made


def wins(person: int, place: int, left: str) -> Choice:
    return "L" if left == "steered" else "R"


def one_and_all(person: int, place: int, left: str) -> Choice:
    """One participant always wins, the others always lose."""
    return wins(person, place, left) if person == 0 else "R" if left == "steered" else "L"


POOR = {
    "nobody": [],
    "all skips": everyone(lambda *_: "skip"),
    "one vote": everyone(wins, 1, 1),
    "one participant": everyone(wins, 1, 6),
    "all wins": everyone(wins),
    "all ties": everyone(lambda *_: "tie"),
    "all both bad": everyone(lambda *_: "both_bad"),
    "always left": everyone(lambda *_: "L"),
    "all alike": everyone(lambda person, place, left: "L" if place < 2 else "R"),
    "one and all": everyone(one_and_all),
    "two people, one vote each": everyone(lambda person, *_: "LR"[person], 2, 1),
    "one with most votes": [
        *everyone(wins, 1, 40),
        *[replace(one, participant="other", trial=f"o{one.trial}") for one in everyone(wins, 1, 2)],
    ],
}


@cache
def poor(name: str) -> Analysis:
    return analyse(data_of(trial_rows(POOR[name])))


@pytest.mark.parametrize("name", POOR)
def test_poor_data_give_words_and_never_nan(name: str) -> None:
    found = poor(name)
    document = json.loads(as_json(found))
    assert all(math.isfinite(number) for number in numbers(document))
    assert found.summary
    assert found.limits
    preset = found.presets[0]
    if preset.share.low is None:
        assert preset.share.note
    for one in found.models:
        assert bool(one.terms) != bool(one.note)
        for term in one.terms:
            assert term.odds_low <= term.odds <= term.odds_high
            assert term.error > 1e-6


def test_poor_data_are_named() -> None:
    told = {name: poor(name) for name in POOR}
    assert "no votes yet" in told["nobody"].summary[1]
    assert "One participant alone" in told["one participant"].summary[1]
    assert any("Every vote is a tie" in one for one in told["all ties"].limits)
    assert any("for the same arm" in one for one in told["all wins"].limits)
    assert "for the same arm" in model(told["all wins"], REGRESSION).note
    assert "a tie" in model(told["all ties"], REGRESSION).note
    wins_share = told["all wins"].presets[0].share
    assert (wins_share.value, wins_share.high) == (1.0, 1.0)
    assert wins_share.method == "Clopper–Pearson on n_eff"
    assert told["all wins"].presets[0].tests.p is None  # type: ignore[union-attr]
    assert told["all wins"].presets[0].tests.headline == 2 / 2**4  # type: ignore[union-attr]


# The quality of the data


def test_who_is_analysed_per_protocol_and_the_flow() -> None:
    rows = trial_rows(planted(2, 6, 4, 0.6))
    checks = [
        empty_row("trials", participant=f"p{person}", trial=f"c{person}", position=9, attempt=1,
                  kind="attention", state="voted", attention_check="look", prompts="[]",
                  left_arm="check", right_arm="check", choice="R" if person < 2 else "L")
        for person in range(6)
    ]  # fmt: skip
    statuses = {"p5": "stale", "x": "withdrawn", "y": "enrolled"}
    data = data_of([*rows, *checks], statuses=statuses)
    flow = quality(data).flow
    assert flow["consented"] == 8
    assert (flow["complete"], flow["stale"], flow["withdrawn"], flow["going_on"]) == (5, 1, 1, 1)
    assert (flow["voted"], flow["missed_checks"], flow["per_protocol"]) == (6, 2, 3)
    assert quality(data).attention[0].missed == 2
    assert analyse(data).presets[0].sensitivities["per protocol"].n_participants == 3


def test_the_guess_is_held_against_the_last_main_trial() -> None:
    questions = [{"kind": "guess", "id": "guess", "text": "Which?"}]
    rows = trial_rows(planted(3, 3, 4, 0.6))
    last = {row["participant"]: row["left_arm"] for row in rows}
    told = {
        "p0": "L" if last["p0"] == "steered" else "R",
        "p1": "L" if last["p1"] == "steered" else "R",
        "p2": "unsure",
    }
    responses = [
        empty_row("responses", participant=who, item="guess", value=json.dumps(side))
        for who, side in told.items()
    ]
    blind = quality(data_of(rows, responses=responses, questions=questions)).blinding
    assert (blind.right, blind.wrong, blind.unsure) == (2, 0, 1)
    assert blind.index == pytest.approx(2 / 3)
    assert quality(data_of(rows, questions=questions)).blinding.note == "Nobody has answered yet."


@pytest.mark.parametrize(
    ("arms", "changed"),
    [
        (["steered", "unsteered"], "steered"),
        (["unsteered", "steered"], "steered"),
        (["prompted", "steered"], "steered"),
        (["unsteered", "prompted"], "prompted"),
        (["steered", "other"], None),
    ],
)
def test_which_arm_counts_as_changed(arms: list[str], changed: str | None) -> None:
    study = data_of([]).version.study.model_copy(update={"arms": arms})
    assert changed_arm(study) == changed


def test_flips_of_a_retest_and_their_kappa(tmp_path: Path) -> None:
    store = make_store(tmp_path, trials__main=4, trials__retest=2)
    # Always left: the retest swaps the sides, so every answer changes.
    for number in range(4):
        complete(store, number)
    steady = quality(from_store(store)).steadiness
    assert steady is not None
    assert (steady.pairs, steady.flips.value) == (8, 1.0)


def test_questions_are_told_apart_by_the_arm_that_was_preferred() -> None:
    votes = planted(4, 6, 4, 0.5)
    responses = [
        empty_row("responses", participant=one.participant, item=f"fluent@{one.trial}",
                  value="5" if one.preferred == "steered" else "2")
        for one in votes
    ]  # fmt: skip
    responses += [
        empty_row("responses", participant="p1", item="remarks", value=json.dumps("A remark.")),
        empty_row("responses", participant="p2", item="remarks", value=None),
    ]
    data = data_of(trial_rows(votes), responses=responses)
    fluent, remarks = analyse(data).questions
    means = {group.name: group.mean for group in fluent.groups}
    assert means == {"preferred steered": 5.0, "preferred unsteered": pytest.approx(2.0)}
    assert remarks.groups[0].n_answers == 2
    assert remarks.texts == ()
    assert analyse(data, texts=True).questions[1].texts == ("A remark.",)


def test_response_times_fall_into_their_bars(tmp_path: Path) -> None:
    votes = everyone(wins, 2, 3)
    times = [0, 999, 1000, 4_999, 5_000, 60_000]
    rows = [{**row, "decided_ms": ms} for row, ms in zip(trial_rows(votes), times, strict=True)]
    found = quality(data_of(rows)).times
    assert (found.n, found.hasty) == (6, 2)
    assert {one.label: one.n for one in found.histogram if one.n} == {
        "<1": 2, "1–2": 1, "3–5": 1, "5–10": 1, "≥60": 1,
    }  # fmt: skip


def test_an_analysis_is_json_and_holds_no_participant_id(tmp_path: Path) -> None:
    store = make_store(tmp_path, quota__complete=2)
    ids = [complete(store, 0), complete(store, 1)]
    data: StudyData = from_store(store)
    found = analyse(data)
    document = json.loads(as_json(found))
    assert document == json.loads(json.dumps(asdict(found)))
    assert not any(name in as_json(found) for name in ids)
    typed = from_store(store, texts=True)
    assert "a remark of" not in as_json(analyse(typed))
    assert "a remark of 0" in as_json(analyse(typed, texts=True))


def test_what_was_called_off_and_how_far_first_tokens_were_apart() -> None:
    rows = trial_rows(planted(1, 3, 2, 0.6))
    void = {**rows[0], "trial": "void", "attempt": 2, "state": "void", "choice": None}
    voids: list[Row] = [
        {**void, "void_reason": "failed"},
        {**void, "trial": "v2", "void_reason": "failed", "kind": "practice"},
    ]
    turns = [
        empty_row("turns", participant="p0", trial="t0-0", turn=1, left_ttft_ms=100.0,
                  right_ttft_ms=right)
        for right in (90.0, 130.0, None)
    ]  # fmt: skip
    data = data_of([*rows, *voids], turns=turns)
    found = quality(data)
    assert found.voids == {"failed": 1}
    assert found.times.first_token_gap_ms == (20.0, 30.0)
    assert analyse(data).presets[0].counts["void"] == 1
    assert analyse(data).presets[0].counts["votes"] == 6


def test_two_versions_and_made_up_participants_are_pointed_out() -> None:
    data = data_of(trial_rows(planted(1, 3, 2, 0.6)))
    changed, *others = data.participants
    mixed = replace(data, participants=[replace(changed, version="another"), *others])
    assert any("2 versions" in limit for limit in analyse(mixed).limits)
    bots = [replace(one, source="bot") for one in data.participants]
    found = analyse(replace(data, participants=bots))
    assert found.made_up
    assert any("made up" in limit for limit in found.limits)
