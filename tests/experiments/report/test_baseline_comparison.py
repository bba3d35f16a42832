"""Which way with latents is held against mean difference, and by how much it wins or loses."""

import pytest
from made_up_runs import cell, outcomes, replies

from saif.core.types import Placement
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord
from saif.experiments.report.baseline_comparison import (
    BaselineComparison,
    compare_with_baselines,
    shortfall,
    summary_sentence,
)

N = 20


def cells(
    placement: Placement = "pre", preset: str = "letter", **followed: int
) -> dict[Cell, list[ReplyRecord]]:
    """condition (with _ for -) -> how many of 20 follow; half of those are strict, and one more
    is loose but degenerate."""
    found = {}
    for name, count in followed.items():
        place = cell(name.replace("_", "-"), placement, preset=preset)
        found[place] = replies(place, outcomes(N, count // 2, count, repeats=1))
    return found


def only(**followed: int) -> BaselineComparison:
    (comparison,) = compare_with_baselines(cells(**followed))
    return comparison


def test_the_best_way_with_latents_is_held_against_mean_difference() -> None:
    comparison = only(steered=8, single_latent=14, saif=2, random=19, mean_difference=10)
    assert (comparison.place, comparison.variant) == ("letter, pre", "single-latent")
    assert (comparison.table.first.successes, comparison.table.second.successes) == (14, 10)
    assert comparison.strict.successes == 7
    assert comparison.reached
    assert shortfall(comparison) == "ahead by 20"


def test_of_equally_good_ways_the_calibrated_one_stands_for_latents() -> None:
    assert only(saif=9, single_latent=9, steered=9, mean_difference=9).variant == "steered"


@pytest.mark.parametrize(
    ("steered", "baseline", "words"),
    [(10, 10, "level"), (12, 10, "ahead by 10"), (3, 10, "short by 35")],
)
def test_how_far_ahead_or_short(steered: int, baseline: int, words: str) -> None:
    comparison = only(steered=steered, mean_difference=baseline)
    assert shortfall(comparison) == words
    assert comparison.reached == (steered >= baseline)


def test_less_than_a_point_short_is_not_level() -> None:
    found = {}
    for name, count in (("steered", 299), ("mean-difference", 300)):
        place = cell(name)
        found[place] = replies(place, outcomes(400, 0, count))
    (comparison,) = compare_with_baselines(found)
    assert not comparison.reached
    assert shortfall(comparison) == "short by less than 1"


def test_half_of_the_strict_accuracy_of_asking_in_words() -> None:
    assert only(steered=10, mean_difference=1, prompted=20).half_of_prompted
    assert not only(steered=9, mean_difference=1, prompted=20).half_of_prompted  # 4 of 10
    alone = only(steered=9, mean_difference=1)
    assert alone.prompted_strict is None
    assert not alone.half_of_prompted


def test_the_summary_names_the_place_that_falls_furthest_behind() -> None:
    found = compare_with_baselines(
        cells(steered=8, mean_difference=10, prompted=20)
        | cells("post", steered=4, mean_difference=10, prompted=20)
        | cells(preset="question", steered=12, mean_difference=10)
    )
    assert summary_sentence(found) == (
        "Latents reach mean difference at its own best setting in 1 of 3; they fall furthest "
        "behind for letter, post (short by 30 points). They reach half of the strict accuracy of "
        "asking in words in 0 of 2."
    )
    assert summary_sentence(found[2:]) == (
        "Latents reach mean difference at its own best setting in 1 of 1."
    )


def test_without_both_sides_there_is_no_comparison() -> None:
    assert compare_with_baselines(cells(steered=5, prompted=20)) == []
    assert compare_with_baselines(cells(random=5, mean_difference=20)) == []
    assert compare_with_baselines(cells(steered=5) | cells("post", mean_difference=20)) == []
    swept = cell("mean-difference", value=3.0)
    assert (
        compare_with_baselines(cells(steered=5) | {swept: replies(swept, outcomes(N, 5, 5))}) == []
    )
