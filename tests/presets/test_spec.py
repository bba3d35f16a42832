"""Steering specs: one value in code, the flat object of schema 1 in files."""

import json
import pickle
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from saif.core.types import Schedule
from saif.presets.library import Library
from saif.presets.spec import LatentSource, SteeringSpec

SPEC = TypeAdapter(SteeringSpec)
SOURCE = LatentSource(selection="signed", rule="delta", k=15, beta=0.5)
FULL = SteeringSpec(
    layer=24,
    extra_layers=(18,),
    latents=SOURCE,
    dose=0.5,
    span="all",
    schedule=Schedule(half_life=16, keep_norm=True, clamp=True),
)


@pytest.mark.parametrize("path", Library().preset_paths(), ids=lambda path: path.stem)
def test_a_shipped_preset_would_be_written_as_it_is(path: Any) -> None:
    """Published studies hold the hash of these bytes."""
    card = Library().card(path.parent.name, path.stem)
    assert (card.model_dump_json(indent=1) + "\n").encode() == path.read_bytes()


def test_a_spec_is_one_flat_object_in_a_file() -> None:
    written = SPEC.dump_json(FULL).decode()
    assert written == (
        '{"layer":24,"also":[18],"selection":"signed","rule":"delta","k":15,"beta":0.5,"dose":0.5,'
        '"span":"all","half_life":16,"keep_norm":true,"clamp":true}'
    )
    assert SPEC.validate_json(written) == FULL


@pytest.mark.parametrize(
    ("spec", "written"),
    [
        (
            SteeringSpec(layer=3, dose=0.5),
            {"layer": 3, "dose": 0.5, "half_life": None, "keep_norm": False},
        ),
        (
            SteeringSpec(layer=3, extra_layers=(1,), dose=0.5, span="prompt"),
            {
                "layer": 3,
                "also": [1],
                "dose": 0.5,
                "span": "prompt",
                "half_life": None,
                "keep_norm": False,
            },
        ),
    ],
)
def test_a_mean_difference_says_no_more_than_it_has_to(
    spec: SteeringSpec, written: dict[str, Any]
) -> None:
    """Versions before this one refuse a mean difference with any other key than four."""
    assert json.loads(SPEC.dump_json(spec)) == written
    assert SPEC.validate_json(json.dumps(written)) == spec


def test_what_an_old_file_leaves_out_is_as_it_was() -> None:
    found = SPEC.validate_json(
        '{"layer": 1, "selection": "saif", "rule": "mean", "k": 4, "beta": 0, "dose": 1, '
        '"span": "response"}'
    )
    source = LatentSource(selection="saif", rule="mean", k=4)
    assert found == SteeringSpec(layer=1, latents=source, dose=1.0)
    assert found.schedule == Schedule()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"layer": -1}, "layer"),
        ({"layer": True}, "layer"),
        ({"dose": 0.0}, "dose"),
        ({"dose": float("nan")}, "dose"),
        ({"dose": float("inf")}, "dose"),
        ({"span": "reply"}, "span"),
        ({"extra_layers": (24,)}, "listed twice"),
        ({"extra_layers": (18, 18)}, "listed twice"),
        ({"latents": None}, "only latents can be clamped"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_in_code_too(
    values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        replace(FULL, **values)


def test_a_name_that_a_spec_does_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        SteeringSpec(layer=1, dose=1.0, colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "values", [{"k": 0}, {"k": 65}, {"beta": 1.5}, {"selection": "best"}, {"rule": "max"}]
)
def test_a_source_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        replace(SOURCE, **values)


def test_a_spec_is_a_value() -> None:
    again = replace(FULL)
    assert (again, hash(again)) == (FULL, hash(FULL))
    assert pickle.loads(pickle.dumps(FULL)) == FULL
    assert replace(FULL, dose=0.4) != FULL
    assert (FULL.layers, FULL.dose_per_layer) == ((24, 18), 0.25)
