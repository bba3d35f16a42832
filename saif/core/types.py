"""Plain values that every layer may pass around. No torch, so importing them is cheap."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import pydantic

from saif.errors import InputError

Placement = Literal["pre", "post"]
"""Where the instruction stands: `pre` = instruction, then content; `post` = the reverse."""

Span = Literal["response", "prompt", "all"]
"""Which tokens are steered. Not to be confused with placement.

`response` is the last prompt token and every generated one: the first generated token is read
off the last prompt token, so leaving that out would leave the first word unsteered.
"""

Selection = Literal["saif", "contrast", "signed", "output"]
"""How latents are chosen; see `saif.core.selection`."""

CoefficientRule = Literal["mean", "delta"]
"""What a latent's decoder row is multiplied by: the latent's mean activation under the
instruction, or what the instruction adds to it."""

PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
SPANS: tuple[Span, ...] = get_args(Span)
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
COEFFICIENT_RULES: tuple[CoefficientRule, ...] = get_args(CoefficientRule)


@pydantic.dataclasses.dataclass(
    frozen=True, slots=True, kw_only=True, config=pydantic.ConfigDict(strict=True)
)
class Schedule:
    """How a direction is added over a reply. The default, the paper's, adds the same vector at
    every steered token.

    Raises ValueError (pydantic's ValidationError) on a value of the wrong type or out of range.
    """

    half_life: Annotated[int, pydantic.Field(ge=1)] | None = None
    """After how many generated tokens half of the strength is left; None for never. Fading lets a
    reply that does what was asked go on by itself (Xie, arXiv 2510.01246)."""

    keep_norm: bool = False
    """Rescale the steered residual to the length it had, so that only its direction changes."""

    clamp: bool = False
    """*Set* the latents to their coefficients instead of adding to whatever they are."""

    def __str__(self) -> str:
        """What is special about it, in a few words; empty for the constant one."""
        parts = [
            f"half faded after {self.half_life} tokens" if self.half_life else "",
            "length kept" if self.keep_norm else "",
            "clamped" if self.clamp else "",
        ]
        return ", ".join(part for part in parts if part)


CONSTANT = Schedule()
"""The paper's: added at every steered token, at full length."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """The residual stream after decoder block `layer`, counted from 0.

    The printed form is the field's usual hook-point name, which SAE files carry too.
    """

    layer: int

    def __str__(self) -> str:
        return f"blocks.{self.layer}.hook_resid_post"

    @classmethod
    def parse(cls, hook_name: str) -> "Site":
        """Read `blocks.L.hook_resid_post`, `blocks.L.hook_resid_pre` or `model.layers.L`."""
        parts = hook_name.split(".")
        digits = [part for part in parts if part.isdigit()]
        if len(digits) != 1:
            raise ValueError(f"'{hook_name}' does not name one residual-stream site.")
        layer = int(digits[0])
        if parts[-1] == "hook_resid_pre":  # before block L is after block L - 1
            layer -= 1
        if layer < 0 or not (
            parts[-1] in {"hook_resid_pre", "hook_resid_post", "output"} or parts[-1].isdigit()
        ):
            raise ValueError(f"'{hook_name}' is not the residual stream after a decoder block.")
        return cls(layer)


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Raise InputError unless `value`, which a person gave as `name`, lies within the limits."""
    if not low <= value <= high:  # also refuses NaN
        raise InputError(f"{name} must lie between {low} and {high}, not {value}.")


Thoroughness = Literal["thorough", "quick"]
"""How long a calibration searches. quick: a third of the work, for a preset to try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. Raises InputError on a value out of range."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """1 keeps every token."""
    repetition_penalty: float = 1.1
    """1 is off. Counts prompt and reply, as transformers does."""
    seed: int = 0

    def __post_init__(self) -> None:
        limits = [
            ("max_new_tokens", self.max_new_tokens, 1, 4096),
            ("temperature", self.temperature, 0, 5),
            ("top_p", self.top_p, 0.01, 1),
            ("repetition_penalty", self.repetition_penalty, 0.5, 2),
            ("seed", self.seed, 0, 2**63 - 1),
        ]
        for name, value, low, high in limits:
            check_between(name, value, low, high)


NO_CONTROL_CODES = {
    code: None for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"
}
"""For `str.translate`: takes out what moves a cursor, rings a bell or breaks a page."""
