"""Whether a model fits is known, in numbers, before anything of it is read."""

from pathlib import Path

import pytest
from tiny import tiny_model
from transformers import Gemma2Config, LlamaConfig, Qwen2Config

from saif.errors import ModelError
from saif.runtime import memory_budget
from saif.runtime.catalog import Size, known
from saif.runtime.memory_budget import (
    GB,
    FreeMemory,
    check_disk,
    check_fits,
    choose,
    needed,
    size_of,
)

LLAMA_8B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
GEMMA = Gemma2Config(
    vocab_size=256_000,
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
)
QWEN = Qwen2Config(
    vocab_size=152_064,
    hidden_size=3584,
    intermediate_size=18_944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    tie_word_embeddings=False,
)


@pytest.mark.parametrize(
    ("config", "name"),
    [(LLAMA_8B, "llama-3.1-8b"), (GEMMA, "gemma-2-2b"), (QWEN, "qwen2.5-7b-instruct")],
    ids=["llama", "gemma", "qwen"],
)
def test_a_real_model_is_counted_without_its_weights(config: object, name: str) -> None:
    entry = known(name)
    assert entry is not None
    found = size_of(config)
    assert found.linear + found.other == pytest.approx(1e9 * entry.parameters, rel=0.001)
    assert found.other == pytest.approx(1e9 * entry.embedding, rel=0.002)


def test_the_count_is_that_of_the_loaded_model() -> None:
    model = tiny_model()._model
    found = size_of(model.config)
    assert found.linear + found.other == sum(p.numel() for p in model.parameters())
    assert found.bytes("none", 4) == pytest.approx(model.get_memory_footprint(), rel=0.001)


SIZE = Size(linear=7_000_000_000, other=1_000_000_000)


def test_what_does_not_fit_is_refused_with_the_numbers_and_the_ways_out() -> None:
    with pytest.raises(ModelError) as refused:
        check_fits("org/big", SIZE, "none", 2, FreeMemory(cuda=int(12 * GB), ram=int(3 * GB)))
    assert str(refused.value) == (
        "org/big needs 17.9 GB in 16 bits, and 12.0 GB of GPU memory are free."
    )
    assert refused.value.hint == (
        "Try --quantize int8 (10.2 GB) or --quantize 4bit (6.5 GB) or a smaller model, such as "
        "gemma-3-4b-it (9.8 GB)."
    )


def test_on_a_small_machine_the_hint_names_what_fits_there() -> None:
    with pytest.raises(ModelError) as refused:
        check_fits("org/big", SIZE, "4bit", 2, FreeMemory(cuda=None, ram=int(2 * GB)))
    assert "needs 6.5 GB in 4bit, and 2.0 GB of this computer's memory are free" in str(
        refused.value
    )
    assert refused.value.hint == "Try a smaller model, such as gemma-3-270m-it (0.9 GB)."
    with pytest.raises(ModelError) as refused:
        check_fits("org/big", SIZE, "none", 4, FreeMemory(cuda=None, ram=int(0.1 * GB)))
    assert refused.value.hint == "Use a machine with more memory."


def test_weights_in_full_may_spill_from_the_gpu_and_quantized_ones_may_not() -> None:
    free = FreeMemory(cuda=int(6 * GB), ram=int(32 * GB))
    check_fits("org/big", SIZE, "none", 2, free)
    with pytest.raises(ModelError, match="in 4bit"):
        check_fits("org/big", SIZE, "4bit", 2, free)
    check_fits("org/big", SIZE, "4bit", 2, FreeMemory(cuda=int(7 * GB), ram=0))


@pytest.mark.parametrize(
    ("cuda", "way"), [(18, "none"), (17, "int8"), (10, "4bit"), (1, "4bit"), (None, "none")]
)
def test_auto_takes_as_many_bits_as_fit(cuda: int | None, way: str) -> None:
    free = FreeMemory(cuda=None if cuda is None else int(cuda * GB), ram=0)
    assert choose(SIZE, free, 2) == way


def test_needed_is_more_than_the_weights_alone() -> None:
    assert needed(SIZE, "none") > SIZE.bytes("none")


def test_a_full_disk_is_told_before_the_download(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there" / "yet", 1e3)
    with pytest.raises(ModelError, match=r"takes 1000000.0 GB, and the disk has .* GB left"):
        check_disk(tmp_path, 1e15)


def test_this_machine_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_budget.free_memory().ram > 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda i: (5 + i, 100))
    assert memory_budget.free_memory().cuda == 11
    assert memory_budget.free_memory().free == 11
