"""Models that can't be had, from a real hub on this machine: one sentence with a way out, and the
model that is there goes on answering."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubServer, reachable_hub
from made_up import planted_sae
from tiny import MODEL_ID, tiny_model
from ui_server import loaded, owner_library

from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.engine.protocol import Message, Request, complete
from saif.errors import ModelError
from saif.experiments import build
from saif.runtime.load import check_loadable, load_model
from saif.ui.admin.service import ModelAdmin
from saif.ui.services import Services

HUGE = "somebody/huge"
GATED = "google/gemma-2-2b"
PLAIN = "somebody/plain"
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32_000,
    "hidden_size": 4096, "intermediate_size": 16_384, "num_hidden_layers": 8,
    "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with reachable_hub(monkeypatch, tmp_path / "hub") as server:
        huge = json.dumps({**CONFIG, "hidden_size": 65_536}).encode()
        plain = json.dumps(CONFIG).encode()
        server.repositories = {
            HUGE: {"config.json": huge},
            GATED: {"config.json": plain},
            PLAIN: {"config.json": plain},
        }
        server.gated = {GATED}
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelAdmin:
    services = Services(
        owner_library(tmp_path, monkeypatch), MODEL_ID, loaded(LocalEngine(tiny_model()))
    )
    return ModelAdmin(
        services,
        lambda name, quantize: LocalEngine(load_model(name, quantize=quantize)),
        check_loadable,
        name=MODEL_ID,
        quantize="none",
    )


def answers(services: Services) -> bool:
    request = Request(messages=(Message("user", "hi"),), sampling=Sampling(max_new_tokens=4))
    engine = services.current.engine.result()
    return engine.model.id == MODEL_ID and bool(complete(engine, [request])[0].text)


@pytest.mark.parametrize(
    ("name", "sentence", "way_out"),
    [
        ("somebody/nothing", "the hub has no such model", "`python -m saif models` lists them"),
        ("no such name", "could not be loaded", "hub id or a local folder"),
        ("./nowhere", "There is no folder", "hub id or a local folder"),
        ("gemma-2-2b", "The licence of google/gemma-2-2b has to be accepted", "HF_TOKEN"),
        (HUGE, r"needs [\d,.]+ GB in 32 bits, and [\d.]+ GB of this computer's memory", "smaller"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_before_anything_is_loaded(
    hub: HubServer, admin: ModelAdmin, name: str, sentence: str, way_out: str
) -> None:
    before = admin.services.current
    with pytest.raises(ModelError, match=sentence) as said:
        admin.change_model(name, "none")
    assert way_out in said.value.hint
    assert "\n" not in said.value.sentence
    assert admin.services.current is before
    assert answers(admin.services)


def test_a_full_disk_is_told_before_the_download(
    hub: HubServer, admin: ModelAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free=10**8)
    with monkeypatch.context() as disk:
        disk.setattr("shutil.disk_usage", lambda _: full)
        with pytest.raises(ModelError, match=r"download takes [\d.]+ GB, and the disk has 0.1 GB"):
            admin.change_model(PLAIN, "none")
    assert answers(admin.services)


def test_a_hub_that_is_gone_is_told(
    admin: ModelAdmin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with reachable_hub(monkeypatch, tmp_path / "hub"):
        pass  # shut down again
    with pytest.raises(ModelError, match="not on this machine, and the hub can't be reached"):
        admin.change_model(PLAIN, "none")
    assert answers(admin.services)


def test_an_sae_of_another_width_ends_the_making_and_nothing_else(
    admin: ModelAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = replace(planted_sae(1, d_model=64), id="wide")
    monkeypatch.setattr(build, "load_sae", lambda source: wide)
    job = admin.build("letter", "quick")
    while job.running:
        job.cancel.wait(0.01)
    assert job.state == "failed"
    assert "with width 64, not layer 1 with width 32" in job.problem
    assert answers(admin.services)
