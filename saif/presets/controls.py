"""What a person overrides of a preset's calibrated spec."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saif.core.types import SPANS, Placement, Span
from saif.errors import InputError
from saif.presets.spec import MAX_STORED_LATENTS, SteeringSpec

MAX_STRENGTH = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What a person may set. None means the calibrated value."""

    placement: Placement = "post"
    strength: float = 1.0
    """1 is the calibrated dose, 0 is off."""
    k: int | None = None
    """How many latents."""
    layer: int | None = None
    """A layer other than the calibrated one is steered alone."""
    span: Span | None = None

    def applied_to(self, spec: SteeringSpec, stored: Sequence[int]) -> SteeringSpec:
        """A preset's calibrated spec of latents with these values in place of its own. stored: the
        layers that the preset has latents for.

        The dose stays: a direction is rescaled to strength × dose, so that the strength means the
        same whatever k and layer are. Raises InputError on a value out of range.
        """
        assert spec.latents is not None
        layer = spec.layer if self.layer is None else self.layer
        k = spec.latents.k if self.k is None else self.k
        span = spec.span if self.span is None else self.span
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise InputError(
                f"strength must lie between 0 and {MAX_STRENGTH:g}, not {self.strength}.",
                hint="1 is the calibrated strength.",
            )
        if layer not in stored:
            raise InputError(
                f"There is no SAE at layer {layer} for this preset.",
                hint=f"Layers with one: {', '.join(map(str, stored))}.",
            )
        if not 1 <= k <= MAX_STORED_LATENTS:
            raise InputError(f"k must lie between 1 and {MAX_STORED_LATENTS}, not {k}.")
        if span not in SPANS:
            raise InputError(f"'{span}' is not a span.", hint=f"Choose from {', '.join(SPANS)}.")
        latents = replace(spec.latents, k=k)
        if layer != spec.layer:
            spec = replace(spec, layer=layer, extra_layers=())
        return replace(spec, latents=latents, span=span)
