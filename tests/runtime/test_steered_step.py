"""One steered step does what a person would compute by hand, and nothing else."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import D_MODEL, N_LAYERS, tiny_model, tiny_steering, together
from torch import Tensor, nn

import saif.runtime.language_model as reading_module
import saif.runtime.steering_hook as edits_module
from saif.core.steering import Steering, add_direction
from saif.core.types import SPANS, Span
from saif.errors import InputError, SteeringError
from saif.runtime.batch import Row
from saif.runtime.hooks import edit_outputs
from saif.runtime.language_model import LanguageModel

LONG = "Please tell me something about the sea and its many fishes."
CONTROL = {256, 257}


def chat(model: LanguageModel, text: str) -> list[int]:
    return model.render([{"role": "user", "content": text}])


def steered_by_hand(span: Span, ids: Sequence[int], n_prompt: int) -> list[bool]:
    """The definition of a span in the words of the method, position by position."""
    found = []
    for position, token in enumerate(ids):
        response = position >= n_prompt - 1  # the last prompt token and everything generated
        prompt = position < n_prompt and token not in CONTROL
        found.append({"response": response, "prompt": prompt, "all": response or prompt}[span])
    return found


def by_hand(model: LanguageModel, ids: Sequence[int], n_prompt: int, steering: Steering) -> Tensor:
    """Next-token logits from transformers alone: no cache, no padding, a hook of our own."""
    mask = torch.tensor(steered_by_hand(steering.span, ids, n_prompt))
    handles = []
    for layer, direction in steering.directions.items():

        def hook(
            module: nn.Module, args: object, out: Tensor, direction: Tensor = direction
        ) -> Tensor:
            pushed = out.clone()
            pushed[0, mask] += direction
            return pushed

        handles.append(model.blocks[layer].register_forward_hook(hook))
    try:
        with torch.no_grad():
            return model._model(torch.tensor([list(ids)])).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def edits_at(model: LanguageModel, layer: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(what the block puts out, what the block above it is given) for every forward pass."""
    seen: list[tuple[Tensor, Tensor]] = []
    out: list[Tensor] = []
    block, above = model.blocks[layer], model.blocks[layer + 1]
    handles = [
        block.register_forward_hook(lambda _module, _args, resid: out.append(resid.clone())),
        above.register_forward_pre_hook(lambda _, args: seen.append((out.pop(), args[0].clone()))),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def changed(model: LanguageModel, starts: list[Row], layer: int) -> list[list[bool]]:
    """For every row, which of its tokens' residuals are edited. Fails if padding is."""
    with edits_at(model, layer) as seen:
        model.prefill(starts)
    passes = [(before != after).any(dim=-1).expand(len(starts), -1) for before, after in seen]
    n_shared = sum(edited.shape[1] for edited in passes[:-1])  # a prefix that was read once
    found = []
    for row, start in enumerate(starts):
        n_own = len(start.token_ids) - n_shared
        own = passes[-1][row]
        assert not own[: len(own) - n_own].any(), "padding was steered"
        shared = [flag for edited in passes[:-1] for flag in edited[row].tolist()]
        found.append(shared + own[len(own) - n_own :].tolist())
    return found


def n_hooks(model: LanguageModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model._model.modules()
    )


BOTH = Steering(
    {**tiny_steering(0, seed=3).directions, **tiny_steering(2, seed=4).directions},
    "all",
    {0: 0.7, 2: 0.7},
)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_a_steered_step_equals_the_computation_by_hand(
    model: LanguageModel, span: Span, layer: int
) -> None:
    ids = chat(model, LONG)
    steering = tiny_steering(layer, span=span)
    _, result = model.prefill([Row(ids, steering)])
    expected = by_hand(model, ids, len(ids), steering)
    torch.testing.assert_close(result.logits[0], expected, atol=1e-5, rtol=1e-5)
    plain = model.prefill([Row(ids)])[1].logits[0]
    assert not torch.allclose(plain, expected, atol=1e-2) or span == "prompt"


def test_several_layers_at_once_equal_the_computation_by_hand(model: LanguageModel) -> None:
    ids = chat(model, LONG)
    _, result = model.prefill([Row(ids, BOTH)])
    expected = by_hand(model, ids, len(ids), BOTH)
    torch.testing.assert_close(result.logits[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("span", SPANS)
def test_cached_steps_equal_recomputing_everything(model: LanguageModel, span: Span) -> None:
    prompt = chat(model, LONG)
    steering = together(tiny_steering(1, span=span), tiny_steering(3, span=span, seed=5))
    batch, result = model.prefill([Row(prompt, steering)])
    reply: list[int] = []
    for _ in range(8):
        ids = [*prompt, *reply]
        _, again = model.prefill([Row(ids, steering, len(prompt))])
        torch.testing.assert_close(result.logits, again.logits, atol=1e-4, rtol=1e-4)
        expected = by_hand(model, ids, len(prompt), steering)
        torch.testing.assert_close(result.logits[0], expected, atol=1e-4, rtol=1e-4)
        reply.append(int(result.logits[0].argmax()))
        result = model.decode_step(batch, reply[-1:])


@pytest.mark.parametrize("span", SPANS)
def test_a_row_equals_its_solo_run_in_any_company(model: LanguageModel, span: Span) -> None:
    """Mixed lengths, left padding, other steerings, other layers, rows that drop out."""
    starts = [
        Row(chat(model, "Hi"), tiny_steering(1, span=span)),
        Row(chat(model, LONG)),
        Row(chat(model, "What is this?"), tiny_steering(2, span="all", seed=7)),
        Row(chat(model, LONG * 2), tiny_steering(1, span="prompt", seed=8)),
    ]
    script = torch.randint(0, 256, (6, 4), generator=torch.Generator().manual_seed(2)).tolist()
    batch, result = model.prefill(starts)
    together = {row: [result.logits[row]] for row in range(4)}
    alive = [0, 1, 2, 3]
    for step, tokens in enumerate(script):
        if step in (2, 4):  # two rows finish on the way
            kept = [0, 1, 3] if step == 2 else [0, 2]
            batch.keep(kept)
            alive = [alive[row] for row in kept]
        result = model.decode_step(batch, [tokens[row] for row in alive])
        for place, row in enumerate(alive):
            together[row].append(result.logits[place])
    for row, start in enumerate(starts):
        batch, result = model.prefill([start])
        solo = [result.logits[0]]
        for tokens in script[: len(together[row]) - 1]:
            solo.append(model.decode_step(batch, [tokens[row]]).logits[0])
        for mine, alone in zip(together[row], solo, strict=True):
            torch.testing.assert_close(mine, alone, atol=1e-4, rtol=1e-4)


def test_keep_may_also_put_rows_in_another_order(model: LanguageModel) -> None:
    starts = [Row(chat(model, "Hi"), tiny_steering()), Row(chat(model, LONG))]
    batch, _ = model.prefill(starts)
    straight = model.decode_step(batch, [65, 66]).logits
    batch, _ = model.prefill(starts)
    batch.keep([1, 0])
    torch.testing.assert_close(model.decode_step(batch, [66, 65]).logits.flip(0), straight)


@pytest.mark.parametrize("span", SPANS)
def test_only_the_positions_of_the_span_change(model: LanguageModel, span: Span) -> None:
    """Never padding, never another row, and no control token but the last of the prompt."""
    short, long = chat(model, "Hi"), chat(model, LONG)
    prompt = long[:-3]  # as if three tokens were generated already
    starts = [
        Row(short, tiny_steering(span=span)),
        Row(long, tiny_steering(span=span, seed=1), len(prompt)),
        Row(short),
    ]
    assert changed(model, starts, 1) == [
        steered_by_hand(span, short, len(short)),
        steered_by_hand(span, long, len(prompt)),
        [False] * len(short),
    ]


def test_the_last_prompt_token_is_steered_even_if_it_is_a_control_token(
    model: LanguageModel,
) -> None:
    ids = [*chat(model, "Hi"), 256]
    columns = {span: changed(model, [Row(ids, tiny_steering(span=span))], 1)[0] for span in SPANS}
    assert columns["response"] == [False] * (len(ids) - 1) + [True]
    assert columns["all"][-1]
    assert not columns["prompt"][-1]
    for span in ("prompt", "all"):
        assert not any(columns[span][i] for i, token in enumerate(ids[:-1]) if token in CONTROL)


def test_the_reported_number_of_steered_positions_is_what_the_span_says(
    model: LanguageModel,
) -> None:
    ids = chat(model, LONG)
    starts = [Row(ids, tiny_steering(span=span)) for span in SPANS]
    batch, first = model.prefill([*starts, Row(ids)])
    n_text = sum(token not in CONTROL for token in ids)
    assert first.steered == (1, n_text, n_text, 0)
    assert model.decode_step(batch, [65] * 4).steered == (1, 0, 1, 0)


def test_the_first_generated_token_is_steered(model: LanguageModel) -> None:
    """A push towards one token's unembedding at the last layer makes it the first word."""
    ids = chat(model, "Hi")
    plain = int(model.prefill([Row(ids)])[1].logits[0].argmax())
    head = model._model.get_output_embeddings().weight.detach()
    target = (plain + 1) % 256
    direction = 1000 * head[target] / head[target].norm()
    steering = Steering({N_LAYERS - 1: direction}, "response", {N_LAYERS - 1: 100.0})
    result = model.prefill([Row(ids, steering)])[1]
    assert int(result.logits[0].argmax()) == target


def test_a_nan_forced_past_the_check_stays_in_its_row(model: LanguageModel) -> None:
    ids = chat(model, LONG)
    forced = tiny_steering()
    object.__setattr__(forced, "directions", {1: torch.full((D_MODEL,), float("nan"))})
    batch, result = model.prefill([Row(ids), Row(ids, forced)])
    clean_batch, clean = model.prefill([Row(ids), Row(ids, tiny_steering())])
    assert torch.equal(result.logits[0], clean.logits[0])
    later = model.decode_step(batch, [65, 65]).logits[0]
    assert later.isfinite().all()
    assert torch.equal(later, model.decode_step(clean_batch, [65, 65]).logits[0])


@pytest.mark.parametrize(
    "steering",
    [
        Steering({1: torch.ones(D_MODEL + 1)}, "all", {1: 1.0}),
        Steering({N_LAYERS: torch.ones(D_MODEL)}, "all", {N_LAYERS: 1.0}),
        Steering({-1: torch.ones(D_MODEL)}, "all", {-1: 1.0}),
    ],
)
def test_a_direction_that_does_not_fit_the_model_is_refused(
    model: LanguageModel, steering: Steering
) -> None:
    with pytest.raises(SteeringError, match="doesn't fit tests/tiny-llama"):
        model.prefill([Row(chat(model, "Hi"), steering)])


def test_an_empty_prompt_is_refused(model: LanguageModel) -> None:
    for starts in ([], [Row([])], [Row([65]), Row([])]):
        with pytest.raises(InputError, match="nothing to read"):
            model.prefill(starts)


# A hook that doesn't do its work is an error, never fluent text under a wrong label.


def test_a_hook_that_does_not_fire_is_an_error(model: LanguageModel) -> None:
    model.blocks = copy.deepcopy(model.blocks)  # modules that the forward pass never calls
    with pytest.raises(SteeringError, match=r"layer 1 changed \[0\] positions instead of \[1\]"):
        model.prefill([Row(chat(model, "Hi"), tiny_steering())])


def test_a_hook_that_stops_firing_in_mid_reply_is_an_error(model: LanguageModel) -> None:
    batch, _ = model.prefill([Row(chat(model, "Hi"), tiny_steering(3))])
    model._model.model.config.num_hidden_layers = 3  # early exit: the last block is skipped
    with pytest.raises(SteeringError, match="layer 3"):
        model.decode_step(batch, [65])


def test_an_edit_that_changes_too_few_positions_is_an_error(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(resid: Tensor, directions: Tensor, weights: Tensor, **shape: Any) -> Tensor:
        weights = weights.clone()
        weights[0, weights[0].nonzero()[0]] = 0
        return add_direction(resid, directions, weights, **shape)

    monkeypatch.setattr(edits_module, "add_direction", forgetful)
    with pytest.raises(SteeringError):
        model.prefill([Row(chat(model, LONG), tiny_steering(span="all"))])


def test_a_plain_row_that_was_changed_is_an_error(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaky(resid: Tensor, directions: Tensor, weights: Tensor, **shape: Any) -> Tensor:
        both = weights + weights.roll(1, 0)
        return add_direction(resid, directions + directions.roll(1, 0), both, **shape)

    monkeypatch.setattr(edits_module, "add_direction", leaky)
    ids = chat(model, "Hi")
    with pytest.raises(SteeringError, match=r"changed \[1, 1\] positions instead of \[0, 1\]"):
        model.prefill([Row(ids), Row(ids, tiny_steering())])


def test_an_edit_that_is_added_twice_is_an_error(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def doubled(blocks, edits):
        with edit_outputs(blocks, edits), edit_outputs(blocks, edits):
            yield

    monkeypatch.setattr(reading_module, "edit_outputs", doubled)
    with pytest.raises(SteeringError, match=r"changed \[2\] positions instead of \[1\]"):
        model.prefill([Row(chat(model, "Hi"), tiny_steering())])


# Between steps the model is the plain model.


def test_a_step_leaves_no_hook_no_lock_and_no_inference_mode(model: LanguageModel) -> None:
    batch, _ = model.prefill([Row(chat(model, "Hi"), tiny_steering())])
    model.decode_step(batch, [65])
    assert n_hooks(model) == 0
    assert not model._lock.locked()
    assert not torch.is_inference_mode_enabled()


def test_a_step_that_fails_leaves_no_hook_and_no_lock(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **shape: object) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(edits_module, "add_direction", broken)
    ids = chat(model, "Hi")
    with pytest.raises(RuntimeError, match="out of memory"):
        model.prefill([Row(ids, tiny_steering())])
    assert n_hooks(model) == 0
    assert not model._lock.locked()
    model.prefill([Row(ids)])


def test_a_plain_step_registers_no_hook_at_all(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    first = model.blocks[0]
    original = first.forward

    def spy(*args, **kwargs):
        seen.append(n_hooks(model))
        return original(*args, **kwargs)

    monkeypatch.setattr(first, "forward", spy)
    ids = chat(model, "Hi")
    model.prefill([Row(ids)])
    batch, _ = model.prefill([Row(ids, tiny_steering(span="prompt"))])
    model.decode_step(batch, [65])  # nothing of a `prompt` span is left to steer
    assert seen == [0, 1, 0]


def test_a_bfloat16_model_is_steered_in_bfloat16() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    ids = chat(model, LONG)
    steering = tiny_steering(1, span="all")
    with edits_at(model, 1) as seen:
        batch, result = model.prefill([Row(ids, steering), Row(ids)])
        model.decode_step(batch, [65, 65])
    assert {resid.dtype for pair in seen for resid in pair} == {torch.bfloat16}
    assert result.steered == (sum(token not in CONTROL for token in ids), 0)
    before, after = seen[-1]  # the generated token
    torch.testing.assert_close(
        (after - before).float()[:, -1],
        torch.stack([steering.directions[1], torch.zeros(D_MODEL)]),
        atol=0.05,
        rtol=0.05,
    )
