"""A model and an SAE as they lie on the hub, through the commands that a user types, offline.

Gemma 2 in its real depth and residual width, with a Gemma Scope SAE of the real shape; only what
lies between is narrow, and the numbers are random.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import COMMIT, FakeHub, sae_weights
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from saif.presets.library import SHIPPED, Library

pytestmark = pytest.mark.extended

MODEL = "google/gemma-2-2b"
SAE = "gemma-scope-2b-pt-res-canonical/layer_25/width_16k/canonical"
D_MODEL, D_SAE, N_LAYERS, LAYER = 2304, 16_384, 26, 25
INSTRUCTIONS = ("question", "translate-french")


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Words of `texts` as tokens, so that prompts are as short as they are to the real one. A
    base model's has no chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<eos>", "<bos>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


def _model(tokenizer: PreTrainedTokenizerFast) -> Gemma2ForCausalLM:
    torch.manual_seed(0)
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
    model = Gemma2ForCausalLM(config)
    with torch.no_grad():
        # The embedding is also the output matrix. Signs between the two, or every token would be
        # followed by itself; Gemma stores a norm's weights minus one.
        signs = torch.randint(0, 2, (D_MODEL,)) * 2 - 1
        model.model.norm.weight.copy_(signs - 1)
    # Many tokens end a reply, as an untrained model would otherwise go on to the limit each time.
    ends = torch.randperm(len(tokenizer))[: len(tokenizer) // 4].tolist()
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends]
    return model.to(torch.bfloat16)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's home: the hub's cache, texts, and two instructions."""
    root = tmp_path_factory.mktemp("home")
    presets = root / "presets"
    (presets / "instructions").mkdir(parents=True)
    wordings = [(SHIPPED / "instructions" / f"{name}.yaml").read_text() for name in INSTRUCTIONS]
    for name, wording in zip(INSTRUCTIONS, wordings, strict=True):
        (presets / "instructions" / f"{name}.yaml").write_text(wording)
    words = ["river", "garden", "letter", "train", "market", "winter", "teacher", "bridge"]
    pairs = [(a, b) for a in words for b in words]
    lines = [f"The {a} near the {b} was quiet {i} days ago." for i in range(4) for a, b in pairs]
    (root / "texts.txt").write_text("\n".join(lines))

    hub = FakeHub(root / "hub")
    turns = ["User: The weather is lovely today.\n\nAssistant:"] * 2
    tokenizer = _tokenizer([*lines, *wordings, *turns])
    _model(tokenizer).save_pretrained(hub.folder(MODEL))
    tokenizer.save_pretrained(hub.folder(MODEL))
    folder = hub.folder("google/gemma-scope-2b-pt-res") / "layer_25/width_16k/average_l0_116"
    folder.mkdir(parents=True)
    weights = {name: value.numpy() for name, value in sae_weights(D_MODEL, D_SAE).items()}
    np.savez(folder / "params.npz", **weights)
    return root


def saif(home: Path, command: str, *arguments: str) -> str:
    """stdout of a command; it must succeed."""
    own = {
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_OFFLINE": "1",
        "SAIF_HOME": str(home / "saif"),
    }
    here = ("--model", "gemma-2-2b", "--presets", str(home / "presets"))
    done = subprocess.run(
        [sys.executable, "-m", "saif", command, *arguments, *here],
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_identify_calibrate_and_compare(home: Path) -> None:
    made_with = ("--data", str(home / "texts.txt"), "--sae", SAE)
    saif(home, "identify", *made_with, "--n", "6")
    saif(home, "calibrate", *made_with, "--preset", "question", "--n", "4", "--effort", "quick")

    preset = Library(home / "presets").preset(MODEL, "question")
    card = preset.preset
    assert card.versions["model"] == COMMIT
    assert (card.model.id, card.model.n_layers, card.model.d_model) == (MODEL, N_LAYERS, D_MODEL)
    for part in card.placements.values():
        assert [table.layer for table in part.layers] == [LAYER]
        assert part.scores is not None
        assert part.scores.n == 4
        assert part.choice.layer == LAYER
    vectors = preset.vectors[LAYER]
    decoder = sae_weights(D_MODEL, D_SAE)["W_dec"]
    torch.testing.assert_close(vectors.decoder.float(), decoder[vectors.ids], atol=1e-4, rtol=1e-3)

    asked = ("The river is calm.", "--preset", "question", "--max-new-tokens", "8", "--json")
    document = json.loads(saif(home, "compare", *asked))
    assert (document["model"], document["layer"]) == (MODEL, LAYER)
    columns = {column["name"]: column for column in document["columns"]}
    assert columns["unsteered"]["steered_positions"] == 0
    assert columns["steered"]["steered_positions"] >= len(columns["steered"]["token_ids"])
    assert columns["steered"]["token_ids"] != columns["unsteered"]["token_ids"]
