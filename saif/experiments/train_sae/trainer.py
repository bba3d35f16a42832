"""Train SAEs for a model with sae-lens' trainer on stored residual streams, and measure them."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saif.core.types import Site
from saif.errors import InputError
from saif.experiments.train_sae.activations import collect_activations
from saif.experiments.train_sae.corpus import Sequences, build_corpus
from saif.presets.library import Library
from saif.runtime.language_model import LanguageModel
from saif.runtime.sae import WEIGHTS, Sae, load_sae

HELD_OUT = 20_000
"""At most so many rows of an activation store, a tenth of it at most, are never trained on; the
metrics are measured on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeTraining:
    """Hyperparameters of an SAE."""

    width: int = 8
    """Latents per residual dimension."""
    k: int = 32
    """Active latents per token, on average."""
    n_tokens: int = 1_000_000
    """May exceed what is stored; the rows are then seen again in another order."""
    batch_size: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0


def train_saes(
    model: LanguageModel,
    library: Library,
    data: Path,
    layers: Sequence[int],
    training: SaeTraining,
    *,
    n_tokens: int,
    work: Path,
    command: str,
) -> None:
    """One SAE per layer into the library's `sae/<layer>/`, each with its metrics in `card.json`.
    n_tokens: of text to read.

    Every stage leaves its result in `work`, so an interrupted run goes on where it was; layers that
    were collected together stay together.
    """
    if any(not 0 <= layer < model.n_layers for layer in layers):
        raise InputError(f"{model.model_id} has layers 0 to {model.n_layers - 1}.")
    corpus = build_corpus(
        model, library.instructions(), data, work / "corpus.json", n_tokens=n_tokens
    )
    files = collect_activations(model, corpus, layers, work)
    for layer in layers:
        folder = library.sae_folder(model.model_id, layer)
        checkpoints = work / f"checkpoints-{layer}"
        if checkpoints.exists() or not (folder / WEIGHTS).is_file():
            train_sae(model, Site(layer), files[layer], folder, training, checkpoints=checkpoints)
        metrics = folder / "card.json"
        if not metrics.is_file():
            found = measure_sae(model, load_sae(folder), files[layer], corpus, training)
            metrics.write_text(json.dumps(found | {"command": command}, indent=1) + "\n", "utf-8")


def train_sae(
    model: LanguageModel,
    site: Site,
    activations: Path,
    folder: Path,
    training: SaeTraining,
    *,
    checkpoints: Path,
) -> None:
    """Train and save to `folder` in sae-lens' format, weights in float16.

    A BatchTopK SAE, saved as the JumpReLU SAE that it becomes. Goes on from the newest
    checkpoint if an earlier run was interrupted.
    """
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.constants import ACTIVATION_SCALER_CFG_FILENAME
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(training.seed)
    provider = _batches(activations, training)
    n_steps = training.n_tokens // training.batch_size
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=model.d_model,
            d_sae=training.width * model.d_model,
            k=training.k,
            apply_b_dec_to_input=True,
            normalize_activations="expected_average_only_in",
            metadata=SAEMetadata(
                model_name=model.model_id,
                hook_name=str(site),
                hf_hook_name=f"model.layers.{site.layer}",
            ),
        )
    )
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=training.n_tokens,
            train_batch_size_samples=training.batch_size,
            lr=training.learning_rate,
            lr_end=training.learning_rate / 10,
            lr_warm_up_steps=min(50, n_steps // 10),
            lr_decay_steps=n_steps // 3,
            dead_feature_window=300,
            n_checkpoints=9,
            checkpoint_path=str(checkpoints),
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=sae,
        data_provider=provider,
    )
    # The scaler is what sae-lens writes last: without it a checkpoint is incomplete.
    complete = [path.parent for path in checkpoints.glob(f"*/{ACTIVATION_SCALER_CFG_FILENAME}")]
    if complete:
        newest = max(complete, key=lambda path: int(path.name))
        sae.load_weights_from_checkpoint(newest)
        trainer.load_trainer_state(newest)
        trainer.n_training_steps += 1  # sae-lens saves before it counts the step it saves after
        trainer.checkpoint_thresholds = [
            at for at in trainer.checkpoint_thresholds if at >= trainer.n_training_samples
        ]
        for _ in range(trainer.n_training_steps):
            next(provider)
    else:
        _start_at_the_mean(trainer, sae, activations)
    trainer.fit()
    _save_half(sae, folder)
    shutil.rmtree(checkpoints, ignore_errors=True)


def _start_at_the_mean(trainer: Any, sae: Any, activations: Path) -> None:
    """Scale so that the mean norm is √d_model, and set the decoder bias to the mean: residual
    streams have a large common part, which latents should not have to learn."""
    sample = torch.from_numpy(np.array(np.load(activations, mmap_mode="r")[::50])).float()
    scale = float(sample.shape[1] ** 0.5 / sample.norm(dim=1).mean())
    trainer.activation_scaler.scaling_factor = scale
    sae.b_dec.data[:] = sample.mean(dim=0) * scale


def _batches(activations: Path, training: SaeTraining) -> Iterator[Tensor]:
    """Shuffled batches (batch_size, d_model) float32, for ever."""
    rows = np.load(activations)  # float16: a million tokens of a small model are a gigabyte
    order, _ = _split(len(rows))
    if len(order) < training.batch_size:
        raise InputError(
            f"{len(rows):,} tokens are too few to train an SAE on batches of "
            f"{training.batch_size:,}.",
            hint="Read more tokens of text.",
        )
    rng = np.random.default_rng(training.seed)
    while True:
        rng.shuffle(order)
        for start in range(0, len(order) - training.batch_size + 1, training.batch_size):
            index = np.sort(order[start : start + training.batch_size])
            yield torch.from_numpy(rows[index]).float()


def _split(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of `n` rows are trained on and which are held out, always the same."""
    order = np.random.default_rng(20_250_216).permutation(n)
    held_out = min(HELD_OUT, n // 10)
    return order[: n - held_out], order[n - held_out :]


def _save_half(sae: Any, folder: Path) -> None:
    from sae_lens import SAE

    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    sae.save_inference_model(str(draft))
    half = SAE.load_from_disk(str(draft), dtype="float16")
    shutil.rmtree(draft)
    half.save_model(str(draft))
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft.rename(folder)


def measure_sae(
    model: LanguageModel,
    sae: Sae,
    activations: Path,
    corpus: Sequence[Sequences],
    training: SaeTraining,
) -> dict[str, Any]:
    """Metrics of an SAE, from activations that it was not trained on.

    fvu: fraction of variance unexplained. l0: active latents per token. dead: share of latents that
    never fired. loss: next-token cross-entropy in nats on some of the corpus; loss_reconstructed:
    the same with the reconstruction in place of the activation.
    """
    stored = np.load(activations, mmap_mode="r")
    _, held_out = _split(len(stored))
    rows = torch.from_numpy(np.array(stored[np.sort(held_out)])).float()
    residual_ss = total_ss = active = 0.0
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    mean = rows.mean(dim=0)
    for chunk in rows.split(2048):
        latents = sae.encode(chunk)
        fired |= (latents > 0).any(dim=0)
        active += float((latents > 0).sum())
        residual_ss += float((chunk - sae.reconstruct(chunk)).square().sum())
        total_ss += float((chunk - mean).square().sum())
    loss, reconstructed = _losses(model, sae, corpus)
    return {
        "model": model.model_id,
        "site": str(sae.site),
        "d_sae": sae.d_sae,
        "n_tokens": training.n_tokens,
        "fvu": residual_ss / total_ss,
        "l0": active / len(rows),
        "dead": 1 - float(fired.float().mean()),
        "loss": loss,
        "loss_reconstructed": reconstructed,
        "loss_added": reconstructed - loss,
        "training": asdict(training),
    }


def _losses(
    model: LanguageModel, sae: Sae, corpus: Sequence[Sequences], n: int = 48
) -> tuple[float, float]:
    """Next-token loss without and with the reconstruction, over `n` sequences of each part.

    Tokens up to `skip` keep their activation: the SAE never saw that shared prefix.
    """
    plain, patched, weight = 0.0, 0.0, 0
    for part in corpus:
        batch = sorted(part.token_ids[:n], key=len)
        for start in range(0, len(batch), 8):
            few = batch[start : start + 8]
            n_tokens = sum(len(ids) - part.skip for ids in few)
            lengths = torch.tensor([len(ids) for ids in few])
            edit = {sae.site.layer: partial(_reconstructed, sae, lengths, part.skip)}
            plain += n_tokens * model.next_token_loss(few, skip=part.skip)
            patched += n_tokens * model.next_token_loss(few, skip=part.skip, replace=edit)
            weight += n_tokens
    return plain / weight, patched / weight


def _reconstructed(sae: Sae, lengths: Tensor, skip: int, resid: Tensor) -> Tensor:
    """Left-padded rows of these lengths with the SAE's reconstruction in place of every token after
    the first `skip`."""
    position = torch.arange(resid.shape[1]) - (lengths.max() - lengths)[:, None]
    read = (position >= skip)[:, :, None].to(resid.device)
    return torch.where(read, sae.reconstruct(resid), resid)
