"""A steering spec: where, with what and how hard to steer. It is what presets store, what the
calibration searches, and what is scored and shown."""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_serializer, model_validator
from pydantic.dataclasses import dataclass

from saif.core.types import CONSTANT, CoefficientRule, Schedule, Selection, Span

MAX_STORED_LATENTS = 64
"""Per way of selecting; the k control reaches up to here."""

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Layer = Annotated[int, Field(ge=0)]
_UNSAID = {"also": [], "span": "response", "clamp": False}


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class LatentSource:
    """A direction made of latents: how they are selected and weighed, and how many.

    Raises ValueError (pydantic's ValidationError) on a value of the wrong type or out of range.
    """

    selection: Selection
    rule: CoefficientRule
    k: Annotated[int, Field(ge=1, le=MAX_STORED_LATENTS)]
    beta: Annotated[float, Field(ge=-1, le=1)] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class SteeringSpec:
    """Where, with what and how hard to steer.

    In files it is one flat object, without the nesting and with `also` for `extra_layers`. Raises
    ValueError (pydantic's ValidationError) on a value of the wrong type or out of range.
    """

    layer: Layer
    extra_layers: tuple[Layer, ...] = ()
    """Layers that are steered as well, each with the same share of the dose."""

    latents: LatentSource | None = None
    """What the direction is made of; None is the mean difference."""

    dose: Annotated[float, Field(gt=0)]
    """‖direction‖ / mean ‖residual‖ at strength 1, summed over all layers."""

    span: Span = "response"
    schedule: Schedule = CONSTANT

    @model_validator(mode="before")
    @classmethod
    def _read_flat(cls, given: Any) -> Any:
        if not isinstance(given, dict):  # made in code, not read from a file
            return given
        spec = dict(given)
        if isinstance(also := spec.pop("also", []), list):
            also = tuple(also)
        source = _taken(spec, "selection", "rule", "k", "beta")
        schedule = _taken(spec, "half_life", "keep_norm", "clamp")
        nested = {
            "extra_layers": also,
            "latents": LatentSource(**source) if source else None,
            "schedule": Schedule(**schedule),
        }
        for name in spec.keys() & nested.keys():
            raise ValueError(f"{name}: is not a key of a file")
        return spec | nested

    @model_validator(mode="after")
    def _makes_sense(self) -> "SteeringSpec":
        if len(set(self.layers)) < len(self.layers):
            raise ValueError("also: a layer is listed twice")
        if self.schedule.clamp and self.latents is None:
            raise ValueError("clamp: only latents can be clamped, not the mean difference")
        return self

    @model_serializer
    def flat(self) -> dict[str, Any]:
        """As files hold it."""
        found = {
            "layer": self.layer,
            "also": list(self.extra_layers),
            **(asdict(self.latents) if self.latents else {}),
            "dose": self.dose,
            "span": self.span,
            **asdict(self.schedule),
        }
        if self.latents is None:  # of a mean difference, older versions refuse these keys
            for name, usual in _UNSAID.items():
                if found[name] == usual:
                    del found[name]
        return found

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.layer, *self.extra_layers)

    @property
    def dose_per_layer(self) -> float:
        return self.dose / len(self.layers)


def _taken(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of `names` that there are, removed from `values`."""
    return {name: values.pop(name) for name in names if name in values}
