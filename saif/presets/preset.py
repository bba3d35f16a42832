"""A preset: one instruction's latents in one model, calibrated, with the scores it was given.

`<instruction>.json` holds what a person may want to read, `<instruction>.safetensors` beside it
the vectors. Together they are all that steering takes: no SAE is needed in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from saif.core.types import Placement, Selection, Span, StrengthRule

if TYPE_CHECKING:
    from torch import Tensor

    from saif.core.selection import LatentStatistics
    from saif.core.steering import Steering

MAX_STORED_LATENTS = 64
"""Per way of selecting; the k control reaches up to here."""

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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
    """What is known at one layer. residual_norm: mean ‖z‖ over content-only prompts."""

    layer: Annotated[int, Field(ge=0)]
    sae: SaeRef
    residual_norm: Positive
    latents: Annotated[list[Latent], Field(min_length=1)]

    @model_validator(mode="after")
    def _latents_differ(self) -> "LayerTable":
        if len({latent.id for latent in self.latents}) < len(self.latents):
            raise ValueError(f"latents: layer {self.layer} lists a latent twice")
        return self


class Choice(_Strict):
    """Where and how hard to steer. `dose` is ‖direction‖ / residual_norm at strength 1, summed
    over `layer` and the layers in `also`, which get equal shares. half_life, keep_norm and clamp:
    see `saif.core.types.Schedule`."""

    layer: Annotated[int, Field(ge=0)]
    also: list[Annotated[int, Field(ge=0)]] = []
    selection: Selection
    rule: StrengthRule
    k: Annotated[int, Field(ge=1, le=MAX_STORED_LATENTS)]
    beta: Annotated[float, Field(ge=-1, le=1)]
    dose: Positive
    span: Span
    half_life: Annotated[int, Field(ge=1)] | None = None
    keep_norm: bool = False
    clamp: bool = False


class MeanDifferenceChoice(_Strict):
    """The rival at its own best setting, found by the same search as the choice."""

    layer: Annotated[int, Field(ge=0)]
    dose: Positive
    half_life: Annotated[int, Field(ge=1)] | None = None
    keep_norm: bool = False


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
    """One condition's rates. perplexity: median, under the unsteered model. layer and dose: where
    and how hard it steered, None for a condition that doesn't."""

    condition: str
    layer: int | None
    loose: Interval
    strict: Interval
    degenerate: Interval
    perplexity: float | None
    dose: float | None


class Scores(_Strict):
    """Measured on `n` texts of `split`, greedy. `command` makes the numbers again."""

    split: str
    n: Annotated[int, Field(ge=1)]
    max_new_tokens: Annotated[int, Field(ge=1)]
    perplexity_bound: Positive
    command: str
    conditions: list[ConditionScores]

    def condition(self, name: str) -> ConditionScores | None:
        return next((scores for scores in self.conditions if scores.condition == name), None)


class PlacementPreset(_Strict):
    """Everything for one placement. `choice` is what calibration found best among the latents,
    `mean_difference` (None before calibration) what it found for that baseline."""

    layers: Annotated[list[LayerTable], Field(min_length=1)]
    choice: Choice
    mean_difference: MeanDifferenceChoice | None = None
    scores: Scores | None

    @model_validator(mode="after")
    def _choice_is_stored(self) -> "PlacementPreset":
        for layer in (self.choice.layer, *self.choice.also):
            if layer not in self.layer_numbers:
                raise ValueError(f"choice.layer: no latents are stored for layer {layer}")
        if self.mean_difference and self.mean_difference.layer not in self.layer_numbers:
            raise ValueError(f"mean_difference.layer: {self.mean_difference.layer} is not stored")
        if len({self.choice.layer, *self.choice.also}) < 1 + len(self.choice.also):
            raise ValueError("choice.also: a layer is listed twice")
        if len(set(self.layer_numbers)) < len(self.layers):
            raise ValueError("layers: a layer is listed twice")
        stored = len(self.table(self.choice.layer).latents)
        if self.choice.k > stored:
            raise ValueError(f"choice.k: is {self.choice.k}, but {stored} latents are stored")
        return self

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

    decoder (m, d_model); encoder (m, d_model), bias (m,) and threshold (m,) read the latents
    live: a = pre if pre > threshold else 0, with pre = encoder @ z + bias.
    mean_difference: placement -> (d_model,).
    """

    ids: list[int]
    decoder: "Tensor"
    encoder: "Tensor"
    bias: "Tensor"
    threshold: "Tensor"
    mean_difference: "dict[Placement, Tensor]"

    def rows_of(self, latents: Sequence[int]) -> list[int]:
        """Where these latents stand in the tensors."""
        place_of = {latent: place for place, latent in enumerate(self.ids)}
        return [place_of[latent] for latent in latents]


@dataclass(frozen=True, eq=False)
class LoadedPreset:
    """A preset with its vectors. vectors: layer -> LayerVectors."""

    preset: Preset
    vectors: dict[int, LayerVectors]

    @property
    def id(self) -> str:
        return self.preset.id

    def statistics(self, placement: Placement, layer: int) -> "LatentStatistics":
        """The stored latents of one placement and layer, as tensors."""
        import torch

        from saif.core.selection import LatentStatistics

        latents = self.preset.placements[placement].table(layer).latents
        return LatentStatistics(
            ids=torch.tensor([latent.id for latent in latents]),
            **{
                name: torch.tensor([getattr(latent, name) for latent in latents])
                for name in LatentStatistics.__dataclass_fields__
                if name != "ids"
            },
        )

    def decoder_rows(self, placement: Placement, layer: int) -> "Tensor":
        """(m, d_model) float32, in the order of the placement's latents at this layer."""
        vectors = self.vectors[layer]
        latents = self.preset.placements[placement].table(layer).latents
        return vectors.decoder[vectors.rows_of([latent.id for latent in latents])].float()

    def with_part(self, placement: Placement, **update: object) -> "LoadedPreset":
        """The preset with some of one placement's values changed; the vectors are shared."""
        part = self.preset.placements[placement].model_copy(update=update)
        placements = {**self.preset.placements, placement: part}
        return replace(self, preset=self.preset.model_copy(update={"placements": placements}))

    def steering(
        self,
        placement: Placement = "post",
        strength: float = 1.0,
        k: int | None = None,
        layer: int | None = None,
        span: Span | None = None,
    ) -> "Steering | None":
        """What the preset adds to the residual stream, as calibrated where nothing else is said;
        None at strength 0. Raises InputError on a value out of range."""
        from saif.presets.controls import Controls, steer

        controls = Controls(placement=placement, strength=strength, k=k, layer=layer, span=span)
        return steer(self, controls)[0]
