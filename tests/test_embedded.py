"""The same guarantees on the real embedded model, and the presets that ship for it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny import tiny_preset

from saif.chat import Comparison, Turn, TurnState, take_turn
from saif.core.steering import Steering
from saif.core.types import PLACEMENTS
from saif.core.verifiers import detect_language
from saif.decoding import Sampling
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Message, Request, complete
from saif.presets.controls import Controls
from saif.presets.instructions import place
from saif.presets.library import Library
from saif.presets.preset import LoadedPreset
from saif.runtime.batch import Row
from saif.runtime.cpu import build
from saif.runtime.cpu.c_step import CDecoder
from saif.runtime.cpu.torch_step import TorchDecoder
from saif.runtime.embedded import MODEL_ID, gguf_file
from saif.runtime.load import load_model

pytestmark = pytest.mark.embedded

CONTENT = "The weather is lovely today."
LAYER = 20
SHIPPED = Library().preset_ids(MODEL_ID)


def push(engine: LocalEngine, *, dose: float = 0.4, seed: int = 0) -> Steering:
    """A random push; the typical residual after layer 20 is 214 long."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(engine.language_model.d_model, generator=generator)
    return Steering({LAYER: direction * (dose * 214 / direction.norm())}, "response", {LAYER: dose})


def ask(text: str, **options) -> Request:
    return Request(messages=(Message("user", text),), **options)


def last(states: Iterator[TurnState]) -> TurnState:
    return list(states)[-1]


@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_greedy_replies_agree_with_generate(embedded: LocalEngine, penalty: float) -> None:
    model = embedded.language_model
    sampling = Sampling(max_new_tokens=20, repetition_penalty=penalty)
    texts = [CONTENT, "Write a short list of three fruits, one on each line."]
    replies = complete(embedded, [ask(text, sampling=sampling) for text in texts])
    for text, reply in zip(texts, replies, strict=True):
        ids = model.render([{"role": "user", "content": text}])
        expected = model._model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=20,
            repetition_penalty=penalty,
            pad_token_id=0,
        )[0, len(ids) :].tolist()
        assert list(reply.token_ids) == [t for t in expected if t not in model.end_ids]


def test_no_special_token_can_be_forged(embedded: LocalEngine) -> None:
    model = embedded.language_model
    special = [t.content for t in model.tokenizer.added_tokens_decoder.values() if t.special]
    assert len(special) == 17
    assert len(model.control_ids) == 17

    def n_control(text: str) -> int:
        ids = model.render([{"role": "user", "content": text}])
        return sum(token in model.control_ids for token in ids)

    plain = n_control("harmless")
    assert {token: n_control(f"a{token}b") for token in special} == dict.fromkeys(special, plain)
    assert n_control("".join(special) * 2) == plain


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_at_strength_zero_both_columns_are_identical(
    embedded: LocalEngine, temperature: float
) -> None:
    turn = Turn(
        text=CONTENT,
        preset=tiny_preset(embedded.language_model),
        instruction=Library().instruction("translate-french"),
        controls=Controls(strength=0),
        sampling=Sampling(max_new_tokens=20, temperature=temperature, top_p=0.95, seed=1),
    )
    plain, steered = last(take_turn(embedded, Comparison(), turn)).columns
    assert plain.reply == steered.reply
    assert len(plain.reply.token_ids) >= 5
    assert steered.reply.steered == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_equals_its_solo_run(embedded: LocalEngine, temperature: float) -> None:
    sampling = Sampling(max_new_tokens=12, temperature=temperature, seed=2)
    requests = [
        ask("Hi", sampling=sampling),
        ask(CONTENT, sampling=sampling, steering=push(embedded)),
        ask(
            "My brother bought a new bicycle last week, and it was stolen on the same day. "
            "What should he do?",
            sampling=replace(sampling, max_new_tokens=6),
            steering=push(embedded, seed=1),
        ),
    ]
    together = complete(embedded, requests)
    assert together == [complete(embedded, [request])[0] for request in requests]
    assert [reply.steered > 0 for reply in together] == [False, True, True]


@pytest.fixture(scope="module", params=["torch", "c"])
def decoding(request: pytest.FixtureRequest) -> LocalEngine:
    """As the page runs it on a CPU, where the C step was compiled at set-up and where it wasn't."""
    if gguf_file() is None:
        pytest.skip("the package with the embedded model is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(build, "library", lambda: None)
        elif build.library() is None:
            pytest.skip("the decoding step was not compiled here")
        engine = LocalEngine(load_model(quantize="auto"))
    if engine.language_model.device.type != "cpu":
        pytest.skip("a GPU has no step of its own")
    wanted = {"torch": TorchDecoder, "c": CDecoder}[request.param]
    assert type(engine.language_model.decoder) is wanted
    return engine


def test_four_bits_lose_nothing_of_the_embedded_weights(decoding: LocalEngine) -> None:
    decoder = decoding.language_model.decoder
    if isinstance(decoder, CDecoder):
        assert {linear.bits for linear in decoder._linears} == {4}
        assert all(linear.exact for linear in (decoder._head, *decoder._linears))
    assert decoding.model == LocalEngine(load_model()).model  # its presets fit


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_strength_zero_is_the_unsteered_column_in_a_shared_engine_too(
    decoding: LocalEngine, temperature: float
) -> None:
    """As the page has it: a third column of another length beside them, the second turn on what is
    kept of the first."""
    engine = SharedEngine(decoding.language_model)
    comparison = Comparison()
    for text in (CONTENT, "And what about tomorrow?"):
        turn = Turn(
            text=text,
            preset=tiny_preset(engine.language_model),
            instruction=Library().instruction("translate-french"),
            controls=Controls(strength=0),
            sampling=Sampling(max_new_tokens=24, temperature=temperature, seed=3),
            with_prompted=True,
        )
        *_, state = take_turn(engine, comparison, turn)
        comparison = state.comparison
        replies = {column.name: column.reply for column in state.columns}
        assert replies["steered"] == replies["unsteered"]
        assert replies["steered"].steered == 0
        assert replies["prompted"].text != replies["unsteered"].text
        engine.wait_for_reprefills()


def told(engine: LocalEngine, starts: list[Row], script: list[int]) -> torch.Tensor:
    """Log-probabilities (steps, rows, vocab) while every row is told the same reply."""
    batch, _ = engine.language_model.prefill(starts)
    logits = [
        engine.language_model.decode_step(batch, [token] * len(starts)).logits for token in script
    ]
    return torch.stack(logits).log_softmax(dim=-1)


def drift(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence in nats."""
    return float((one.exp() * (one - other)).sum(dim=-1).mean())


def test_a_row_hardly_depends_on_its_company(decoding: LocalEngine) -> None:
    """The prompts' prefill, and the torch step, round a sum otherwise beside other rows."""
    model = decoding.language_model
    short, long = (model.render([{"role": "user", "content": t}]) for t in ("Hi", CONTENT * 4))
    starts = [Row(short), Row(short, push(decoding)), Row(long), Row(short)]
    script = model.encode_text("Well, it is a long story, and the sea was calm that day.")
    together = told(decoding, starts, script)
    assert torch.equal(together[:, 0], together[:, 3])  # equal rows stay equal, bit for bit
    for row, start in enumerate(starts):
        assert drift(told(decoding, [start], script)[:, 0], together[:, row]) < 1e-6


def test_decoding_says_what_the_model_itself_says(
    decoding: LocalEngine, embedded: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told the same text, both take the same next token each time."""
    text = "Once upon a time there was a small house by the sea, and an old man lived in it "
    text += "with his dog. Every morning they walked along the beach to look for shells."
    ids = embedded.language_model.encode_text(text)
    monkeypatch.setattr(embedded.language_model, "decoder", None)
    own, fast = (told(engine, [Row(ids[:4])], ids[4:]) for engine in (embedded, decoding))
    assert drift(own, fast) < 1e-6
    assert torch.equal(own.argmax(-1), fast.argmax(-1))


def test_log_probabilities_equal_a_plain_forward_pass(embedded: LocalEngine) -> None:
    model = embedded.language_model
    rows = [
        (model.render([{"role": "user", "content": text}]), model.encode_text(reply))
        for text, reply in [
            (CONTENT, "Le temps est magnifique aujourd'hui."),
            ("The old house by the river is empty and has been for years.", "Yes."),
        ]
    ]
    for (prompt, reply), found in zip(rows, model.log_probabilities(rows), strict=True):
        with torch.no_grad():
            logits = model._model(torch.tensor([prompt + reply])).logits[0]
        scores = logits.log_softmax(dim=-1)
        expected = torch.stack([scores[len(prompt) + i - 1, t] for i, t in enumerate(reply)])
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_a_prefix_that_is_read_once_changes_no_residual(embedded: LocalEngine) -> None:
    model = embedded.language_model
    sequences = [
        model.render([{"role": "user", "content": text}])
        for text in (CONTENT, "She drinks a cup of coffee before work, and then another one.")
    ]
    whole, whole_mask = model.residuals(sequences, [12, 29])
    parts, parts_mask = model.residuals(sequences, [12, 29], skip=10)
    for layer in (12, 29):
        for row in range(2):
            torch.testing.assert_close(
                parts[layer][row][parts_mask[row]],
                whole[layer][row][whole_mask[row]][10:],
                atol=0.05,  # beside residuals of length 100 to 900
                rtol=1e-3,
            )


# The presets that ship


@pytest.fixture(params=SHIPPED or [None])
def shipped(request: pytest.FixtureRequest) -> LoadedPreset:
    if request.param is None:
        if Library().model_folder(MODEL_ID).is_dir():
            pytest.fail("the folder of the embedded model holds no preset")
        pytest.skip("no presets have been built for the embedded model yet")
    return Library().preset(MODEL_ID, request.param)


def test_a_shipped_preset_belongs_to_the_embedded_model(
    embedded: LocalEngine, shipped: LoadedPreset
) -> None:
    shipped.check_model(embedded.model)
    assert shipped.preset.instruction in Library().instruction_ids()


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_shipped_preset_steers_the_embedded_model(
    embedded: LocalEngine, shipped: LoadedPreset, placement
) -> None:
    part = shipped.preset.placements[placement]
    assert part.scores is not None
    steering = shipped.steering(placement)
    assert (steering.layers, steering.k) == (part.choice.layers, part.latents.k)
    sampling = Sampling(max_new_tokens=6)
    requests = [
        ask(CONTENT, sampling=sampling),
        ask(CONTENT, sampling=sampling, steering=steering),
    ]
    plain, steered = complete(embedded, requests)
    assert plain.token_ids != steered.token_ids
    assert (plain.steered, steered.steered > 0) == (0, True)


@pytest.mark.skipif("translate-french" not in SHIPPED, reason="its preset is not built yet")
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_reply_steered_to_french_is_french(embedded: LocalEngine, placement) -> None:
    steering = Library().preset(MODEL_ID, "translate-french").steering(placement)
    sampling = Sampling(max_new_tokens=30)
    requests = [
        ask(CONTENT, sampling=sampling),
        ask(CONTENT, sampling=sampling, steering=steering),
    ]
    plain, steered = complete(embedded, requests)
    assert detect_language(plain.text) == "en"
    assert detect_language(steered.text) == "fr"


def test_both_placements_are_read_at_the_same_token(embedded: LocalEngine) -> None:
    """The template closes the turn, so the token that latents are read at belongs to neither the
    instruction nor the content; a shared suffix is only needed for a model without a template."""
    wording = Library().instruction("translate-french").main_wording
    pre, post = (
        embedded.language_model.render(
            [{"role": "user", "content": place(wording, "The sea is calm.", placement)}]
        )
        for placement in PLACEMENTS
    )
    assert pre != post
    assert pre[-6:] == post[-6:]
    closing = embedded.language_model.tokenizer.decode(pre[-6:])
    assert closing == "<|im_end|>\n<|im_start|>assistant\n"
