"""Train SAEs for a model from start to finish: corpus, activations, training, metrics."""

from dataclasses import dataclass
from pathlib import Path

from saif.core.types import Site
from saif.errors import InputError
from saif.experiments.train_sae.activations import collect_activations
from saif.experiments.train_sae.corpus import build_corpus
from saif.experiments.train_sae.trainer import (
    METRICS,
    SaeTraining,
    measure_sae,
    train_sae,
    write_metrics,
)
from saif.presets.library import Library
from saif.runtime.language_model import LanguageModel
from saif.runtime.sae import WEIGHTS, load_sae


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What `train-sae` was asked for."""

    data: Path
    layers: tuple[int, ...]
    n_tokens: int
    epochs: float
    """How often each stored token is seen."""
    width: int
    k: int
    work: Path
    command: str


def train_saes(model: LanguageModel, library: Library, plan: TrainingPlan) -> None:
    """One SAE per layer into the library's `sae/<layer>/`, each with its metrics.

    Every stage leaves its result in `plan.work`, so an interrupted run goes on where it was;
    layers that were collected together stay together.
    """
    if any(not 0 <= layer < model.n_layers for layer in plan.layers):
        raise InputError(f"{model.model_id} has layers 0 to {model.n_layers - 1}.")
    corpus = build_corpus(
        model, library.instructions(), plan.data, plan.work / "corpus.json", n_tokens=plan.n_tokens
    )
    files = collect_activations(model, corpus, plan.layers, plan.work)
    for layer in plan.layers:
        training = SaeTraining(
            width=plan.width, k=plan.k, n_tokens=int(plan.n_tokens * plan.epochs)
        )
        folder = library.sae_folder(model.model_id, layer)
        checkpoints = plan.work / f"checkpoints-{layer}"
        if checkpoints.exists() or not (folder / WEIGHTS).is_file():
            train_sae(model, Site(layer), files[layer], folder, training, checkpoints=checkpoints)
        if not (folder / METRICS).is_file():
            sae = load_sae(folder)
            metrics = measure_sae(model, sae, files[layer], corpus, training, plan.command)
            write_metrics(folder, metrics)
