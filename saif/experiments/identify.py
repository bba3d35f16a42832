"""Identification of instruction latents, for every instruction, layer and placement.

Activations are taken at the last prompt token, the one the reply starts from (method of SAIF,
arXiv 2502.11356). One pass over the prompts serves all layers.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saif import __version__
from saif.core.selection import LatentStatistics, at_dose, latent_statistics, output_score, rank
from saif.core.steering import Steering
from saif.core.types import PLACEMENTS, SELECTIONS, Placement
from saif.engine.local import LocalEngine
from saif.errors import SaeError
from saif.presets.instructions import ContentKind, Instruction, place
from saif.presets.preset import (
    Latent,
    LayerTable,
    LayerVectors,
    LoadedPreset,
    PlacementPreset,
    Preset,
    SaeRef,
)
from saif.presets.spec import MAX_STORED_LATENTS, LatentSource, SteeringSpec
from saif.progress import ProgressListener, ignore_progress, track
from saif.runtime.batch import Row, shared_prefix
from saif.runtime.language_model import LanguageModel
from saif.runtime.sae import Sae

_BATCH = 32
_WORDS = 6
_NEUTRAL, _PROBE_DOSE = "The weather is lovely today.", 0.25
"""Output scores are measured on this message, with this dose of one latent."""

FIRST_CHOICE = SteeringSpec(
    layer=0, latents=LatentSource(selection="saif", rule="mean", k=15), dose=0.4
)
"""The paper's selection and k, at a middling dose (and the last layer); calibration replaces it."""

Residuals = dict[int, Tensor]
"""layer -> (n_prompts, d_model) at the last prompt token."""


@dataclass(frozen=True, eq=False)
class Activations:
    """Residuals at the last prompt token, row i for content i."""

    kinds: dict[str, ContentKind]
    """Instruction id -> kind of its contents."""
    plain: dict[ContentKind, Residuals]
    """Of the content alone."""
    instructed: dict[tuple[str, Placement], Residuals]
    """(instruction id, placement) -> of the content with the instruction."""


def read_activations(
    model: LanguageModel,
    instructions: Sequence[Instruction],
    contents: dict[ContentKind, list[str]],
    layers: Sequence[int],
    *,
    seed: int = 0,
    on_progress: ProgressListener = ignore_progress,
) -> Activations:
    """Run every prompt once: each content alone, and with each instruction in both placements.

    A wording is drawn per content, the same for both placements.
    """
    jobs: list[tuple[Any, list[str]]] = list(contents.items())
    for instruction in instructions:
        rng = random.Random(f"{seed}-{instruction.id}")
        texts = contents[instruction.contents]
        wordings = [instruction.draw_wording(rng) for _ in texts]
        for placement in PLACEMENTS:
            placed = [place(w, t, placement) for w, t in zip(wordings, texts, strict=True)]
            jobs.append(((instruction.id, placement), placed))
    found = {
        key: last_residuals(model, texts, layers, on_progress=on_progress)
        for key, texts in track(jobs, "Reading prompts")
    }
    plain = {kind: found.pop(kind) for kind in contents}
    return Activations({item.id: item.contents for item in instructions}, plain, found)


def n_prompts(instructions: Sequence[Instruction], n: int) -> int:
    """How many prompts `read_activations` reads with `n` contents of each kind."""
    return n * (2 * len(instructions) + len({item.contents for item in instructions}))


def last_residuals(
    model: LanguageModel,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    on_progress: ProgressListener = ignore_progress,
) -> Residuals:
    """The residual stream at the last prompt token of each text as a user message, float32."""
    prompts = [model.render([{"role": "user", "content": text}]) for text in texts]
    skip = min(shared_prefix(prompts), min(map(len, prompts)) - 1)  # read once a batch
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = {layer: torch.empty(len(prompts), model.d_model) for layer in layers}
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        residuals, _ = model.residuals([prompts[i] for i in rows], layers, skip=skip)
        for layer, resid in residuals.items():
            found[layer][rows] = resid[:, -1].float().cpu()  # left-padded: the last is the newest
        on_progress("prompts", len(rows))
    return found


def build_presets(
    engine: LocalEngine,
    instructions: Sequence[Instruction],
    activations: Activations,
    load: Callable[[int], Sae],
    layers: Sequence[int],
    *,
    on_progress: ProgressListener = ignore_progress,
) -> list[LoadedPreset]:
    """A preset per instruction with every layer's latents. One SAE is in memory at a time. Raises
    SaeError for one that belongs to another layer or width."""
    tables: dict[tuple[str, Placement], list[LayerTable]] = {}
    vectors: dict[str, dict[int, LayerVectors]] = {item.id: {} for item in instructions}
    for layer in track(layers, "Identifying latents"):
        sae = load(layer)
        if sae.site.layer != layer or sae.d_in != engine.model.d_model:
            raise SaeError(
                f"The SAE '{sae.id}' reads {sae.site} with width {sae.d_in}, not layer {layer} "
                f"with width {engine.model.d_model}."
            )
        known: dict[int, float] = {}
        for instruction in instructions:
            norm = float(activations.plain[instruction.contents][layer].norm(dim=1).mean())
            found = {
                placement: _statistics(sae, instruction, placement, activations, layer)
                for placement in PLACEMENTS
            }
            new = sorted({i for s in found.values() for i in s.ids.tolist()} - set(known))
            scores = (
                output_scores(engine.language_model, sae.decoder(new), layer, norm) if new else []
            )
            known.update(zip(new, scores, strict=True))
            for placement, statistics in found.items():
                own = [known[latent] for latent in statistics.ids.tolist()]
                statistics.output_score[:] = torch.tensor(own)
                table = _table(engine.language_model, sae, layer, norm, statistics)
                tables.setdefault((instruction.id, placement), []).append(table)
            vectors[instruction.id][layer] = _vectors(sae, found, instruction, activations, layer)
        on_progress("layers", 1)
    commit = engine.language_model.revision
    return [
        LoadedPreset(
            Preset(
                schema_version=1,
                id=instruction.id,
                title=instruction.title,
                instruction=instruction.id,
                model=engine.model,
                placements={
                    placement: PlacementPreset(
                        layers=tables[instruction.id, placement],
                        choice=replace(FIRST_CHOICE, layer=layers[-1]),
                        scores=None,
                    )
                    for placement in PLACEMENTS
                },
                versions={"saif": __version__} | ({"model": commit} if commit else {}),
            ),
            vectors[instruction.id],
        )
        for instruction in instructions
    ]


def _statistics(
    sae: Sae, instruction: Instruction, placement: Placement, activations: Activations, layer: int
) -> LatentStatistics:
    """Statistics of the latents worth keeping: the best of every way of selecting."""
    with_it = activations.instructed[instruction.id, placement][layer]
    without = activations.plain[instruction.contents][layer]
    other = _other_instructions(instruction, placement, activations, layer)
    all_latents = latent_statistics(sae.encode(with_it), sae.encode(without), sae.encode(other))
    best = {
        int(place)
        for selection in SELECTIONS
        for place in rank(all_latents, selection)[:MAX_STORED_LATENTS]
    }
    return all_latents.take(torch.tensor(sorted(best)))


def output_scores(model: LanguageModel, decoder: Tensor, layer: int, norm: float) -> list[float]:
    """How much each latent, decoder (m, d_model), moves its own words when it steers the last
    prompt token of a neutral message (`saif.core.selection.output_score`)."""
    prompt = model.render([{"role": "user", "content": _NEUTRAL}])
    words = model.raised_tokens(decoder, _WORDS)
    plain = model.prefill([Row(prompt)])[1].logits[0]
    directions = [at_dose(row, _PROBE_DOSE, norm) for row in decoder]
    found: list[float] = []
    for start in range(0, len(directions), _BATCH):
        rows = [
            Row(prompt, Steering({layer: direction}, "response", {layer: _PROBE_DOSE}))
            for direction in directions[start : start + _BATCH]
        ]
        steered = model.prefill(rows)[1].logits
        found += output_score(plain, steered, words[start : start + _BATCH]).tolist()
    return found


def _other_instructions(
    instruction: Instruction, placement: Placement, activations: Activations, layer: int
) -> Tensor:
    """Row i: content i with one of the *other* instructions, taken in turn.

    Where no other instruction uses the same contents there is nothing to contrast with, and the
    instruction's own prompts stand in: every latent then has contrast 0.
    """
    candidates = [
        residuals[layer]
        for (name, where), residuals in activations.instructed.items()
        if where == placement
        and name != instruction.id
        and activations.kinds[name] == instruction.contents
    ] or [activations.instructed[instruction.id, placement][layer]]
    n = len(candidates[0])
    return torch.stack([candidates[i % len(candidates)][i] for i in range(n)])


def _table(
    model: LanguageModel, sae: Sae, layer: int, norm: float, statistics: LatentStatistics
) -> LayerTable:
    words = model.logit_lens(sae.decoder(statistics.ids), _WORDS)
    columns = {name: column.tolist() for name, column in vars(statistics).items()}
    ids = columns.pop("ids")
    return LayerTable(
        layer=layer,
        sae=SaeRef(id=sae.id, sha256=sae.sha256),
        residual_norm=round(norm, 4),
        latents=[
            Latent(
                id=latent,
                words=words[i],
                **{name: round(column[i], 5) for name, column in columns.items()},
            )
            for i, latent in enumerate(ids)
        ],
    )


def _vectors(
    sae: Sae,
    found: dict[Placement, LatentStatistics],
    instruction: Instruction,
    activations: Activations,
    layer: int,
) -> LayerVectors:
    ids = sorted({latent for statistics in found.values() for latent in statistics.ids.tolist()})
    encoder, bias, threshold = sae.encoder(ids)
    without = activations.plain[instruction.contents][layer].mean(dim=0)
    instructed = activations.instructed
    return LayerVectors(
        ids=ids,
        decoder=sae.decoder(ids),
        encoder=encoder,
        bias=bias,
        threshold=threshold,
        mean_difference={
            placement: instructed[instruction.id, placement][layer].mean(dim=0) - without
            for placement in PLACEMENTS
        },
    )
