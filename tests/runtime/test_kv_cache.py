"""A KV cache that grows in place holds what one that is concatenated holds."""

import torch
from tiny import tiny_model
from transformers import DynamicCache

from saif.runtime.kv_cache import _SPARE_COLUMNS, PreallocatedLayer, new_cache


def columns(n: int, seed: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 3, n, 4, generator=generator)
    return keys, values


def test_it_holds_what_a_concatenated_cache_holds() -> None:
    config = tiny_model()._model.config
    ours, theirs = new_cache(config), DynamicCache(config=config)
    assert {type(layer) for layer in ours.layers} == {PreallocatedLayer}
    n_steps = _SPARE_COLUMNS + 5  # past the first buffers
    for step in range(n_steps):
        if step == 7:  # rows are repeated, as after a prefix that was read once
            for cache in (ours, theirs):
                cache.reorder_cache(torch.tensor([0, 1, 1]))
        if step == 40:  # and dropped
            for cache in (ours, theirs):
                cache.reorder_cache(torch.tensor([0, 2]))
        keys, values = columns(9 if step == 0 else 1, step, rows=3 if 7 <= step < 40 else 2)
        for mine, expected in zip(
            ours.update(keys, values, 1), theirs.update(keys, values, 1), strict=True
        ):
            assert torch.equal(mine, expected)
    assert ours.get_seq_length(1) == theirs.get_seq_length(1) == 9 + n_steps - 1


def test_a_step_copies_nothing_while_columns_are_spare() -> None:
    layer = PreallocatedLayer()
    layer.update(*columns(5, 0))
    before = layer._buffers
    for step in range(_SPARE_COLUMNS):
        layer.update(*columns(1, step))
    assert layer._buffers is before
    layer.update(*columns(1, 0))
    assert layer._buffers is not before


def test_a_cropped_cache_goes_on_from_where_it_was_cut() -> None:
    layer = PreallocatedLayer()
    layer.update(*columns(5, 0))
    layer.crop(-2)
    keys, _ = layer.update(*columns(1, 1))
    assert torch.equal(keys, torch.cat([columns(5, 0)[0][:, :, :3], columns(1, 1)[0]], dim=2))


def test_a_column_is_appended_as_it_would_be_in_an_update() -> None:
    one, other = PreallocatedLayer(), PreallocatedLayer()
    for layer in (one, other):
        layer.update(*columns(5, 0))
    for step in range(_SPARE_COLUMNS + 3):  # past the first buffers
        keys, values = columns(1, step)
        if step == 9:
            for layer in (one, other):
                layer.reorder_cache(torch.tensor([1, 0]))
        found = one.append(keys[:, :, 0], values[:, :, 0])
        for mine, expected in zip(found, other.update(keys, values), strict=True):
            assert torch.equal(mine, expected)
