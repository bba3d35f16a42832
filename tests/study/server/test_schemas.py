"""What a page may send, to the last value on each side of every limit."""

import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from saif.study.server import schemas

VALID: dict[type[BaseModel], dict[str, Any]] = {
    schemas.Enter: {"query": {}},
    schemas.Consent: {"query": {}, "consent_sha256": "0", "share_text": False},
    schemas.NextMessage: {"trial": "t", "k": 0},
    schemas.Vote: {"vote_id": "v", "choice": "L"},
    schemas.Respond: {"question": "q", "value": None},
    schemas.Report: {"trial": "t"},
    schemas.Event: {"kind": "shown"},
    schemas.Stop: {"scope": None},
    schemas.Withdraw: {"receipt": "r", "scope": "erase"},
}


def named(n: int) -> dict[str, str]:
    return {str(i): "" for i in range(n)}


@pytest.mark.parametrize(
    ("body", "field", "good", "bad"),
    [
        (schemas.Enter, "query", [named(20), {"key": "x" * 200}],
         [named(21), {"key": "x" * 201}, {"key": 1}]),
        (schemas.Consent, "share_text", [True], [1, "yes", None]),
        (schemas.NextMessage, "trial", ["x" * 80], ["", "x" * 81, 1]),
        (schemas.NextMessage, "k", [100], [-1, 101, "1", True]),
        (schemas.Vote, "clearly", [1, 7], [0, 8]),
        (schemas.Vote, "choice", ["both_bad"], ["middle"]),
        (schemas.Vote, "decided_ms", [0, 2**53], [-1, 2**53 + 1, 0.5]),
        (schemas.Respond, "value", ["x", 3], [1.5, ["x"], True]),
        (schemas.Report, "reason", ["x" * 5000], ["x" * 5001]),
        (schemas.Event, "kind", ["reloaded"], ["canary_equal"]),
        (schemas.Event, "t_client_ms", [0.0, 2.0**53], [-0.1, 2.0**54, math.nan, math.inf]),
        (schemas.Stop, "scope", ["analysis"], ["all"]),
    ],
)  # fmt: skip
def test_a_field_ends_where_it_says(
    body: type[BaseModel], field: str, good: list[object], bad: list[object]
) -> None:
    for value in good:
        body.model_validate({**VALID[body], field: value})
    for value in bad:
        with pytest.raises(ValidationError):
            body.model_validate({**VALID[body], field: value})


@pytest.mark.parametrize("body", VALID)
def test_a_body_has_no_field_that_is_not_asked_for(body: type[BaseModel]) -> None:
    body.model_validate(VALID[body])
    with pytest.raises(ValidationError):
        body.model_validate({**VALID[body], "more": 1})
