"""A reply belongs to its content if it is clearly likelier after that than after others."""

import math

import pytest

from saif.core.relevance import MARGIN, is_relevant


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        (-10.0, [-20.0, -30.0], True),
        (-10.0, [-30.0, -10.5], False),  # one distractor is enough
        (-10.0, [-10.0 - MARGIN, -50.0], True),  # the margin itself is enough
        (-10.0, [-10.0 - MARGIN + 1e-6, -50.0], False),
        (-20.0, [-10.0, -10.0], False),
        (math.nan, [-10.0], False),
    ],
)
def test_a_reply_is_about_its_content(own: float, others: list[float], expected: bool) -> None:
    assert is_relevant(own, others) is expected
