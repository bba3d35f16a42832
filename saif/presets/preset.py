"""A preset: one instruction's latents in one model, calibrated, with the scores it was given.

`<instruction>.json` holds what a person may want to read, `<instruction>.safetensors` beside it
the vectors. Together they are all that steering takes: no SAE is needed in memory.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from saif.core.types import PLACEMENTS, Placement, Span
from saif.errors import InputError, PresetError
from saif.files import StrictModel
from saif.presets.controls import Controls
from saif.presets.spec import LatentSource, SteeringSpec

if TYPE_CHECKING:
    from torch import Tensor

    from saif.core.selection import LatentStatistics
    from saif.core.steering import LatentEncoder, Steering

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class _Strict(StrictModel):
    model_config = ConfigDict(allow_inf_nan=False)


class ModelRef(_Strict):
    """The model a preset belongs to; `fingerprint` survives quantization, not finetuning."""

    id: str
    fingerprint: str
    n_layers: Annotated[int, Field(ge=1)]
    d_model: Annotated[int, Field(ge=1)]


class SaeRef(_Strict):
    """The SAE the latents are numbered in; `sha256` is of its weights file."""

    id: str
    sha256: str


class Latent(_Strict):
    """One latent's statistics (see `saif.core.selection`) and the words it raises."""

    id: Annotated[int, Field(ge=0)]
    sensitivity: Share
    other_sensitivity: Share
    mean: float
    std: float
    delta: float
    delta_std: float
    output_score: float
    words: list[str]


class LayerTable(_Strict):
    """The stored latents of one layer."""

    layer: Annotated[int, Field(ge=0)]
    sae: SaeRef
    residual_norm: Positive
    """Mean ‖z‖ over content-only prompts."""
    latents: Annotated[list[Latent], Field(min_length=1)]

    @model_validator(mode="after")
    def _latents_differ(self) -> "LayerTable":
        if len({latent.id for latent in self.latents}) < len(self.latents):
            raise ValueError(f"latents: layer {self.layer} lists a latent twice")
        return self


class Interval(_Strict):
    """A rate with its 95 % Wilson interval."""

    successes: Annotated[int, Field(ge=0)]
    n: Annotated[int, Field(ge=1)]
    low: Share
    high: Share

    @model_validator(mode="after")
    def _no_more_than_all(self) -> "Interval":
        if self.successes > self.n:
            raise ValueError(f"successes: {self.successes} of {self.n}")
        return self

    @property
    def value(self) -> float:
        return self.successes / self.n


class ConditionScores(_Strict):
    """One condition's rates."""

    condition: str
    layer: int | None
    """Where it steered; None for a condition that doesn't."""
    loose: Interval
    strict: Interval
    degenerate: Interval
    perplexity: float | None
    """Median, under the unsteered model."""
    dose: float | None


class Scores(_Strict):
    """What was measured, with greedy replies."""

    split: str
    """Which texts."""
    n: Annotated[int, Field(ge=1)]
    max_new_tokens: Annotated[int, Field(ge=1)]
    perplexity_bound: Positive
    command: str
    """Makes the numbers again."""
    conditions: list[ConditionScores]
    run: Annotated[str | None, Field(exclude_if=lambda run: run is None)] = None
    """Identity of the run whose replies these are the summary of; older presets name none."""

    def condition(self, name: str) -> ConditionScores | None:
        return next((scores for scores in self.conditions if scores.condition == name), None)


class PlacementPreset(_Strict):
    """Everything for one placement."""

    layers: Annotated[list[LayerTable], Field(min_length=1)]
    choice: SteeringSpec
    """What calibration found best among the latents."""
    mean_difference: SteeringSpec | None = None
    """The baseline at its own best setting, found by the same search."""
    scores: Scores | None

    @model_validator(mode="after")
    def _choice_is_stored(self) -> "PlacementPreset":
        if self.choice.latents is None:
            raise ValueError("choice.selection: is missing; a preset steers with latents")
        if self.mean_difference and self.mean_difference.latents is not None:
            raise ValueError("mean_difference.selection: a mean difference has no latents")
        for name, spec in (("choice", self.choice), ("mean_difference", self.mean_difference)):
            for layer in spec.layers if spec else ():
                if layer not in self.layer_numbers:
                    raise ValueError(f"{name}.layer: nothing is stored for layer {layer}")
        if len(set(self.layer_numbers)) < len(self.layers):
            raise ValueError("layers: a layer is listed twice")
        stored = len(self.table(self.choice.layer).latents)
        if self.latents.k > stored:
            raise ValueError(f"choice.k: is {self.latents.k}, but {stored} latents are stored")
        return self

    @property
    def latents(self) -> LatentSource:
        """How `choice` selects and weighs its latents."""
        assert self.choice.latents is not None
        return self.choice.latents

    @property
    def layer_numbers(self) -> list[int]:
        return [table.layer for table in self.layers]

    def table(self, layer: int) -> LayerTable:
        return next(table for table in self.layers if table.layer == layer)


class Preset(_Strict):
    """One instruction in one model."""

    schema_version: Literal[1]
    id: str
    title: str
    instruction: str
    model: ModelRef
    placements: dict[Placement, PlacementPreset]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _fits_its_model(self) -> "Preset":
        if set(self.placements) != {"pre", "post"}:
            raise ValueError("placements: both 'pre' and 'post' are needed")
        for placement, part in self.placements.items():
            if max(part.layer_numbers) >= self.model.n_layers:
                raise ValueError(f"placements.{placement}.layers: the model has fewer layers")
        return self


@dataclass(frozen=True, eq=False)
class LayerVectors:
    """The tensors of one layer's stored latents, in the order of `ids`.

    An activation is a = pre if pre > threshold else 0, with pre = encoder @ z + bias.
    """

    ids: list[int]
    decoder: "Tensor"
    """(m, d_model)"""
    encoder: "Tensor"
    """(m, d_model)"""
    bias: "Tensor"
    """(m,)"""
    threshold: "Tensor"
    """(m,)"""
    mean_difference: "dict[Placement, Tensor]"
    """placement -> (d_model,)"""


@dataclass(frozen=True, eq=False)
class Selected:
    """The latents of one layer that a source selects, best first."""

    latents: tuple[Latent, ...]
    coefficients: "Tensor"
    """(k,): the share α of each in the direction; negative steers away from it."""
    _vectors: LayerVectors | None

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(latent.id for latent in self.latents)

    @functools.cached_property
    def encoder(self) -> "LatentEncoder":
        """Encoder and decoder rows, each (k, d_model) float32."""
        from saif.core.steering import LatentEncoder

        stored = self._vectors
        assert stored is not None, "the preset was loaded without its vectors"
        rows = [stored.ids.index(latent) for latent in self.ids]
        tensors = (stored.encoder, stored.bias, stored.threshold, stored.decoder)
        return LatentEncoder(*(tensor[rows].float() for tensor in tensors))

    @functools.cached_property
    def direction(self) -> "Tensor":
        """Σ_j α_j · W_dec[j]: (d_model,) float32."""
        from saif.core.steering import weighted_sum

        return weighted_sum(self.encoder.decoder, self.coefficients)


_KEPT = 16
"""Selections that a loaded preset keeps: a calibrated one takes two layers at most, and whoever
drags a slider comes by a few more."""


@dataclass(frozen=True, eq=False)
class LoadedPreset:
    """A preset with its vectors, ready to steer with."""

    preset: Preset
    vectors: Mapping[int, LayerVectors] = field(default_factory=dict)
    """layer -> its tensors. Without any, latents can be selected but not steered with."""

    @property
    def id(self) -> str:
        return self.preset.id

    def check_model(self, model: ModelRef) -> None:
        """Raise PresetError unless the preset was made for this very model."""
        made_for = self.preset.model
        if made_for.id != model.id or made_for.fingerprint != model.fingerprint:
            same_name = " (same name, other weights)" if made_for.id == model.id else ""
            raise PresetError(
                f"The preset '{self.id}' was made for {made_for.id}, not for {model.id}"
                f"{same_name}.",
                hint="Latents of one model mean nothing in another; choose a preset of this model.",
            )

    def steering(
        self,
        placement: Placement = "post",
        strength: float = 1.0,
        k: int | None = None,
        layer: int | None = None,
        span: Span | None = None,
    ) -> "Steering":
        """The calibrated steering, or another one where something is given.

        Strength 1 is the calibrated dose; at strength 0 the steering is `off` and adds nothing.
        Raises InputError on a value out of range, PresetError if there is no direction.
        """
        return self.steering_with(
            Controls(placement=placement, strength=strength, k=k, layer=layer, span=span)
        )

    def steering_with(self, controls: Controls) -> "Steering":
        """The steering that these controls ask for; raises as `steering` does."""
        if controls.placement not in PLACEMENTS:
            raise InputError(
                f"'{controls.placement}' is not a placement.",
                hint=f"Choose from {', '.join(PLACEMENTS)}.",
            )
        part = self.preset.placements[controls.placement]
        spec = controls.applied_to(part.choice, part.layer_numbers)
        return self.assemble(controls.placement, spec, strength=controls.strength)

    def assemble(
        self, placement: Placement, spec: SteeringSpec, *, strength: float = 1.0
    ) -> "Steering":
        """The spec as a steering, `strength` times as long. Raises PresetError if a layer's
        direction is zero."""
        from saif.core.steering import Steering

        selected: dict[int, Selected] = {}
        if spec.latents is not None:
            selected = {n: self.select(placement, n, spec.latents) for n in spec.layers}
        latents = {layer: found.ids for layer, found in selected.items()}
        if strength == 0:
            dose = dict.fromkeys(spec.layers, 0.0)
            return Steering({}, spec.span, dose, spec.schedule, latents=latents, strength=0.0)
        raw = {
            n: selected[n].direction if selected else self.vectors[n].mean_difference[placement]
            for n in spec.layers
        }
        steering = self.scaled(placement, raw, spec, strength=strength)
        clamped = {}
        if spec.schedule.clamp:
            # Half a strength also takes only half of what the latents write away.
            share = min(strength, 1.0)
            clamped = {layer: found.encoder.scaled(share) for layer, found in selected.items()}
        return replace(steering, clamped=clamped, latents=latents)

    def scaled(
        self,
        placement: Placement,
        directions: "Mapping[int, Tensor]",
        spec: SteeringSpec,
        *,
        strength: float = 1.0,
    ) -> "Steering":
        """Any directions, layer -> (d_model,), with the spec's dose, span and schedule. Nothing is
        clamped. Raises PresetError if a direction is zero."""
        from saif.core.selection import at_dose
        from saif.core.steering import Steering

        dose = strength * spec.dose_per_layer
        scaled = {}
        for layer, direction in directions.items():
            norm = self.preset.placements[placement].table(layer).residual_norm
            scaled[layer] = at_dose(direction, dose, norm)
            if not bool(scaled[layer].any()):
                raise self.no_direction(layer)
        doses = dict.fromkeys(scaled, dose)
        return Steering(scaled, spec.span, doses, spec.schedule, strength=strength)

    def no_direction(self, layer: int) -> PresetError:
        return PresetError(
            f"The preset '{self.id}' has no direction at layer {layer}.",
            hint="Choose another layer or more latents.",
        )

    def select(self, placement: Placement, layer: int, source: LatentSource) -> Selected:
        """The latents that a source selects at one layer; the last few selections are kept."""
        return self._select(placement, layer, source)

    @functools.cached_property
    def _select(self) -> Callable[[Placement, int, LatentSource], Selected]:
        from saif.core.selection import coefficients, rank

        @functools.lru_cache(_KEPT)
        def select(placement: Placement, layer: int, source: LatentSource) -> Selected:
            statistics = self.statistics(placement, layer)
            top = rank(statistics, source.selection)[: source.k]
            latents = self.preset.placements[placement].table(layer).latents
            return Selected(
                tuple(latents[place] for place in top.tolist()),
                coefficients(statistics.take(top), source.rule, source.beta),
                self.vectors.get(layer),
            )

        return select

    def statistics(self, placement: Placement, layer: int) -> "LatentStatistics":
        """The stored latents of one placement and layer, as tensors."""
        import torch

        from saif.core.selection import LatentStatistics

        latents = self.preset.placements[placement].table(layer).latents
        names = ["id", *list(LatentStatistics.__dataclass_fields__)[1:]]
        columns = ([getattr(latent, name) for latent in latents] for name in names)
        return LatentStatistics(*map(torch.tensor, columns))

    def with_part(self, placement: Placement, **update: object) -> "LoadedPreset":
        """The preset with some of one placement's values changed; the vectors are shared."""
        part = self.preset.placements[placement].model_copy(update=update)
        placements = {**self.preset.placements, placement: part}
        return replace(self, preset=self.preset.model_copy(update={"placements": placements}))
