"""From replies to rates, and which replies make a pair."""

from pathlib import Path

import pytest
from made_up_runs import cell, content, outcomes, record, replies, reply, write_run

from saif.core.statistics import Rate
from saif.experiments.evaluate.run_folder import Timing
from saif.experiments.evaluate.summary import gather, pairs, stored_scores, summaries, summarise
from saif.presets.library import Library, read_card

STEERED = cell("steered")


def test_a_cell_s_rates_are_the_counts_of_its_replies() -> None:
    found = summarise(STEERED, replies(STEERED, outcomes(20, 5, 9, repeats=3, lost=2)))
    assert found.n == 20
    assert found.loose == Rate(12, 20)
    assert found.strict == Rate(5, 20)
    assert found.degenerate == Rate(5, 20)
    assert found.followed == Rate(9, 20)  # three loose ones are degenerate
    assert found.dose == 0.4
    assert found.tokens_per_second is None


def test_speed_and_perplexity_leave_out_what_was_not_measured() -> None:
    told = [
        reply(STEERED, i, "strict", perplexity=value)
        for i, value in enumerate([4.0, None, 8.0, float("inf"), 5.0])
    ]
    timing = Timing(cell=STEERED, tokens=300, generation_seconds=6, judging_seconds=100)
    found = summarise(STEERED, told, timing)
    assert found.perplexity == 5
    assert found.tokens_per_second == 50
    instant = Timing(cell=STEERED, tokens=0, generation_seconds=0, judging_seconds=0)
    assert summarise(STEERED, told, instant).tokens_per_second is None
    assert summarise(STEERED, [reply(STEERED, 0, "plain", dose=None)]).dose is None


def test_what_a_preset_keeps_is_the_summary_of_its_run(tmp_path: Path) -> None:
    steered = {"push": {"layers": [3, 5], "dose": 0.41239}, "dose": 0.41239}
    told = [
        reply(STEERED, i, outcome, perplexity=value, **steered)
        for i, (outcome, value) in enumerate(
            [("strict", 4.123), ("repeats", 30.0), ("followed", 9.0), ("plain", None)]
        )
    ]
    plain = cell("unsteered")
    run = write_run(
        tmp_path, record(n=4), {STEERED: told, plain: replies(plain, outcomes(4, 0, 1))}
    )
    scores = stored_scores(run, 20.5)
    assert (scores.split, scores.n, scores.max_new_tokens) == ("held-out", 4, 64)
    assert (scores.perplexity_bound, scores.command) == (20.5, run.record.command)
    assert scores.run == run.record.identity()
    row, other = scores.conditions
    assert (row.condition, row.layer, row.dose, row.perplexity) == ("steered", 3, 0.4124, 9)
    assert (row.loose.successes, row.strict.successes, row.degenerate.successes) == (3, 1, 1)
    assert {row.loose.n, row.strict.n, row.degenerate.n} == {4}
    assert row.loose.low == pytest.approx(0.3006, abs=1e-3)  # Wilson, 3 of 4
    assert row.loose.high == pytest.approx(0.9544, abs=1e-3)
    assert (other.condition, other.layer, other.dose) == ("unsteered", None, None)


def test_older_presets_name_no_run_and_keep_their_bytes() -> None:
    scored = 0
    for path in Library().preset_paths():
        card = read_card(path)
        scored += sum(part.scores is not None for part in card.placements.values())
        assert f"{card.model_dump_json(indent=1)}\n" == path.read_text("utf-8")
    assert scored


def test_rows_come_in_the_order_they_are_shown_in() -> None:
    places = [
        cell("brand-new", "pre", preset="b"),
        cell("random", "post", preset="b"),
        cell("prompted", "pre", preset="b"),
        cell("steered", "pre", preset="b"),
        cell("unsteered", "pre", preset="a"),
    ]
    rows = summaries({place: replies(place, ["plain"]) for place in places}, {})
    assert [str(row.cell) for row in rows] == [
        "b/pre/steered",
        "b/pre/prompted",
        "b/pre/brand-new",
        "b/post/random",
        "a/pre/unsteered",
    ]


def test_replies_to_the_same_text_are_paired_whatever_their_order() -> None:
    first = [
        reply(STEERED, i, outcome) for i, outcome in enumerate(["strict", "plain", "followed"])
    ]
    other = cell("random")
    second = [reply(other, i, "followed" if i == 1 else "plain") for i in (2, 1, 7)]
    assert pairs(first, second) == [(False, True), (True, False)]
    assert pairs(first, second, "strict") == [(False, False), (False, False)]


def test_a_text_that_comes_twice_is_paired_with_its_like() -> None:
    first = [reply(STEERED, 0, "strict"), reply(STEERED, 0, "plain")]
    second = [reply(STEERED, 0, "plain"), reply(STEERED, 0, "strict")]
    assert pairs(first, second) == [(True, False), (False, True)]
    assert pairs(first, second[:1]) == [(True, False)]


def test_runs_of_one_model_are_put_together_and_no_cell_counts_twice() -> None:
    again = replies(STEERED, ["plain"])
    once = replies(STEERED, ["strict"])
    random = cell("random")
    swept = cell("steered", value=5.0)
    other = record(n=1).model.model_copy(update={"fingerprint": "0" * 64})
    found = gather(
        [
            (record(n=1), {STEERED: once}),
            (record(n=1), {STEERED: again, random: again}),
            (record("sweep", n=1, over="k"), {swept: once}),
            (record(n=1, model=other), {STEERED: again}),
            (record(n=1, quantize="4bit"), {STEERED: again}),
        ]
    )
    assert len(found) == 3
    assert found[0].cells == {STEERED: once, random: again}
    assert found[0].sweeps == {"k": {swept: once}}
    assert content(0) == once[0].content
