"""Any decoder-only family: its blocks are found and steering means the same in it."""

from typing import Any

import pytest
import torch
from tiny import tiny_steering, tiny_tokenizer
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from saif.engine import LocalEngine, Message, Request, complete
from saif.errors import ModelError
from saif.generation import Sampling
from saif.runtime.anatomy import decoder_blocks
from saif.runtime.model import RowStart, SteerableModel

N_LAYERS = 4
REAL_DEPTH = {
    "gpt2": 12,
    "llama": 32,
    "gemma2": 26,
    "gemma3": 26,
    "qwen2": 28,
    "qwen3": 28,
    "qwen3.5": 24,
    "gpt-oss": 24,
}
WINDOW = 8
_SHAPE = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": None,
}
_LLAMA_LIKE = {**_SHAPE, "num_key_value_heads": 2, "head_dim": 8}
_GEMMA = {**_LLAMA_LIKE, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
FAMILIES = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=258,
            n_embd=32,
            n_layer=N_LAYERS,
            n_head=4,
            n_positions=256,
            initializer_range=0.2,
            bos_token_id=256,
            eos_token_id=257,
        )
    ),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SHAPE)),
    "gpt-oss": lambda: GptOssForCausalLM(
        GptOssConfig(
            **_LLAMA_LIKE, sliding_window=WINDOW, num_local_experts=4, num_experts_per_tok=2
        )
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_LLAMA_LIKE)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_GEMMA, final_logit_softcapping=5.0)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**_GEMMA)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SHAPE, num_key_value_heads=2)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_LLAMA_LIKE)),
    # Three blocks of linear attention, whose state has no positions, and one of the usual kind.
    "qwen3.5": lambda: Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(
            **_LLAMA_LIKE,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        )
    ),
}
IDS = list(b"Tell me about the sea and the fishes in it.")  # longer than a sliding window


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> SteerableModel:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None  # as GPT-2 has it
    model = FAMILIES[request.param]()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return SteerableModel(f"tests/{request.param}", model, tokenizer)


def final_logits(model: SteerableModel, resid: Tensor) -> Tensor:
    """Final norm, unembedding and soft cap, written out."""
    lm = model._model
    inner = lm.base_model
    norm = inner.ln_f if hasattr(inner, "ln_f") else getattr(inner, "norm", None)
    norm = norm or inner.final_layer_norm
    logits = norm(resid) @ lm.get_output_embeddings().weight.T
    cap = getattr(lm.config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def test_the_blocks_are_found_in_order(family: SteerableModel) -> None:
    assert family.n_layers == N_LAYERS
    seen: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, index=index: seen.append(index))
        for index, block in enumerate(family.blocks)
    ]
    family.start([RowStart(IDS)])
    assert seen == list(range(N_LAYERS))
    for handle in handles:
        handle.remove()


def test_steering_the_last_layer_is_final_norm_and_head_of_the_pushed_residual(
    family: SteerableModel,
) -> None:
    last = N_LAYERS - 1
    steering = tiny_steering(last)
    residuals, _ = family.residuals([IDS], [last])
    with torch.no_grad():
        expected = final_logits(family, residuals[last][:, -1] + steering.directions[last])
        plain = final_logits(family, residuals[last][:, -1])
    _, result = family.start([RowStart(IDS, steering), RowStart(IDS)])
    torch.testing.assert_close(result.logits, torch.cat([expected, plain]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, plain, atol=1e-2)


@pytest.mark.parametrize("name", REAL_DEPTH)
def test_in_its_real_depth_a_push_at_any_layer_is_the_manual_computation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed with the hooks, against blocks that are called one by one."""
    depth = REAL_DEPTH[name]
    monkeypatch.setitem(_SHAPE, "num_hidden_layers", depth)
    for shape in (_LLAMA_LIKE, _GEMMA):
        monkeypatch.setitem(shape, "num_hidden_layers", depth)
    monkeypatch.setattr(f"{__name__}.N_LAYERS", depth)
    torch.manual_seed(0)
    lm = FAMILIES[name]()
    model = SteerableModel(f"tests/{name}", lm, tiny_tokenizer())
    assert model.n_layers == depth
    for layer in (0, depth // 2, depth - 1):
        steering = tiny_steering(layer)
        _, result = model.start([RowStart(IDS, steering)])
        push = torch.zeros(len(IDS), 32)
        push[-1] = steering.directions[layer]  # span `response`: the last prompt token
        block = model.blocks[layer]
        whole = block.forward

        def pushed(*args: object, whole: Any = whole, push: Tensor = push, **more: object) -> Any:
            return whole(*args, **more) + push

        block.forward = pushed  # type: ignore[method-assign]
        with torch.no_grad():
            expected = lm(torch.tensor([IDS])).logits[:, -1]
            block.forward = whole  # type: ignore[method-assign]
            plain = lm(torch.tensor([IDS])).logits[:, -1]
        torch.testing.assert_close(result.logits, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, plain, atol=1e-3)


def test_a_left_padded_row_equals_its_solo_run_past_the_sliding_window(
    family: SteerableModel,
) -> None:
    # Linear attention sums in chunks, and padding moves their bounds.
    close = 1e-3 if "qwen3.5" in family.model_id else 1e-4
    starts = [RowStart(IDS[:5]), RowStart(IDS, tiny_steering(1)), RowStart(IDS[:12])]
    batch, result = family.start(starts)
    alone = [family.start([start]) for start in starts]
    for token in list(b"0123456789abcdef"):
        for row, (_, solo) in enumerate(alone):
            torch.testing.assert_close(result.logits[row], solo.logits[0], atol=close, rtol=close)
        if token == ord("8"):
            family.keep(batch, [0, 1])
            alone = alone[:2]
        result = family.advance(batch, [token] * len(alone))
        alone = [(one, family.advance(one, [token])) for one, _ in alone]


def test_cached_steps_equal_recomputing_everything(family: SteerableModel) -> None:
    steering = tiny_steering(1, span="all")
    batch, result = family.start([RowStart(IDS, steering)])
    reply: list[int] = []
    for token in list(b"0123456789"):
        _, again = family.start([RowStart([*IDS, *reply], steering, len(IDS))])
        torch.testing.assert_close(result.logits, again.logits, atol=1e-4, rtol=1e-4)
        reply.append(token)
        result = family.advance(batch, [token])


def test_a_prefix_that_is_read_once_changes_no_residual(family: SteerableModel) -> None:
    sequences = [IDS, IDS[:20], IDS[:14]]
    whole, whole_mask = family.residuals(sequences, [1, 3])
    parts, parts_mask = family.residuals(sequences, [1, 3], skip=10)
    for row, ids in enumerate(sequences):
        for layer in (1, 3):
            torch.testing.assert_close(
                parts[layer][row][parts_mask[row]],
                whole[layer][row][whole_mask[row]][10:],
                atol=1e-4,
                rtol=1e-4,
            )
        assert int(parts_mask[row].sum()) == len(ids) - 10


def test_log_probabilities_equal_a_plain_forward_pass(family: SteerableModel) -> None:
    """With a shared prompt that is read once, past a sliding window."""
    rows = [(IDS, list(b" It is deep.")), (IDS[:12], list(b" fish"))]
    for (prompt, reply), found in zip(rows, family.log_probabilities(rows), strict=True):
        with torch.no_grad():
            scores = family._model(torch.tensor([prompt + reply])).logits[0].log_softmax(dim=-1)
        expected = torch.stack([scores[len(prompt) + i - 1, t] for i, t in enumerate(reply)])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_logit_lens_names_the_tokens_a_last_push_raises_most(family: SteerableModel) -> None:
    """Measured: what the model itself would say to the push alone, against its opposite."""
    head = family._model.get_output_embeddings().weight.detach()
    vectors = head[[65, 90]] - head.mean(dim=0)
    words = family.logit_lens(vectors, 3)
    with torch.no_grad():
        rise = final_logits(family, vectors) - final_logits(family, -vectors)
    top = rise.topk(3, dim=-1).indices.tolist()
    assert words == [[family.tokenizer.decode([token]) for token in row] for row in top]


def test_a_model_without_a_pad_token_answers_a_batch(family: SteerableModel) -> None:
    engine = LocalEngine(family)
    requests = [
        Request(
            messages=(Message("user", text),),
            steering=steering,
            sampling=Sampling(max_new_tokens=5),
        )
        for text, steering in (("Hi", None), ("Tell me more", tiny_steering(2)))
    ]
    together = complete(engine, requests)
    assert together == [complete(engine, [request])[0] for request in requests]


def test_a_model_without_decoder_blocks_is_refused() -> None:
    encoder = T5EncoderModel(
        T5Config(vocab_size=258, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )
    encoder.config.num_hidden_layers = 7
    with pytest.raises(ModelError, match="No list of 7 decoder blocks"):
        decoder_blocks(encoder)


def test_a_list_nested_inside_a_block_is_not_taken_for_the_blocks() -> None:
    """As many experts as blocks, say."""
    model = FAMILIES["qwen2"]()
    for block in model.model.layers:
        block.experts = nn.ModuleList([nn.Identity() for _ in range(N_LAYERS)])
    assert decoder_blocks(model) == list(model.model.layers)
