"""What holds for every `Decoder`: it computes what the model's own step does, row by row."""

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from step_models import KINDS, PROMPTS, logits_of, on_a_grid, rows_of, run, small, steering
from tiny import together

import saif.runtime.steering_hook as steering_hook
from saif.core.steering import LatentEncoder, Steering
from saif.core.types import Schedule, Span
from saif.decoding import Sampling
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Message, Request, complete
from saif.errors import SteeringError
from saif.runtime.batch import Row
from saif.runtime.cpu.build import kernel
from saif.runtime.cpu.c_step import CDecoder
from saif.runtime.cpu.torch_step import TorchDecoder
from saif.runtime.language_model import LanguageModel

DECODERS = {"torch": TorchDecoder, "c": CDecoder}
LAST = 2


@pytest.fixture(params=list(DECODERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def fast(name: str, c_library: ctypes.CDLL, kind: str = "llama", **options: Any) -> LanguageModel:
    model = on_a_grid(small(kind, **options))
    model.use_fast_decoder(c_library if name == "c" else None)
    assert type(model.decoder) is DECODERS[name]
    return model


@pytest.mark.parametrize(
    ("kind", "span", "temperature"),
    list(zip(KINDS, ("response", "all", "prompt", "all"), (0.0, 0.8, 0.8, 0.0), strict=True)),
)
def test_logits_and_replies_are_the_models_own(
    name: str, kind: str, span: Span, temperature: float, c_library: ctypes.CDLL
) -> None:
    plain, model = on_a_grid(small(kind)), fast(name, c_library, kind)
    starts = [
        Row(PROMPTS[0], steering(model, 1, "response")),
        Row(PROMPTS[1]),
        Row(PROMPTS[2], steering(model, 2, "all", 4)),
        Row(PROMPTS[0] * 3),
        Row(PROMPTS[1]),
    ]
    torch.testing.assert_close(
        logits_of(model, starts), logits_of(plain, starts), atol=1e-4, rtol=1e-4
    )
    rows = rows_of(plain, span, temperature=temperature, top_p=0.95)
    assert run(model, rows) == run(plain, rows)


def clamp(model: LanguageModel) -> LatentEncoder:
    torch.manual_seed(3)
    encoder, decoder = torch.randn(2, 2, model.d_model)
    return LatentEncoder(encoder, torch.zeros(2), torch.zeros(2), decoder)


def specs(model: LanguageModel) -> dict[str, Steering]:
    every = together(*(steering(model, layer, "all", layer + 1) for layer in (0, 1, LAST)))
    return {
        "every layer": every,
        "fading": replace(every, schedule=Schedule(half_life=2)),
        "not contiguous": replace(
            every,
            directions={
                layer: torch.stack([direction, direction], dim=1)[:, 0]
                for layer, direction in every.directions.items()
            },
        ),
        "keeps its norm": replace(every, schedule=Schedule(keep_norm=True)),
        "clamped in the middle": replace(every, clamped={1: clamp(model)}),
        "clamped at the end": replace(every, clamped={LAST: clamp(model)}),
    }


@pytest.mark.parametrize(
    "kinds",
    [
        ("every layer", "fading", "not contiguous"),
        ("keeps its norm",),
        ("clamped in the middle",),
        ("clamped at the end", "fading", "keeps its norm"),
    ],
    ids=" and ".join,
)
def test_every_way_of_steering_gives_what_the_model_gives(
    name: str, kinds: tuple[str, ...], c_library: ctypes.CDLL
) -> None:
    """Beside a plain row and another that is steered, for longer than steering fades."""
    model = fast(name, c_library)
    starts = [Row(PROMPTS[0], specs(model)[kind]) for kind in kinds]
    starts += [Row(PROMPTS[1]), Row(PROMPTS[2], steering(model, 1, "response", 7))]
    plain = logits_of(on_a_grid(small("llama")), starts, 12)
    torch.testing.assert_close(logits_of(model, starts, 12), plain, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_equals_its_solo_run(name: str, temperature: float, c_library: ctypes.CDLL) -> None:
    """Equal rows draw equal tokens, whatever another is steered with."""
    model = fast(name, c_library)
    rows = rows_of(model, temperature=temperature)
    assert run(model, rows) == [run(model, [row])[0] for row in rows]
    sampling = Sampling(max_new_tokens=24, temperature=temperature)
    plain = Row(PROMPTS[1], sampling=sampling)
    steered = replace(plain, steering=steering(model, 1, "all"))
    first, other, second = run(model, [plain, steered, plain])
    assert first == second == run(model, [plain])[0]
    assert other != first


def test_rows_that_join_and_leave_get_what_each_would_get_alone(
    name: str, c_library: ctypes.CDLL
) -> None:
    model = fast(name, c_library)
    requests = [
        Request(
            messages=(Message("user", text),),
            steering=each,
            sampling=Sampling(seed=seed, max_new_tokens=8 * seed + 4),
        )
        for seed, (text, each) in enumerate(
            [("Hi", None), ("Tell me more.", steering(model, 1, "response")), ("What?", None)]
        )
    ]
    expected = [complete(LocalEngine(model), [request])[0] for request in requests]
    assert complete(SharedEngine(model, cache_bytes=1 << 24), requests) == expected


def test_steering_that_changes_nothing_is_an_error(name: str, c_library: ctypes.CDLL) -> None:
    model = fast(name, c_library)
    faint = steering(model, 1, "response")
    batch, _ = model.prefill([Row(PROMPTS[1]), Row(PROMPTS[0], faint)])
    batch.rows[1].steering = replace(faint, directions={1: faint.directions[1] * 1e-30})
    wanted = r"layer 1 changed \[0, 0\] positions instead of \[0, 1\]"
    with pytest.raises(SteeringError, match=wanted):
        model.decode_step(batch, [65, 66])
    assert not model._lock.locked()


def test_steering_that_gets_lost_is_an_error(
    c_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fast("torch", c_library)
    batch, _ = model.prefill([Row(PROMPTS[0], steering(model, LAST, "all"))])
    model.decoder._blocks.pop()  # the last block is skipped, and the edit with it
    with pytest.raises(SteeringError, match=r"layer 2 changed \[0\] positions instead of \[1\]"):
        model.decode_step(batch, [65])
    assert not model._lock.locked()
    monkeypatch.setattr(steering_hook, "add_direction", lambda resid, *_, **__: resid)
    with pytest.raises(SteeringError):
        model.prefill([Row(PROMPTS[0], steering(model, 1, "all"))])


def test_a_nan_forced_past_the_check_stays_in_its_row(name: str, c_library: ctypes.CDLL) -> None:
    model = fast(name, c_library)
    spec = steering(model, 1, "response")
    starts = [Row(PROMPTS[0]), Row(PROMPTS[0], spec)]
    batch, clean = model.prefill(starts)[0], model.prefill(starts)[0]
    broken = replace(spec)
    object.__setattr__(broken, "directions", {1: torch.full((model.d_model,), torch.nan)})
    batch.rows[1].steering = broken
    found = model.decode_step(batch, [65, 65]).logits
    assert torch.equal(found[0], model.decode_step(clean, [65, 65]).logits[0])
    assert found[1].isnan().all()


def test_a_nan_is_not_added_where_its_row_is_not_steered(name: str, c_library: ctypes.CDLL) -> None:
    model = fast(name, c_library)
    spec = steering(model, 1, "prompt")
    batch, _ = model.prefill([Row(PROMPTS[0], spec), Row(PROMPTS[0], spec)])
    object.__setattr__(spec, "directions", {1: torch.full((model.d_model,), torch.nan)})
    batch.rows[1].steering = steering(model, 1, "response")
    result = model.decode_step(batch, [65, 65])
    assert result.steered == (0, 1)
    assert result.logits.isfinite().all()


def test_it_says_what_it_computes_with(
    name: str, c_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(2)
    model = fast(name, c_library)
    about = LocalEngine(model).about
    assert about.endswith(f"; decoding {model.decoder.describe()}")
    if name == "torch":
        assert model.decoder.describe() == "not compiled, 2 threads"
        assert model.decoder.bytes == 0
        return
    assert model.decoder.describe() == f"compiled for {kernel(c_library)}, 4-bit weights, 2 threads"
    assert 0 < model.decoder.bytes < (model.memory - model.decoder.bytes) / 2
    monkeypatch.setattr(model.decoder._policy, "choose", lambda *_: 1)
    model.decode_step(model.prefill([Row(PROMPTS[0])])[0], [65])
    assert model.decoder.describe().endswith(", 1 thread")


def test_everything_but_decoding_is_left_to_the_model_itself(
    name: str, c_library: ctypes.CDLL
) -> None:
    plain, model = on_a_grid(small("llama")), fast(name, c_library)
    (found, _), (expected, _) = (each.residuals(PROMPTS, [1]) for each in (model, plain))
    assert torch.equal(found[1], expected[1])
    rows = [(PROMPTS[1], [65, 66])]
    assert torch.equal(model.log_probabilities(rows)[0], plain.log_probabilities(rows)[0])


@pytest.mark.parametrize("rope_type", ["dynamic", "yarn"])
def test_angles_that_depend_on_the_length_are_left_to_the_torch_step(
    rope_type: str, c_library: ctypes.CDLL
) -> None:
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 2.0}
    model = on_a_grid(small("llama", rope_parameters=rope))
    starts = [Row(ids * 5) for ids in PROMPTS]
    plain = logits_of(model, starts, 180)
    model.use_fast_decoder(c_library)
    assert type(model.decoder) is (CDecoder if rope_type == "yarn" else TorchDecoder)
    if rope_type == "yarn":
        torch.testing.assert_close(logits_of(model, starts, 180), plain, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mistral", {"sliding_window": 8}),
        ("llama", {"hidden_act": "gelu"}),
        ("gemma", {}),
        ("granite", {}),
    ],
)
def test_a_model_that_none_supports_is_left_as_it_is(
    kind: str, options: dict[str, Any], c_library: ctypes.CDLL
) -> None:
    model = small(kind, **options)
    model.use_fast_decoder(c_library)
    assert model.decoder is None
    run(model, rows_of(model))


def test_what_is_not_plain_float32_on_the_cpu_is_left_as_it_is(c_library: ctypes.CDLL) -> None:
    narrow, foreign, hooked = (small("llama") for _ in range(3))
    narrow._model.bfloat16()
    foreign.blocks[0].mlp.up_proj.__class__ = type("Adapted", (torch.nn.Linear,), {})
    hooked.blocks[1].mlp._hf_hook = object()
    for model in (narrow, foreign, hooked):
        model.use_fast_decoder(c_library)
        assert model.decoder is None
