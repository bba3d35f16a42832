"""The front door: what `import saif` offers, on a tiny model and on the embedded one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import MODEL_ID, tiny_model, tiny_preset, tiny_steering, together
from torch import Tensor
from ui_server import owner_library

import saif
from saif.core.steering import Steering
from saif.core.types import SPANS, Schedule, Span
from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.engine.protocol import Message, Reply, Request, complete
from saif.errors import InputError, PresetError, SteeringError
from saif.presets.library import Library, write_preset
from saif.runtime.batch import left_pad
from saif.runtime.language_model import LanguageModel

TEXTS = ["The weather is lovely today.", "hi", "Write a list."]
N_TOKENS = 12


def prompt_ids(model: LanguageModel, text: str) -> list[int]:
    return model.render([{"role": "user", "content": text}])


def generate(model: LanguageModel, texts: list[str], **options: Any) -> list[list[int]]:
    """Greedy, in one left-padded batch: each row's new tokens."""
    ids, mask = left_pad([prompt_ids(model, text) for text in texts], 0)
    settings: dict[str, Any] = {
        "max_new_tokens": N_TOKENS,
        "do_sample": False,
        "repetition_penalty": 1.1,
        "pad_token_id": 0,
    }
    out: Tensor = model.hf_model.generate(ids, attention_mask=mask, **{**settings, **options})
    rows: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return rows


def column(model: LanguageModel, text: str, steering: Steering | None) -> Reply:
    """The reply that saif's own decode loop gives."""
    sampling = Sampling(max_new_tokens=N_TOKENS)
    messages = (Message("user", text),)
    request = Request(messages=messages, steering=steering, sampling=sampling)
    return complete(LocalEngine(model), [request])[0]


def assert_same(model: LanguageModel, tokens: list[int], reply: Reply) -> None:
    n = len(reply.token_ids)
    assert tokens[:n] == list(reply.token_ids)
    if reply.stop == "end":
        assert tokens[n] in model.end_ids


# Steering a plain transformers model


@pytest.mark.parametrize("half_life", [None, 4])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("span", SPANS)
def test_generate_inside_steering_writes_the_steered_column(
    model: LanguageModel, span: Span, cached: bool, half_life: int | None
) -> None:
    steering = together(tiny_steering(span=span), tiny_steering(3, span=span, seed=1))
    steering = replace(steering, schedule=Schedule(half_life=half_life))
    replies = [column(model, text, steering) for text in TEXTS]
    assert [r.token_ids for r in replies] != [column(model, t, None).token_ids for t in TEXTS]
    tokenizer = model.tokenizer
    for text, reply in zip(TEXTS, replies, strict=True):
        with saif.steering(model.hf_model, steering, tokenizer=tokenizer) as steered:
            (row,) = generate(model, [text], use_cache=cached)
        assert_same(model, row, reply)
        if cached:  # without a cache every position is changed anew in every call
            assert steered.steered == reply.steered
    with saif.steering(model.hf_model, steering, tokenizer=tokenizer):
        rows = generate(model, TEXTS, use_cache=cached)
        again = generate(model, TEXTS, use_cache=cached)  # a generation of its own
    assert rows == again
    for row, reply in zip(rows, replies, strict=True):
        assert_same(model, row, reply)


def test_a_beam_search_without_a_cache_steers_as_one_with_it(model: LanguageModel) -> None:
    beams = []
    for cached in (True, False):
        with saif.steering(model.hf_model, tiny_steering()):
            beams.append(generate(model, TEXTS[:1], use_cache=cached, num_beams=3))
    assert beams[0] == beams[1] != generate(model, TEXTS[:1], num_beams=3)


def test_strength_0_steers_nothing(model: LanguageModel) -> None:
    plain = generate(model, TEXTS)
    for nothing in (None, tiny_preset(model).steering(strength=0)):
        with saif.steering(model.hf_model, nothing) as context:
            assert hooks_of(model) == 0
            assert generate(model, TEXTS) == plain
        assert context.steered == 0


def hooks_of(model: LanguageModel) -> int:
    modules = [model.hf_model, *model.blocks]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_no_hook_is_left_whatever_happens(model: LanguageModel) -> None:
    before = hooks_of(model)
    plain = generate(model, TEXTS)

    def fail(logits: Tensor, scores: Tensor) -> Tensor:
        assert hooks_of(model) > before
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), saif.steering(model.hf_model, tiny_steering()):
        generate(model, TEXTS, logits_processor=[fail])
    assert hooks_of(model) == before
    assert generate(model, TEXTS) == plain


def test_a_block_in_which_nothing_was_steered_ends_with_an_error(model: LanguageModel) -> None:
    only_control = torch.tensor([[model.tokenizer.bos_token_id]])
    steering = tiny_steering(span="prompt")
    with (
        pytest.raises(SteeringError, match="Nothing was steered"),
        saif.steering(model.hf_model, steering, tokenizer=model.tokenizer),
    ):
        model.hf_model(only_control)
    assert hooks_of(model) == 0


def test_what_a_hook_did_not_change_is_an_error(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saif.runtime import steering_hook

    monkeypatch.setattr(steering_hook, "add_direction", lambda resid, *_, **__: resid)
    with (
        pytest.raises(SteeringError, match="positions instead of"),
        saif.steering(model.hf_model, tiny_steering()),
    ):
        generate(model, TEXTS)


def test_calls_whose_tokens_cannot_be_placed_are_refused(model: LanguageModel) -> None:
    hf_model = model.hf_model
    ids = torch.tensor([prompt_ids(model, "hello")])
    cache = hf_model(ids, use_cache=True).past_key_values
    padded = torch.ones_like(ids)
    padded[0, -1] = 0

    def refused(said: str, *args: Any, **call: Any) -> None:
        with pytest.raises(saif.SaifError, match=said), saif.steering(hf_model, tiny_steering()):
            hf_model(*args, **call)

    refused("lie in a KV cache", ids[:, -1:], past_key_values=cache)
    refused("lie in a KV cache", ids[:, -1:], cache=cache)  # as later versions call it
    refused("padded on the right", ids, attention_mask=padded)
    refused("padded on the right", ids, padded)  # by place
    refused("needs an attention mask with a column per token", ids, attention_mask=padded[:, 1:])
    refused("needs `input_ids`", inputs_embeds=torch.zeros(1, 3, model.d_model))
    with pytest.raises(SteeringError, match="not by the model"):  # noqa: SIM117
        with saif.steering(hf_model, tiny_steering()):
            hf_model.model(ids)


def test_a_steering_that_does_not_fit_is_refused_before_anything_runs(model: LanguageModel) -> None:
    with pytest.raises(SteeringError, match="doesn't fit"):
        saif.steering(model.hf_model, tiny_steering(layer=9))
    with pytest.raises(InputError, match="span 'all'"):
        saif.steering(model.hf_model, tiny_steering(span="all"))


# Comparing


def test_a_comparison_streams_its_columns_and_ends_in_a_result(
    model: LanguageModel, library: Library
) -> None:
    preset = saif.load_preset("translate-french", model, presets=library)
    steps = saif.compare(model, "hello", preset, max_new_tokens=6, presets=library)
    first = next(steps)
    assert 0 < len(first.steered.reply.token_ids) < 6
    result = steps.result()
    assert len(result.steered.reply.token_ids) == 6
    assert result.prompted is not None
    for found in (result.unsteered, result.steered, result.prompted):
        assert f"[{found.name}]\n{found.text}" in str(result)
    assert result.steered.text != result.unsteered.text
    assert steps.result() is result


def test_a_comparison_takes_what_the_command_line_takes(
    model: LanguageModel, library: Library
) -> None:
    def ask(**options: Any) -> Any:
        return saif.compare(
            LocalEngine(model), "hello", "question", presets=library, max_new_tokens=4, **options
        ).result()

    result = ask(placement="pre", strength=0.5, k=2, layer=3, span="all", prompted=False, seed=3)
    used = result.steering
    assert (used.layers, used.k, used.strength, used.span) == ((3,), 2, 0.5, "all")
    assert result.prompted is None
    assert len(result.columns) == 2
    off = ask(strength=0, temperature=1.0)
    assert off.steered.text == off.unsteered.text
    again = ask(history=result.comparison)
    assert len(again.unsteered.conversation) == 4
    with pytest.raises(InputError, match="strength must lie"):
        ask(strength=9)
    with pytest.raises(InputError, match="temperature must lie"):
        ask(temperature=9)


def test_presets_are_found_by_name_and_by_path(
    model: LanguageModel, library: Library, tmp_path: Path
) -> None:
    assert saif.list_presets(MODEL_ID, presets=library) == ["question", "translate-french"]
    assert saif.list_presets(model, presets=library.root) == ["question", "translate-french"]
    path = write_preset(tmp_path / "elsewhere", tiny_preset(model))
    assert saif.load_preset(path, model).id == saif.load_preset(str(path)).id == "translate-french"
    other = tiny_model(seed=1)
    for name in ("question", str(path)):
        with pytest.raises(PresetError, match="same name, other weights"):
            saif.load_preset(name, other, presets=library)
    with pytest.raises(InputError, match="Whose preset"):
        saif.load_preset("question")
    with pytest.raises(PresetError, match="no preset 'nonsense'"):
        saif.load_preset("nonsense", MODEL_ID, presets=library)


# Making and measuring presets


def test_a_preset_is_identified_calibrated_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = owner_library(tmp_path, monkeypatch)
    model = tiny_model()
    (found,) = saif.identify(model, ["letter"], n=4, presets=library)
    assert found.preset.placements["pre"].scores is None
    assert found.preset.placements["pre"].layer_numbers == [1, 3]
    (calibrated,) = saif.calibrate(model, ["letter"], n=4, presets=library)
    scores = calibrated.preset.placements["pre"].scores
    assert scores is not None
    assert scores.n == 4
    assert (tmp_path / "own" / "tiny-llama" / "letter.json").is_file()
    conditions = ["unsteered", "steered"]
    result = saif.evaluate(
        model, ["letter"], conditions=conditions, placement="pre", n=4, presets=library,
        out=tmp_path / "run",
    )  # fmt: skip
    assert [row.cell.condition for row in result.rows] == conditions
    assert len(result.folder.replies()) == 8
    assert str(result).count("letter/pre/") == 2


# Importing


def test_the_names_load_lazily() -> None:
    code = (
        "import sys, saif; assert set(saif.__all__) <= set(dir(saif)); saif.SaifError;"
        "assert not {'torch', 'numpy', 'transformers', 'pydantic'} & set(sys.modules);"
        "saif.Library(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_is_there_and_no_other_is() -> None:
    assert all(getattr(saif, name) is not None for name in saif.__all__)
    assert saif.compare.__module__ == "saif.api"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        saif.nonsense  # noqa: B018


# The embedded model


@pytest.mark.embedded
@pytest.mark.parametrize("span", SPANS)
def test_generate_writes_the_embedded_models_steered_column(
    embedded: LocalEngine, span: Span
) -> None:
    model = embedded.language_model
    preset = saif.load_preset("translate-french", model)
    steering = preset.steering(span=span)  # it fades, as calibrated
    assert steering is not None
    assert steering.schedule.half_life
    texts = ["The weather is lovely today.", "Where is the station?"]
    with saif.steering(model.hf_model, steering, tokenizer=model.tokenizer):
        rows = generate(model, texts)
    for text, row in zip(texts, rows, strict=True):
        result = saif.compare(
            model, text, preset, span=span, prompted=False, max_new_tokens=N_TOKENS
        ).result()
        assert_same(model, row, result.steered.reply)
