"""Is a text degenerate? Steering too hard makes a model repeat or glue words; that is failure."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MIN_DISTINCT_2 = 0.6
MAX_TOKEN_SHARE = 0.25
_LONGEST_WORD = 30  # of 170,000 German sentences four have a longer word; at 25, forty-seven
_GLUED = re.compile(r"[^\W\d_]*(?:[a-zß-ÿ][A-ZÀ-Þ][^\W\d_]*){2}")


@dataclass(frozen=True, slots=True)
class Fluency:
    """What a reply's fluency is judged by."""

    distinct_2: float
    """Different token pairs over all token pairs; 1 if there are none."""
    top_share: float
    """Share of the most frequent token; 0 if it occurs less than three times."""
    glued: bool
    """Whether a word is several words run together."""
    perplexity: float | None
    """Of the reply under the unsteered model; None where it wasn't measured."""

    def problems(self, perplexity_bound: float) -> list[str]:
        """Why the text is degenerate; empty if it isn't."""
        found = []
        if self.distinct_2 < MIN_DISTINCT_2:
            found.append("repeats itself")
        if self.top_share > MAX_TOKEN_SHARE:
            found.append("one token dominates")
        if self.glued:
            found.append("words glued together")
        # NaN counts as beyond the bound.
        if self.perplexity is not None and not self.perplexity <= perplexity_bound:
            found.append("perplexity beyond the bound")
        return found


def fluency(token_ids: Sequence[int], text: str, perplexity: float | None) -> Fluency:
    pairs = list(pairwise(token_ids))
    distinct = len(set(pairs)) / len(pairs) if pairs else 1.0
    count = max(Counter(token_ids).values(), default=0)
    # In a reply of three words every token is a third of it; that isn't repetition.
    share = count / len(token_ids) if count >= 3 else 0.0
    return Fluency(distinct, share, has_glued_words(text), perplexity)


def has_glued_words(text: str) -> bool:
    """ "IsWhyWhereHow": a word of more than 30 letters, or one with two capitals inside."""
    words = re.findall(r"[^\W\d_]+", text)
    return any(len(word) > _LONGEST_WORD or _GLUED.fullmatch(word) for word in words)


def perplexity_bound(prompted: Sequence[float]) -> float:
    """The perplexity beyond which a reply counts as degenerate: twice the 95th percentile of the
    prompted replies' perplexities, measured the same way.

    What the model writes when simply asked is the yardstick for what may be expected of it.
    """
    finite = sorted(value for value in prompted if math.isfinite(value))
    if not finite:
        return float("inf")
    return 2 * finite[min(len(finite) - 1, int(0.95 * len(finite)))]
