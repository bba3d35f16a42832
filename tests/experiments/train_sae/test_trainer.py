"""All tests that need sae-lens, which takes ten seconds to import, once."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import FakeWeights
from safetensors.torch import load_file, save_file
from tiny import D_MODEL, tiny_model
from torch import Tensor
from typer.testing import CliRunner

from saif.cli.app import app
from saif.core.types import PLACEMENTS, Site
from saif.errors import InputError, SaeError
from saif.experiments import build
from saif.experiments.baselines import CONDITIONS
from saif.experiments.calibrate.budget import BUDGETS, SearchBudget
from saif.experiments.train_sae import corpus, trainer
from saif.experiments.train_sae.activations import collect_activations
from saif.experiments.train_sae.corpus import Sequences
from saif.experiments.train_sae.trainer import SaeTraining, measure_sae
from saif.presets.library import Library, read_preset
from saif.runtime.language_model import LanguageModel
from saif.runtime.sae import WEIGHTS, Sae, load_sae

LAYER = 2
TRAINING = SaeTraining(width=8, k=8, n_tokens=19_200, batch_size=64)
N_STEPS = 300


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return tiny_model()


@pytest.fixture(scope="module")
def texts() -> list[Sequences]:
    rng = random.Random(0)
    shared = list(b"shared")
    own = [[rng.randrange(97, 123) for _ in range(rng.randrange(10, 30))] for _ in range(150)]
    chats = [shared + ids for ids in own]
    return [Sequences(chats, len(shared)), Sequences([[10, *ids[6:]] for ids in chats[:40]], 1)]


@pytest.fixture(scope="module")
def stored(
    tiny: LanguageModel, texts: list[Sequences], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return collect_activations(tiny, texts, [LAYER], tmp_path_factory.mktemp("rows"))[LAYER]


@pytest.fixture(scope="module")
def trained(tiny: LanguageModel, stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SAE trained without interruption."""
    folder = tmp_path_factory.mktemp("trained")
    _train(tiny, stored, folder)
    return folder / "sae"


def _train(model: LanguageModel, stored: Path, root: Path) -> None:
    trainer.train_sae(
        model, Site(LAYER), stored, root / "sae", TRAINING, checkpoints=root / "checkpoints"
    )


@pytest.fixture(scope="module")
def metrics(
    tiny: LanguageModel, trained: Path, stored: Path, texts: list[Sequences]
) -> dict[str, Any]:
    return measure_sae(tiny, load_sae(trained), stored, texts, TRAINING)


# Training


def test_a_trained_sae_is_a_folder_that_sae_lens_reads(trained: Path) -> None:
    from sae_lens import SAE

    theirs = SAE.load_from_disk(str(trained), dtype="float32")
    ours = load_sae(trained)
    assert theirs.cfg.architecture() == "jumprelu"
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_resid_post"
    assert (ours.site, ours.d_in, ours.d_sae) == (Site(LAYER), D_MODEL, 8 * D_MODEL)
    assert ours.id == str(trained)
    weights = load_file(trained / WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    rows = torch.randn(5, D_MODEL)
    assert torch.allclose(theirs.encode(rows), ours.encode(rows))


def test_it_explains_rows_it_was_not_trained_on(metrics: dict[str, Any]) -> None:
    assert metrics["fvu"] < 0.3
    assert metrics["l0"] == pytest.approx(TRAINING.k, rel=0.5)
    assert metrics["dead"] < 1
    assert abs(metrics["loss_added"]) < 0.5 * metrics["loss"]


def test_the_metrics_are_what_one_gets_by_hand(
    metrics: dict[str, Any],
    trained: Path,
    stored: Path,
    tiny: LanguageModel,
    texts: list[Sequences],
) -> None:
    sae = load_sae(trained)
    weights = {name: tensor.float() for name, tensor in load_file(trained / WEIGHTS).items()}
    rows = _held_out_rows(stored)
    assert len(rows) == len(np.load(stored)) // 10
    pre = (rows - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    latents = torch.where(pre > weights["threshold"], pre, 0)
    rebuilt = latents @ weights["W_dec"] + weights["b_dec"]
    spread = (rows - rows.mean(dim=0)).square().sum()
    assert metrics["fvu"] == pytest.approx(
        float((rows - rebuilt).square().sum() / spread), rel=1e-3
    )
    assert metrics["l0"] == pytest.approx(float((latents > 0).sum(dim=1).float().mean()), rel=1e-3)
    assert metrics["dead"] == pytest.approx(
        float((latents == 0).all(dim=0).float().mean()), abs=1e-6
    )
    plain, patched = _losses_by_hand(tiny, sae, texts)
    assert metrics["loss"] == pytest.approx(plain, rel=1e-4)
    assert metrics["loss_reconstructed"] == pytest.approx(patched, rel=1e-4)
    assert metrics["loss_added"] == pytest.approx(patched - plain, abs=1e-3)
    assert (metrics["model"], metrics["site"], metrics["d_sae"]) == (
        tiny.model_id,
        str(Site(LAYER)),
        256,
    )
    assert metrics["training"]["n_tokens"] == TRAINING.n_tokens


def _held_out_rows(stored: Path) -> Tensor:
    """The rows that a metrics is made of, seen from outside."""
    seen: list[Tensor] = []

    class Fake(FakeWeights):
        def encode(self, z: Tensor) -> Tensor:
            seen.append(z)
            return super().encode(z)

    zeros = torch.zeros(D_MODEL)
    fake = Fake(torch.eye(D_MODEL), torch.eye(D_MODEL), zeros, zeros)
    measure_sae(tiny_model(), Sae("x", "", Site(LAYER), fake), stored, [_one()], TRAINING)
    return torch.cat([chunk for chunk in seen if chunk.ndim == 2][::2])  # encoded, then rebuilt


def _one() -> Sequences:
    return Sequences([list(b"some text")], 1)


def _losses_by_hand(model: LanguageModel, sae: Sae, texts: list[Sequences]) -> tuple[float, float]:
    """One sequence at a time, without and with the reconstruction after the skipped tokens."""

    def loss(ids: list[int], skip: int) -> Tensor:
        with torch.no_grad():
            scores = model._model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        return torch.stack([-scores[i - 1, ids[i]] for i in range(skip, len(ids))])

    plain, patched = [], []
    for part in texts:
        for ids in part.token_ids[:48]:
            plain.append(loss(ids, part.skip))
            hook = _reconstruct_after(sae, part.skip)
            handle = model.blocks[LAYER].register_forward_hook(hook)
            patched.append(loss(ids, part.skip))
            handle.remove()
    return float(torch.cat(plain).mean()), float(torch.cat(patched).mean())


def _reconstruct_after(sae: Sae, skip: int) -> Any:
    def hook(module: object, args: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :skip], sae.reconstruct(output[:, skip:])], dim=1)

    return hook


def test_held_out_rows_are_in_no_training_batch(tmp_path: Path) -> None:
    rows = np.zeros((2000, D_MODEL), dtype=np.float16)
    rows[:, 0] = np.arange(2000)
    np.save(tmp_path / "rows.npy", rows)
    batches = trainer._batches(tmp_path / "rows.npy", TRAINING)
    epochs = 4 * (1800 // 64)
    trained_on = torch.cat([next(batches) for _ in range(epochs)])
    seen = set(trained_on[:, 0].int().tolist())
    held_out = set(_held_out_rows(tmp_path / "rows.npy")[:, 0].int().tolist())
    assert len(held_out) == 200
    assert not seen & held_out
    assert len(seen) > 1790  # all the others, but for what doesn't fill a batch
    first, second = trained_on[: 28 * 64, 0].int(), trained_on[28 * 64 : 56 * 64, 0].int()
    assert len(set(first.tolist())) == len(first)  # an epoch shows no row twice
    assert not torch.equal(first, second)


def test_the_last_rows_of_a_big_store_are_held_out() -> None:
    kept, held_out = trainer._split(1_000_000)
    assert (len(kept), len(held_out)) == (980_000, 20_000)


def test_too_few_rows_for_a_batch_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((70, D_MODEL), dtype=np.float16))
    with pytest.raises(InputError, match="70 tokens are too few"):
        next(trainer._batches(tmp_path / "rows.npy", TRAINING))


class StoppedError(Exception):
    pass


class Watch:
    """Notes each step's number and which batch it was given; may break the data off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from sae_lens.training.sae_trainer import SAETrainer

        self.steps: list[tuple[int, int]] = []
        self.fail_at = -1
        real_batches, real_step = trainer._batches, SAETrainer.step
        current = [0]

        def batches(*args: Any) -> Iterator[Tensor]:
            for number, batch in enumerate(real_batches(*args)):
                if number == self.fail_at:
                    raise StoppedError
                current[0] = number
                yield batch

        def step(trainer: Any, batch: Tensor) -> Any:
            self.steps.append((trainer.n_training_steps, current[0]))
            return real_step(trainer, batch)

        monkeypatch.setattr(trainer, "_batches", batches)
        monkeypatch.setattr(SAETrainer, "step", step)


@pytest.mark.parametrize("damage", [False, True], ids=["checkpoints whole", "newest incomplete"])
def test_an_interrupted_training_goes_on_to_the_same_sae(
    tiny: LanguageModel,
    stored: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: bool,
) -> None:
    watch = Watch(monkeypatch)
    watch.fail_at = 200
    with pytest.raises(StoppedError):
        _train(tiny, stored, tmp_path)
    assert not (tmp_path / "sae").exists()
    if damage:
        newest = max((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name))
        (newest / "activation_scaler.json").unlink()
    watch.fail_at = -1
    watch.steps.clear()
    _train(tiny, stored, tmp_path)
    first = watch.steps[0][0]
    assert (150 if damage else 179) <= first <= 199
    assert watch.steps == [(i, i) for i in range(first, N_STEPS)]
    expected, found = load_file(trained / WEIGHTS), load_file(tmp_path / "sae" / WEIGHTS)
    for name, tensor in expected.items():
        assert torch.allclose(found[name].float(), tensor.float(), rtol=1e-3, atol=1e-4), name
    assert not (tmp_path / "checkpoints").exists()


# Loading SAEs


def _save_sae(folder: Path, kind: str = "jumprelu", hook: str = "blocks.2.hook_resid_post",
              hf_hook: str | None = None, **config: Any) -> Any:  # fmt: skip
    """A random SAE of `kind`, saved; returns sae-lens' own object."""
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(0)
    names = {"jumprelu": "JumpReLU", "standard": "Standard", "topk": "TopK", "gated": "Gated"}
    config |= {"k": 5} if kind == "topk" else {}
    metadata = SAEMetadata(hook_name=hook, hf_hook_name=hf_hook)
    configured = getattr(sae_lens, f"{names[kind]}SAEConfig")(
        d_in=D_MODEL, d_sae=96, metadata=metadata, **config
    )
    sae = getattr(sae_lens, f"{names[kind]}SAE")(configured)
    for name, parameter in sae.named_parameters():
        parameter.data = torch.randn_like(parameter)
        if name == "threshold":
            parameter.data = 2 * parameter.data  # some of them below zero
    sae.save_model(str(folder))
    return sae


@pytest.mark.parametrize("kind", ["jumprelu", "standard"])
@pytest.mark.parametrize("apply_b_dec", [True, False])
def test_the_reader_gives_what_encoding_gives(tmp_path: Path, kind: str, apply_b_dec: bool) -> None:
    theirs = _save_sae(tmp_path, kind, apply_b_dec_to_input=apply_b_dec)
    sae = load_sae(tmp_path)
    rows = torch.randn(50, D_MODEL)
    ids = [7, 90, 3]
    encoder, bias, threshold = sae.encoder(ids)
    pre = rows @ encoder.T + bias
    read = torch.where(pre > threshold, pre, 0)
    expected = sae.encode(rows)[:, ids]
    assert (expected > 0).any()
    assert (expected == 0).any()
    assert torch.allclose(read, expected, atol=1e-4)
    assert torch.allclose(expected, theirs.encode(rows)[:, ids], atol=1e-4)
    assert torch.equal(sae.decoder(ids), theirs.W_dec[ids])
    assert torch.equal(sae.decoder(torch.tensor(ids)), theirs.W_dec[ids])
    assert torch.allclose(sae.reconstruct(rows), theirs(rows), atol=1e-4)
    assert sae.reconstruct(rows.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("rescale", [True, False])
def test_decoder_rows_are_in_the_units_of_the_latents(tmp_path: Path, rescale: bool) -> None:
    theirs = _save_sae(tmp_path, "topk", rescale_acts_by_decoder_norm=rescale)
    sae = load_sae(tmp_path)
    rows = torch.randn(6, D_MODEL)
    latents = sae.encode(rows)
    assert ((latents > 0).sum(dim=1) <= 5).all()
    rebuilt = latents @ sae.decoder(range(96)) + theirs.b_dec
    assert torch.allclose(rebuilt, theirs(rows), atol=1e-3)


def test_an_sae_before_a_block_is_one_after_the_block_before(tmp_path: Path) -> None:
    _save_sae(tmp_path, hook="blocks.3.hook_resid_pre")
    assert load_sae(tmp_path).site == Site(2)


@pytest.mark.parametrize(
    ("hook", "hf_hook"),
    [
        ("blocks.0.hook_resid_pre", None),
        ("blocks.2.hook_mlp_out", None),
        ("blocks.2.hook_mlp_out", "model.layers.2.post_feedforward_layernorm.output"),
        ("blocks.2.attn.hook_z", None),
        ("blocks.2.hook_resid_post", "model.layers.3"),
        ("hook_embed", None),
        ("", None),
    ],
)
def test_an_sae_of_another_place_is_refused(tmp_path: Path, hook: str, hf_hook: str | None) -> None:
    _save_sae(tmp_path, hook=hook, hf_hook=hf_hook)
    with pytest.raises(SaeError, match="does not read the residual stream after a block"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "gated"}, "of the kind 'gated', which is not supported"),
        ({"normalize_activations": "layer_norm"}, "normalizes every token by itself"),
    ],
)
def test_an_sae_that_cannot_be_read_latent_by_latent_is_refused(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    _save_sae(tmp_path, **options)
    with pytest.raises(SaeError, match=reason):
        load_sae(tmp_path)


def test_a_folder_without_an_sae_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SaeError, match=r"is not an SAE folder: cfg.json or sae_weights"):
        load_sae(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "fewer tensors", "no JSON", "unknown kind", "shape"])
def test_a_damaged_sae_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    _save_sae(tmp_path)
    weights, config = tmp_path / WEIGHTS, tmp_path / "cfg.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:200])
    elif damage == "no JSON":
        config.write_text("{")
    elif damage == "unknown kind":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"architecture": "x"}))
    else:
        tensors = load_file(weights)
        W_dec = tensors.pop("W_dec")  # noqa: N806
        save_file(tensors if damage == "fewer tensors" else tensors | {"W_dec": W_dec[:9]}, weights)
    with pytest.raises(SaeError, match=r"could not be loaded: .") as error:
        load_sae(tmp_path)
    assert "\n" not in error.value.sentence


def test_a_release_that_does_not_exist_is_refused_in_a_sentence() -> None:
    with pytest.raises(SaeError, match=r"'nowhere/none' could not be loaded"):
        load_sae("nowhere/none")


def test_the_hash_is_of_the_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
        _save_sae(tmp_path / name)
        if seed:
            tensors = load_file(tmp_path / name / WEIGHTS)
            save_file(tensors | {"b_enc": tensors["b_enc"] + seed}, tmp_path / name / WEIGHTS)
    hashes = [load_sae(tmp_path / name).sha256 for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


# The three commands, one after another


def test_train_identify_and_calibrate_from_the_command_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    folder, presets = tmp_path / "tiny", tmp_path / "presets"
    model._model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    presets.mkdir()
    (presets / "instructions").symlink_to(Library().root / "instructions")
    monkeypatch.setattr(corpus, "_REPLY_TOKENS", 4)
    monkeypatch.setattr(corpus, "_REPLY_BATCH", 8)
    effort = SearchBudget(first=2, first_tokens=3, second=3, third=4, max_new_tokens=4)
    monkeypatch.setattr(build, "BUDGETS", dict.fromkeys(BUDGETS, effort))
    common = ["--data", str(data), "--model", str(folder), "--presets", str(presets)]

    def run(*words: str) -> None:
        result = CliRunner().invoke(app, [*words[:1], *common, *words[1:]])
        assert result.exit_code == 0, result.output

    work = ["--work", str(tmp_path / "work")]
    train = ["train-sae", "--layer", "1", "--tokens", "4000", "--epochs", "3", "--k", "8", *work]
    run(*train)
    sae = presets / "tiny" / "sae" / "1"
    values = json.loads((sae / "card.json").read_text())
    assert all(math.isfinite(v) for v in values.values() if isinstance(v, float))
    assert values["fvu"] < 1
    assert values["command"]
    made = (sae / WEIGHTS).stat().st_mtime_ns
    (sae / "card.json").unlink()
    run(*train)
    assert (sae / WEIGHTS).stat().st_mtime_ns == made  # measured again, not trained again
    assert (sae / "card.json").is_file()
    run("identify", "--instruction", "question", "--n", "4")
    path = presets / "tiny" / "question.json"
    assert read_preset(path).preset.placements["pre"].scores is None
    run("calibrate", "--n", "4")
    preset = read_preset(path).preset
    for placement in PLACEMENTS:
        scores = preset.placements[placement].scores
        assert scores is not None
        assert [row.condition for row in scores.conditions] == list(CONDITIONS)
