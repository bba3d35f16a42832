"""Rates and their uncertainty."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`successes` out of `n`."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        return self.successes / self.n if self.n else float("nan")

    def wilson(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval."""
        from scipy.stats import binomtest

        interval = binomtest(self.successes, self.n).proportion_ci(confidence, method="wilson")
        return float(interval.low), float(interval.high)


def rate(outcomes: list[bool]) -> Rate:
    return Rate(sum(outcomes), len(outcomes))
