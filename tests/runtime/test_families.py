"""Any decoder-only family: its blocks are found and steering means the same in it."""

import pytest
import torch
from families import FAMILIES, IDS, N_LAYERS, REAL_DEPTH, by_hand, family_model
from tiny import tiny_steering
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from saif.core.steering import Steering
from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.engine.protocol import Message, Request, complete
from saif.errors import ModelError
from saif.runtime.batch import Row
from saif.runtime.introspect import decoder_blocks
from saif.runtime.language_model import LanguageModel


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> LanguageModel:
    return family_model(request.param)


def final_norm(model: LanguageModel) -> nn.Module:
    own = {
        "tests/gpt2": "transformer.ln_f",
        "tests/gpt-neox": "gpt_neox.final_layer_norm",
        "tests/gemma3-vision": "model.language_model.norm",
    }
    return model._model.get_submodule(own.get(model.model_id, "model.norm"))


def uncapped_logits(model: LanguageModel, resid: Tensor) -> Tensor:
    return final_norm(model)(resid) @ model._model.get_output_embeddings().weight.T


def final_logits(model: LanguageModel, resid: Tensor) -> Tensor:
    """Final norm, unembedding and soft cap, written out."""
    logits = uncapped_logits(model, resid)
    cap = getattr(model._model.config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def test_the_blocks_are_found_in_order(family: LanguageModel) -> None:
    assert family.n_layers == N_LAYERS
    seen: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, index=index: seen.append(index))
        for index, block in enumerate(family.blocks)
    ]
    family.prefill([Row(IDS)])
    assert seen == list(range(N_LAYERS))
    for handle in handles:
        handle.remove()


def test_steering_the_last_layer_is_final_norm_and_head_of_the_pushed_residual(
    family: LanguageModel,
) -> None:
    last = N_LAYERS - 1
    steering = tiny_steering(last)
    residuals, _ = family.residuals([IDS], [last])
    with torch.no_grad():
        expected = final_logits(family, residuals[last][:, -1] + steering.directions[last])
        plain = final_logits(family, residuals[last][:, -1])
    _, result = family.prefill([Row(IDS, steering), Row(IDS)])
    torch.testing.assert_close(result.logits, torch.cat([expected, plain]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, plain, atol=1e-2)


@pytest.mark.parametrize("name", REAL_DEPTH)
def test_in_its_real_depth_a_push_at_any_layer_is_the_manual_computation(name: str) -> None:
    depth = REAL_DEPTH[name]
    model = family_model(name, n_layers=depth)
    assert model.n_layers == depth
    plain = by_hand(model, IDS, len(IDS))
    for layer in (0, depth // 2, depth - 1):
        steering = tiny_steering(layer)
        _, result = model.prefill([Row(IDS, steering)])
        expected = by_hand(model, IDS, len(IDS), steering)
        torch.testing.assert_close(result.logits[0], expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, plain, atol=1e-3)


@pytest.mark.parametrize("name", REAL_DEPTH)
def test_in_its_real_depth_the_last_residual_is_the_one_before_the_final_norm(name: str) -> None:
    """An SAE of the last layer was trained on that one; transformers' last hidden state is the
    normed one."""
    depth = REAL_DEPTH[name]
    model = family_model(name, n_layers=depth)
    residuals, _ = model.residuals([IDS], [depth - 2, depth - 1])
    put_out: list[Tensor] = []
    with torch.no_grad():
        handle = model.blocks[-1].register_forward_hook(lambda _, __, out: put_out.append(out))
        hidden = model._model(torch.tensor([IDS]), output_hidden_states=True).hidden_states
        handle.remove()
        normed = final_norm(model)(residuals[depth - 1])
    torch.testing.assert_close(residuals[depth - 2], hidden[depth - 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(residuals[depth - 1], put_out[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normed, hidden[depth], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(residuals[depth - 1], hidden[depth], atol=0.1)


def test_a_left_padded_row_equals_its_solo_run_past_the_sliding_window(
    family: LanguageModel,
) -> None:
    # Linear attention sums in chunks, and padding moves their bounds.
    close = 1e-3 if "qwen3.5" in family.model_id else 1e-4
    starts = [Row(IDS[:5]), Row(IDS, tiny_steering(1)), Row(IDS[:12])]
    batch, result = family.prefill(starts)
    alone = [family.prefill([start]) for start in starts]
    for token in list(b"0123456789abcdef"):
        for row, (_, solo) in enumerate(alone):
            torch.testing.assert_close(result.logits[row], solo.logits[0], atol=close, rtol=close)
        if token == ord("8"):
            batch.keep([0, 1])
            alone = alone[:2]
        result = family.decode_step(batch, [token] * len(alone))
        alone = [(one, family.decode_step(one, [token])) for one, _ in alone]


def test_cached_steps_equal_recomputing_everything(family: LanguageModel) -> None:
    steering = tiny_steering(1, span="all")
    batch, result = family.prefill([Row(IDS, steering)])
    reply: list[int] = []
    for token in list(b"0123456789"):
        _, again = family.prefill([Row([*IDS, *reply], steering, len(IDS))])
        torch.testing.assert_close(result.logits, again.logits, atol=1e-4, rtol=1e-4)
        reply.append(token)
        result = family.decode_step(batch, [token])


def test_a_prefix_that_is_read_once_changes_no_residual(family: LanguageModel) -> None:
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


def test_log_probabilities_equal_a_plain_forward_pass(family: LanguageModel) -> None:
    """With a shared prompt that is read once, past a sliding window."""
    rows = [(IDS, list(b" It is deep.")), (IDS[:12], list(b" fish"))]
    for (prompt, reply), found in zip(rows, family.log_probabilities(rows), strict=True):
        with torch.no_grad():
            scores = family._model(torch.tensor([prompt + reply])).logits[0].log_softmax(dim=-1)
        expected = torch.stack([scores[len(prompt) + i - 1, t] for i, t in enumerate(reply)])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_logit_lens_names_the_tokens_a_last_push_raises_most(family: LanguageModel) -> None:
    """Measured: what the model itself would say to the push alone, against its opposite."""
    head = family._model.get_output_embeddings().weight.detach()
    vectors = head[[65, 90]] - head.mean(dim=0)
    words = family.logit_lens(vectors, 3)
    with torch.no_grad():
        rise = final_logits(family, vectors) - final_logits(family, -vectors)
    top = rise.topk(3, dim=-1).indices.tolist()
    assert words == [[family.tokenizer.decode([token]) for token in row] for row in top]


def test_a_push_beyond_the_soft_cap_gives_capped_logits() -> None:
    model = family_model("gemma2")
    cap = model._model.config.final_logit_softcapping
    last = N_LAYERS - 1
    word = model._model.get_output_embeddings().weight.detach()[65]
    loud = Steering({last: 50 * word / word.norm()}, "response", {last: 5.0})
    resid = model.residuals([IDS], [last])[0][last][0, -1]
    with torch.no_grad():
        wanted = uncapped_logits(model, resid + loud.directions[last])
    assert wanted.abs().max() > cap
    logits = model.prefill([Row(IDS, loud)])[1].logits[0]
    assert logits.abs().max() <= cap
    torch.testing.assert_close(logits, cap * torch.tanh(wanted / cap), atol=1e-5, rtol=1e-5)


def test_the_logit_lens_reads_words_before_the_soft_cap() -> None:
    """A cap keeps the order, so words could only change where it flattens logits into ties. They
    are read before it, and a louder push names the same words."""
    model = family_model("gemma2")
    cap = model._model.config.final_logit_softcapping
    vectors = torch.randn(8, 32, generator=torch.Generator().manual_seed(5))
    loud = 1e4 * vectors
    with torch.no_grad():
        head = model._model.get_output_embeddings()
        capped = cap * torch.tanh(head(loud) / cap)
    assert bool((capped.topk(3, dim=-1).values == cap).all()), "nothing was flattened"
    assert model.logit_lens(loud, 3) == model.logit_lens(vectors, 3)
    assert len({tuple(words) for words in model.logit_lens(vectors, 3)}) == len(vectors)


def test_a_model_without_a_pad_token_answers_a_batch(family: LanguageModel) -> None:
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
    model = family_model("qwen2")._model
    for block in model.model.layers:
        block.experts = nn.ModuleList([nn.Identity() for _ in range(N_LAYERS)])
    assert decoder_blocks(model) == list(model.model.layers)
