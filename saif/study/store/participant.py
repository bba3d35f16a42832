"""A participant as a value: where they stand in the study, under a random id."""

import hashlib
import sqlite3
from dataclasses import dataclass
from typing import Literal

from saif.errors import StudyError

Status = Literal["enrolled", "active", "complete", "screened", "withdrawn", "erased", "stale"]
"""enrolled: agreed to take part; active: has begun a trial; stale: away for too long."""

GOING_ON: tuple[Status, ...] = ("enrolled", "active")


class DisconnectedError(StudyError):
    """A token that is nobody's, or was before another tab took over."""


@dataclass(frozen=True, slots=True)
class Participant:
    """One participant; `salt` is for the audit trail and gone once they are erased."""

    id: str
    status: Status
    plan_seed: str
    salt: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """What a participant's page is given. token: to be sent with every step. receipt: with it they
    can withdraw later. returning: they had agreed to take part before."""

    participant_id: str
    status: Status
    token: str
    receipt: str
    returning: bool


def participant_of(row: sqlite3.Row) -> Participant:
    return Participant(row["participant_id"], row["status"], row["plan_seed"], row["salt"] or b"")


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
