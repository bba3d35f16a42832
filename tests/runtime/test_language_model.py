"""Residuals and log-probabilities are the plain model's own."""

import pytest
import torch
from tiny import N_LAYERS, tiny_model

from saif.errors import InputError
from saif.runtime.batch import Row
from saif.runtime.language_model import LanguageModel

TEXTS = [list(b"Once upon a time there was a fox."), list(b"Once upon a hill"), list(b"Once u")]


def reference(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model._model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)


def test_residuals_are_transformers_hidden_states(model: LanguageModel) -> None:
    layers = list(range(N_LAYERS - 1))  # transformers norms the last one
    residuals, mask = model.residuals(TEXTS, layers)
    for row, ids in enumerate(TEXTS):
        with torch.no_grad():
            hidden = model._model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for layer in layers:
            torch.testing.assert_close(
                residuals[layer][row][mask[row]], hidden[layer + 1][0], atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("skip", [0, 1, 5])
def test_skipping_a_shared_prefix_changes_no_residual(model: LanguageModel, skip: int) -> None:
    whole, whole_mask = model.residuals(TEXTS, [0, 3])
    parts, parts_mask = model.residuals(TEXTS, [0, 3], skip=skip)
    for layer in (0, 3):
        for row in range(len(TEXTS)):
            torch.testing.assert_close(
                parts[layer][row][parts_mask[row]],
                whole[layer][row][whole_mask[row]][skip:],
                atol=1e-4,
                rtol=1e-4,
            )


def test_a_prefix_that_is_not_shared_is_refused(model: LanguageModel) -> None:
    with pytest.raises(InputError, match="first 13 tokens"):
        model.residuals(TEXTS[:2], [0], skip=13)
    with pytest.raises(InputError, match="first 6 tokens"):
        model.residuals(TEXTS, [0], skip=6)  # the last one would have nothing left


def test_log_probabilities_equal_a_forward_pass_of_each_row(model: LanguageModel) -> None:
    rows = [
        (TEXTS[0], list(b" It ran.")),
        (TEXTS[2], list(b"pon a time, long ago")),
        (TEXTS[1], [65]),
    ]
    for (prompt, reply), found in zip(rows, model.log_probabilities(rows), strict=True):
        scores = reference(model, prompt + reply)
        expected = torch.stack(
            [scores[len(prompt) + i - 1, token] for i, token in enumerate(reply)]
        )
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_prompt_of_several_rows_is_read_once_and_each_gets_its_own(
    model: LanguageModel,
) -> None:
    prompts = [list(b"The same start, and then a fox."), list(b"The same start, then")]
    rows = [(prompts[i % 2], list(f" It ran {i} times.".encode())) for i in range(6)]
    read: list[int] = []
    handle = model._model.register_forward_pre_hook(
        lambda _module, _args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    found = model.log_probabilities(rows)
    handle.remove()
    shared = len(b"The same start, ")
    own = max(len(prompt) for prompt in prompts) - 1 - shared
    continuations = 6 * (1 + len(rows[0][1]))
    assert read == [shared, 2 * own, continuations]
    for (prompt, reply), scores in zip(rows, found, strict=True):
        expected = reference(model, prompt + reply)[len(prompt) - 1 : -1]
        picked = expected.gather(1, torch.tensor(reply)[:, None])[:, 0]
        torch.testing.assert_close(scores, picked, atol=1e-4, rtol=1e-4)


def test_a_prompt_of_one_token_has_nothing_to_be_read_before(model: LanguageModel) -> None:
    (found,) = model.log_probabilities([([65], [66, 67])])
    expected = reference(model, [65, 66, 67])[[0, 1], [66, 67]]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_an_empty_continuation_has_no_log_probabilities(model: LanguageModel) -> None:
    found = model.log_probabilities([(TEXTS[0], []), (TEXTS[1], [65, 66])])
    assert [len(scores) for scores in found] == [0, 2]


@pytest.mark.parametrize("skip", [0, 1, 4])
def test_the_loss_is_the_mean_over_every_row_s_own_tokens(model: LanguageModel, skip: int) -> None:
    losses = []
    for ids in TEXTS:
        scores = reference(model, ids)
        losses += [-scores[i - 1, ids[i]] for i in range(max(skip, 1), len(ids))]
    expected = float(torch.stack(losses).mean())
    assert model.next_token_loss(TEXTS, skip=skip) == pytest.approx(expected, abs=1e-4)


def test_the_loss_with_a_replaced_residual_is_another_one(model: LanguageModel) -> None:
    plain = model.next_token_loss(TEXTS, skip=1)
    assert model.next_token_loss(TEXTS, skip=1, replace={1: lambda resid: resid}) == plain
    assert model.next_token_loss(TEXTS, skip=1, replace={1: torch.zeros_like}) != plain
    assert model.next_token_loss(TEXTS, skip=1) == plain


def test_the_fingerprint_survives_quantization_but_not_finetuning() -> None:
    model = tiny_model()
    assert model.fingerprint == tiny_model(dtype=torch.bfloat16).fingerprint
    assert model.fingerprint != tiny_model(seed=1).fingerprint
    for parameter in model._model.parameters():
        if parameter.ndim == 2:  # what a quantizer touches
            parameter.data = (parameter.data * 4).round() / 4
    again = LanguageModel(model.model_id, model._model, model.tokenizer)
    assert again.fingerprint == model.fingerprint


def test_reading_leaves_the_model_plain(model: LanguageModel) -> None:
    before = model.prefill([Row(TEXTS[0])])[1].logits
    model.residuals(TEXTS, [0, 1])
    model.log_probabilities([(TEXTS[0], TEXTS[1])])
    assert torch.equal(model.prefill([Row(TEXTS[0])])[1].logits, before)
