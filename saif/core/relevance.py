"""Content relevance: is a reply about its content? The model's own likelihoods decide, in any
language.

A reply belongs to its content if the unsteered model, asked in words to do the instruction, finds
it likelier for that content than for other contents of the same set. Word overlap can't tell
across languages; this can.
"""

import math
from collections.abc import Sequence

MARGIN = math.log(4)
"""How much likelier, as a difference of log-probabilities of the whole reply. Chosen on
reference translations against shuffled ones: see docs/decisions/0005."""

N_DISTRACTORS = 3


def is_relevant(own: float, others: Sequence[float]) -> bool:
    """own, others: log p(reply | instruction and content) in nats, for its own content and for
    the others."""
    return own - max(others) >= MARGIN
