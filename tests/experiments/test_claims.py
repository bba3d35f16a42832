"""The paper's claims are decided as the planted replies say."""

import pytest
from made_up_runs import N_LAYERS, cell, outcomes, record, replies

from saif.core.types import Placement
from saif.experiments.claims import (
    Claim,
    a_set_is_needed,
    claims,
    k_has_an_optimum,
    last_layer_is_best,
    latents_are_causal,
    latents_are_specific,
    loose_is_comparable,
    post_beats_pre,
    strict_is_over_30,
)
from saif.experiments.evaluate.comparison import Decision
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord
from saif.experiments.evaluate.summary import Evidence

N = 50
Planted = dict[Cell, list[ReplyRecord]]


def planted(
    placement: Placement = "pre", preset: str = "letter", *, n: int = N, **followed: int
) -> Planted:
    """condition (with _ for -) -> how many of `n` follow, strictly."""
    cells = {}
    for name, count in followed.items():
        place = cell(name.replace("_", "-"), placement, preset=preset)
        cells[place] = replies(place, outcomes(n, count, count))
    return cells


def evidence(cells: Planted | None = None, **sweeps: Planted) -> Evidence:
    return Evidence(record(n=N).model, "none", cells or {}, sweeps)


def swept(counts: dict[float, int], preset: str = "letter", n: int = N) -> Planted:
    cells = {}
    for value, count in counts.items():
        place = cell("steered", preset=preset, value=value)
        cells[place] = replies(place, outcomes(n, count, count))
    return cells


@pytest.mark.parametrize(
    ("counts", "held"),
    [
        ({"steered": 40, "single_latent": 10, "unsteered": 1}, "yes"),
        ({"steered": 10, "single_latent": 40, "unsteered": 1}, "no"),
        ({"steered": 20, "single_latent": 14, "unsteered": 1}, "yes"),  # p = 2/64
        ({"steered": 20, "single_latent": 15, "unsteered": 1}, "unclear"),  # p = 2/32
        ({"steered": 40, "single_latent": 10, "unsteered": 42}, "no"),  # nothing was steered
        ({"steered": 40, "single_latent": 10}, "not measured"),
        ({"steered": 40, "unsteered": 0}, "not measured"),
        ({"saif": 40, "single_latent": 10, "unsteered": 1}, "yes"),
    ],
)
def test_a_set_of_latents_against_a_single_one(counts: dict[str, int], held: Decision) -> None:
    assert a_set_is_needed(evidence(planted(**counts))).held == held


def test_a_difference_that_the_interval_rules_out_is_none() -> None:
    cells = planted(n=400, steered=300, single_latent=300, unsteered=1)
    assert a_set_is_needed(evidence(cells)).held == "no"


def test_the_number_says_rates_difference_interval_n_and_p() -> None:
    claim = a_set_is_needed(evidence(planted(steered=40, single_latent=10, unsteered=0)))
    assert "80 % (steered) against 20 % (single latent): +60 points (95 % interval" in claim.number
    assert "n = 50, p < 0.001" in claim.number


def test_a_preset_that_says_the_opposite_makes_a_claim_unclear() -> None:
    good = planted(steered=50, single_latent=5, unsteered=0)
    bad = planted("post", "verse", steered=5, single_latent=20, unsteered=0)
    claim = a_set_is_needed(evidence({**good, **bad}))
    assert claim.held == "unclear"
    assert "the other way round for verse, post" in claim.number


@pytest.mark.parametrize(
    ("counts", "held"),
    [
        ({1.0: 5, 5.0: 25, 15.0: 44, 40.0: 20}, "yes"),
        ({1.0: 5, 5.0: 25, 15.0: 40, 40.0: 50}, "no"),  # the more, the better
        ({1.0: 48, 5.0: 25, 15.0: 30, 40.0: 20}, "no"),  # one is enough
        ({1.0: 5, 5.0: 25, 15.0: 44, 40.0: 42}, "unclear"),
        ({1.0: 5, 15.0: 44}, "not measured"),
        ({}, "not measured"),
    ],
)
def test_the_number_of_latents(counts: dict[float, int], held: Decision) -> None:
    assert k_has_an_optimum(evidence(k=swept(counts))).held == held


def test_the_best_of_several_k_must_be_surer_than_one_named_beforehand() -> None:
    # 7 of 7 discordant pairs: p = 0.016, enough for one inner value but not for four.
    assert k_has_an_optimum(evidence(k=swept({1.0: 3, 15.0: 20, 40.0: 13}))).held == "yes"
    crowded = {1.0: 3, 5.0: 4, 10.0: 5, 15.0: 20, 20.0: 6, 40.0: 13}
    assert k_has_an_optimum(evidence(k=swept(crowded))).held == "unclear"


def test_only_values_measured_for_every_preset_are_pooled() -> None:
    cells = {
        **swept({1.0: 5, 15.0: 44, 40.0: 20}),
        **swept({1.0: 5, 15.0: 44, 64.0: 3}, "question"),
    }
    assert k_has_an_optimum(evidence(k=cells)).held == "not measured"


@pytest.mark.parametrize(
    ("counts", "held"),
    [
        ({12.0: 4, 24.0: 20, N_LAYERS - 1: 44}, "yes"),
        ({12.0: 4, 24.0: 44, N_LAYERS - 1: 20}, "no"),
        ({12.0: 4, 24.0: 24, N_LAYERS - 1: 26}, "unclear"),
        ({12.0: 4, 24.0: 44}, "not measured"),
    ],
)
def test_the_last_layer(counts: dict[float, int], held: Decision) -> None:
    claim = last_layer_is_best(evidence(layer=swept(counts)))
    assert claim.held == held
    if held == "not measured":
        assert "layer 29, the last (measured: 12, 24)" in claim.number


@pytest.mark.parametrize(
    ("pre", "post", "held"), [(20, 40, "yes"), (40, 20, "no"), (30, 33, "unclear")]
)
def test_post_against_pre(pre: int, post: int, held: Decision) -> None:
    both = {**planted("pre", steered=pre), **planted("post", steered=post)}
    assert post_beats_pre(evidence(both)).held == held
    assert post_beats_pre(evidence(both), suffix=True).held == "not measured"
    suffix = {**planted("pre", steered_suffix=pre), **planted("post", steered_suffix=post)}
    assert post_beats_pre(evidence(suffix), suffix=True).held == held


def test_a_sweep_over_the_placement_serves_as_well() -> None:
    cells = {}
    for placement, count in (("pre", 20), ("post", 40)):
        place = Cell(preset="letter", placement=placement, condition="steered", value=placement)
        cells[place] = replies(place, outcomes(N, count, count))
    assert post_beats_pre(evidence(placement=cells)).held == "yes"
    assert post_beats_pre(evidence(planted("pre", steered=3))).held == "not measured"


@pytest.mark.parametrize(
    ("steered", "n", "held"),
    [(190, 200, "yes"), (198, 200, "yes"), (20, 50, "no"), (45, 50, "unclear")],
)
def test_loose_is_within_ten_points_of_prompting(steered: int, n: int, held: Decision) -> None:
    cells = planted(n=n, steered=steered, prompted=n)
    assert loose_is_comparable(evidence(cells)).held == held
    assert loose_is_comparable(evidence(cells), plain=True).held == "not measured"


def test_loose_counts_degenerate_replies_and_says_how_many_are_not() -> None:
    steered, prompted = cell("steered"), cell("prompted")
    cells = {
        steered: replies(steered, outcomes(200, 40, 50, repeats=150)),
        prompted: replies(prompted, outcomes(200, 200, 200)),
    }
    claim = loose_is_comparable(evidence(cells))
    assert claim.held == "yes"
    assert "Loose and not degenerate: 25 %" in claim.number


@pytest.mark.parametrize(("strict", "held"), [(30, "yes"), (4, "no"), (16, "unclear")])
def test_strict_is_over_30_per_cent(strict: int, held: Decision) -> None:
    assert strict_is_over_30(evidence(planted(steered=strict))).held == held
    assert strict_is_over_30(evidence(planted(saif=strict)), plain=True).held == held
    assert strict_is_over_30(evidence(planted(steered=9)), plain=True).held == "not measured"


def test_strict_over_30_on_average_is_unclear_if_a_preset_is_clearly_below() -> None:
    cells = {**planted(steered=50), **planted(preset="verse", steered=2)}
    claim = strict_is_over_30(evidence(cells))
    assert claim.held == "unclear"
    assert "clearly below for verse, pre" in claim.number


@pytest.mark.parametrize(
    ("counts", "held"),
    [
        ({"steered": 40, "random": 2, "unsteered": 1}, "yes"),
        ({"steered": 10, "random": 30, "unsteered": 1}, "no"),
        ({"steered": 20, "random": 18, "unsteered": 1}, "unclear"),
        ({"steered": 40, "random": 2, "unsteered": 40}, "no"),  # random ones only spoil
        ({"steered": 40}, "not measured"),
    ],
)
def test_the_latents_are_causal(counts: dict[str, int], held: Decision) -> None:
    assert latents_are_causal(evidence(planted(**counts))).held == held


def test_random_latents_that_were_pushed_less_prove_nothing() -> None:
    cells = planted(steered=40, random=2, unsteered=1)
    place = cell("random")
    cells[place] = replies(place, outcomes(N, 2, 2), dose=0.2)
    claim = latents_are_causal(evidence(cells))
    assert claim.held == "unclear"
    assert "the doses differ for letter, pre" in claim.number


@pytest.mark.parametrize(
    ("counts", "held"),
    [
        ({"steered": 40, "wrong_instruction": 1, "unsteered": 1}, "yes"),
        ({"steered": 40, "wrong_instruction": 20, "unsteered": 1}, "no"),
        ({"steered": 40, "wrong_instruction": 5, "unsteered": 1}, "unclear"),
        ({"steered": 1, "wrong_instruction": 1, "unsteered": 1}, "unclear"),  # no effect at all
        ({"steered": 40, "unsteered": 1}, "not measured"),
    ],
)
def test_the_latents_are_specific(counts: dict[str, int], held: Decision) -> None:
    assert latents_are_specific(evidence(planted(**counts))).held == held


def test_unsteered_replies_serve_both_placements() -> None:
    cells = {**planted("post", steered=40, random=2), **planted("pre", unsteered=1)}
    assert "(unsteered)" in latents_are_causal(evidence(cells)).number


def test_without_any_run_every_claim_is_not_measured() -> None:
    found = claims(evidence())
    assert {claim.held for claim in found} == {"not measured"}
    assert all(isinstance(claim, Claim) and claim.number.startswith("Needs ") for claim in found)
