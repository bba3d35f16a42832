"""Replies that outgrow a sliding window, or that a state without positions carries: every family
in its real depth, rows of unequal length, steered, against reading everything anew by hand."""

import pytest
import torch
from families import IDS, REAL_DEPTH, SLIDING, WINDOW, by_hand, family_model
from torch import Tensor

from saif.core.steering import Steering
from saif.core.types import Span
from saif.runtime.batch import Row
from saif.runtime.language_model import LanguageModel

N_STEPS = 2 * WINDOW + 4

# Rounding errors grow from block to block, and the more the wider the weights. Linear attention
# sums in chunks that padding shifts; in float64 it agrees to 1e-12 whatever the weights (measured).
SPREAD = {"qwen3.5": 0.05}


def deep_model(name: str) -> LanguageModel:
    return family_model(name, n_layers=REAL_DEPTH[name], spread=SPREAD.get(name, 0.1))


def steered_by(model: LanguageModel, layers: dict[int, int], span: Span) -> Steering:
    """Half as long as the residuals it is added to, so that neither drowns the other.

    layers: layer -> seed.
    """
    residuals, _ = model.residuals([IDS], list(layers))
    directions: dict[int, Tensor] = {}
    for layer, seed in layers.items():
        random = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))
        size = 0.5 * float(residuals[layer][0].norm(dim=-1).mean())
        directions[layer] = size * random / random.norm()
    return Steering(directions, span, dict.fromkeys(layers, 0.5))


@pytest.mark.parametrize("span", ["response", "all"])
@pytest.mark.parametrize("name", REAL_DEPTH)
def test_rows_of_unequal_length_decode_as_if_everything_were_read_anew(
    name: str, span: Span
) -> None:
    """Two rows outgrow the window on the way and three began beyond it; one ends early, and the
    others change places. All start alike, so that what is not steered could be read once."""
    model = deep_model(name)
    middle, last = model.n_layers // 2, model.n_layers - 1
    starts = [
        Row(IDS[:3], steered_by(model, {0: 1}, span)),
        Row(IDS),
        Row(IDS[: WINDOW - 2], steered_by(model, {1: 2}, span)),
        Row(IDS, steered_by(model, {middle: 3, last: 4}, span)),
        Row(IDS[: WINDOW + 4], steered_by(model, {last - 1: 5}, span)),
    ]
    tokens = torch.randint(0, 256, (N_STEPS, 5), generator=torch.Generator().manual_seed(1))
    alive = list(range(5))
    sequences = [list(start.token_ids) for start in starts]
    batch, result = model.prefill(starts)
    for step in range(N_STEPS):
        if step % 5 == 0 or step == N_STEPS - 1:
            for logits, row in zip(result.logits, alive, strict=True):
                n_prompt = len(starts[row].token_ids)
                expected = by_hand(model, sequences[row], n_prompt, starts[row].steering)
                torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        if step == WINDOW // 2:
            alive = [3, 0, 2, 4]
            batch.keep(alive)
        new = tokens[step][alive].tolist()
        for row, token in zip(alive, new, strict=True):
            sequences[row].append(token)
        result = model.decode_step(batch, new)
    for logits, row in zip(result.logits, alive, strict=True):
        plain = by_hand(model, sequences[row], len(starts[row].token_ids))
        assert (logits - plain).abs().max() > 0.01, "steering makes no difference"


@pytest.mark.parametrize("name", [*SLIDING, "qwen3.5"])
def test_rows_of_one_length_share_what_they_start_with(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the columns of a chat do: without padding even a window may be read apart."""
    model = deep_model(name)
    steering = steered_by(model, {1: 2, model.n_layers - 1: 4}, "response")
    read: list[int] = []
    forward = model._forward

    def count(input_ids: Tensor, *rest: object, **options: object) -> object:
        read.append(input_ids.numel())
        return forward(input_ids, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "_forward", count)
    batch, result = model.prefill([Row(IDS), Row(IDS, steering), Row(IDS)])
    assert read == [len(IDS) - 1, 3]
    sequence = list(IDS)
    for token in [*IDS[:N_STEPS], None]:
        for logits, wanted in zip(result.logits, (None, steering, None), strict=True):
            expected = by_hand(model, sequence, len(IDS), wanted)
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        if token is not None:
            sequence.append(token)
            result = model.decode_step(batch, [token] * 3)


@pytest.mark.parametrize("name", SLIDING)
def test_what_has_left_the_window_would_make_a_difference(name: str) -> None:
    """Or the test above would pass with a window that nobody minds."""
    model = deep_model(name)
    narrow = by_hand(model, IDS, len(IDS))
    text = model._model.config.get_text_config()
    for block in model.blocks:
        if getattr(block.self_attn, "sliding_window", None):
            block.self_attn.sliding_window = 1000
    text.sliding_window = 1000
    wide = by_hand(model, IDS, len(IDS))
    assert (narrow - wide).abs().max() > 1e-3
