"""A model and an SAE as they lie on the hub, through the commands that a user types, offline.

Gemma 2 in its real depth and residual width, with a Gemma Scope SAE of the real shape; only what
lies between is narrow, and the numbers are random.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import FakeHub, sae_weights
from tiny import tiny_tokenizer
from transformers import Gemma2Config, Gemma2ForCausalLM

from saif.presets.library import SHIPPED

pytestmark = pytest.mark.slow

MODEL = "google/gemma-2-2b"
D_MODEL, D_SAE, N_LAYERS = 2304, 16_384, 26


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's home: the hub's cache, texts, and two instructions."""
    root = tmp_path_factory.mktemp("home")
    hub = FakeHub(root / "hub")
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None  # the base model has none
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=64,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Gemma2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(hub.folder(MODEL))
    tokenizer.save_pretrained(hub.folder(MODEL))

    folder = hub.folder("google/gemma-scope-2b-pt-res") / "layer_20/width_16k/average_l0_71"
    folder.mkdir(parents=True)
    weights = {name: value.numpy() for name, value in sae_weights(D_MODEL, D_SAE).items()}
    np.savez(folder / "params.npz", **weights)

    presets = root / "presets"
    (presets / "instructions").mkdir(parents=True)
    for name in ("question", "translate-french"):
        source = SHIPPED / "instructions" / f"{name}.yaml"
        (presets / "instructions" / source.name).write_bytes(source.read_bytes())
    words = ["river", "garden", "letter", "train", "market", "winter", "teacher", "bridge"]
    pairs = [(a, b) for a in words for b in words]
    lines = [f"The {a} near the {b} was quiet {i} days ago." for i in range(4) for a, b in pairs]
    (root / "texts.txt").write_text("\n".join(lines))
    return root


def saif(home: Path, *arguments: str) -> str:
    """stdout of a command; it must succeed."""
    env = os.environ | {
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_OFFLINE": "1",
        "SAIF_HOME": str(home / "saif"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "saif", *arguments, "--model", "gemma-2-2b"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_identify_calibrate_and_compare(home: Path) -> None:
    presets = ("--presets", str(home / "presets"))
    sae = ("--sae", "gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical")
    texts = ("--data", str(home / "texts.txt"))
    saif(home, "identify", *texts, *sae, *presets, "--n", "6")
    saif(home, "calibrate", *texts, *sae, *presets, "--preset", "question", "--n", "4")
    folder = home / "presets" / "gemma-2-2b"
    card = json.loads((folder / "question.json").read_text())
    assert card["model"]["id"] == MODEL
    assert (card["model"]["n_layers"], card["model"]["d_model"]) == (N_LAYERS, D_MODEL)
    assert card["placements"]["post"]["scores"]["n"] == 4
    asked = ("The sea is calm.", "--preset", "question", "--max-new-tokens", "8", "--json")
    document = json.loads(saif(home, "compare", *asked, *presets))
    assert (document["model"], document["layer"]) == (MODEL, 20)
    columns = {column["name"]: column for column in document["columns"]}
    assert columns["unsteered"]["steered_positions"] == 0
    assert columns["steered"]["steered_positions"] >= len(columns["steered"]["token_ids"])
