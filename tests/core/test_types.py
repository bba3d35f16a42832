"""Plain values: sites print and parse the field's names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saif.core.types import Site


@given(st.integers(0, 200))
def test_a_site_survives_being_printed_and_parsed(layer: int) -> None:
    assert Site.parse(str(Site(layer))) == Site(layer)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("blocks.7.hook_resid_post", 7),
        ("blocks.8.hook_resid_pre", 7),  # before block 8 is after block 7
        ("model.layers.7", 7),
        ("transformer.h.7", 7),
        ("model.layers.7.output", 7),
    ],
)
def test_all_usual_names_of_a_site_are_read(name: str, layer: int) -> None:
    assert Site.parse(name).layer == layer


@pytest.mark.parametrize(
    "name",
    [
        "",
        "blocks.0.hook_resid_pre",  # the embedding, which no block puts out
        "blocks.3.hook_mlp_out",
        "blocks.3.attn.hook_z",
        "model.layers.3.mlp",
        "blocks.hook_resid_post",
        "model.layers.3.experts.5",
    ],
)
def test_what_is_not_a_residual_stream_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="residual"):
        Site.parse(name)


def test_sites_sort_by_layer() -> None:
    assert sorted([Site(10), Site(9), Site(2)]) == [Site(2), Site(9), Site(10)]
