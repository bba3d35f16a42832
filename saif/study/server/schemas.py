"""What a participant's page may send. Anything else is refused before it reaches the study."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from saif.study.durability.erasure import Scope
from saif.study.participation.events import EventKind
from saif.study.participation.votes import Choice

_Id = Annotated[str, Field(min_length=1, max_length=80)]
_Ms = Annotated[int, Field(ge=0, le=2**53)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Enter(_Body):
    """query: of the link that was opened."""

    query: Annotated[dict[str, Annotated[str, Field(max_length=200)]], Field(max_length=20)]


class Consent(Enter):
    """consent_sha256: of the text that was on the page."""

    consent_sha256: _Id
    share_text: bool


class OfTrial(_Body):
    trial: _Id


class NextMessage(OfTrial):
    """k: which message, from 0. text: what was typed, in free chat."""

    k: Annotated[int, Field(ge=0, le=100)]
    text: str | None = None


class Vote(_Body):
    """clearly: the strength of the preference, 1 is the weakest. No word that is also a condition's
    is on the wire, so that a search for one finds nothing."""

    vote_id: _Id
    choice: Choice
    clearly: Annotated[int, Field(ge=1, le=7)] | None = None
    shown_ms: _Ms | None = None
    decided_ms: _Ms | None = None


class Respond(_Body):
    """trial: of a question that is asked after each."""

    question: _Id
    value: str | int | None
    trial: _Id | None = None


class Report(OfTrial):
    reason: Annotated[str, Field(max_length=5000)] = ""


class Event(_Body):
    kind: EventKind
    t_client_ms: Annotated[float, Field(ge=0, le=2**53)] | None = None
    trial_id: Annotated[_Id | None, Field(alias="trial")] = None


class Stop(_Body):
    """scope: None keeps what was said until then."""

    scope: Scope | None


class Withdraw(_Body):
    receipt: _Id
    scope: Scope
