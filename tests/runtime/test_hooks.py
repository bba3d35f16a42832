"""Hooks open and close inside one forward pass."""

import pytest
import torch
from torch import nn

from saif.errors import SteeringError
from saif.runtime.hooks import edit_outputs


class TupleBlock(nn.Module):
    """A block of older transformers versions: (residual, something else)."""

    def forward(self, resid: torch.Tensor) -> tuple[torch.Tensor, str]:
        return resid, "attention"


RESID = torch.ones(1, 2, 3)


def test_only_the_residual_of_a_tuple_is_replaced() -> None:
    block = TupleBlock()
    with edit_outputs([block], {0: lambda resid: resid + 1}):
        resid, rest = block(RESID)
    assert torch.equal(resid, RESID + 1)
    assert rest == "attention"
    assert torch.equal(block(RESID)[0], RESID)


def test_an_edit_sees_what_those_before_it_made() -> None:
    block = nn.Identity()
    seen: list[torch.Tensor] = []

    def record(resid: torch.Tensor) -> torch.Tensor:
        seen.append(resid)
        return resid

    with edit_outputs([block], {0: lambda resid: resid * 2}), edit_outputs([block], {0: record}):
        block(RESID)
    assert torch.equal(seen[0], RESID * 2)


@pytest.mark.parametrize("edit", [lambda r: r.double(), lambda r: r[:, :1]])
def test_an_edit_may_change_neither_shape_nor_dtype(edit) -> None:
    block = nn.Identity()
    with pytest.raises(SteeringError, match="An edit turned"), edit_outputs([block], {0: edit}):
        block(RESID)
    assert not block._forward_hooks


def test_a_layer_that_does_not_exist_leaves_no_hook_behind() -> None:
    block = nn.Identity()
    with pytest.raises(IndexError), edit_outputs([block], {0: lambda r: r, 1: lambda r: r}):
        pass
    assert not block._forward_hooks
