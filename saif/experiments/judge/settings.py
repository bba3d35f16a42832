"""Settings of the LLM judge, and what it costs. Knows nothing of HTTP."""

import math
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from saif.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """Which judge, and how hard it may be driven. Raises InputError for what can't be used."""

    url: str
    """What `/chat/completions` is added to; usually ends in /v1."""
    model: str
    key: str = field(default="", repr=False)
    per_minute: float | None = None
    """Requests; None for no limit."""
    price_in: float | None = None
    price_out: float | None = None
    """Dollars per million tokens read and written."""
    workers: int = 4
    timeout: float = 60.0
    """Seconds for one answer."""
    attempts: int = 8
    """How often a request is sent before giving up."""

    def __post_init__(self) -> None:
        if not (self.url and self.model):
            raise InputError(
                "Which model is to judge, and where, is not known.",
                hint="Set SAIF_JUDGE_URL and SAIF_JUDGE_MODEL, or give --url and --judge-model.",
            )
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError:
            parts = urlsplit("")
        usable = parts.scheme in {"http", "https"} and parts.hostname and self.url.isprintable()
        # The url is shown in messages and may hold no secret.
        if not usable:
            raise InputError(
                "The judge's address can't be used.",
                hint="Give one like https://host/v1 with --url or in SAIF_JUDGE_URL.",
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError(
                "The judge's address holds more than an address.",
                hint="A key belongs into SAIF_JUDGE_KEY.",
            )
        if not (self.key.isascii() and self.key.isprintable()):
            raise InputError("SAIF_JUDGE_KEY holds characters that can't be sent in a header.")
        if self.per_minute is not None and not 0 < self.per_minute < math.inf:
            raise InputError(f"Requests per minute must be above 0, not {self.per_minute}.")
        prices = [price for price in (self.price_in, self.price_out) if price is not None]
        if len(prices) == 1 or not all(0 <= price < math.inf for price in prices):
            raise InputError(
                "A cost needs two prices of 0 or more.", hint="Give --price-in and --price-out."
            )


@dataclass(slots=True)
class Spending:
    """What a grading took."""

    requests: int = 0
    """Sent, failed ones included."""
    cached: int = 0
    """Questions that were answered before."""
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0
    """Answers that didn't say how many tokens they took."""

    def dollars(self, settings: JudgeSettings) -> float | None:
        """None without prices. Too low if answers are uncounted."""
        if settings.price_in is None or settings.price_out is None:
            return None
        return (self.tokens_in * settings.price_in + self.tokens_out * settings.price_out) / 1e6
