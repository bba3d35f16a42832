"""Unblinding: looking at the outcome before the planned number of participants is complete.

Who looks and then decides whether to go on finds an effect in one study of six where there is
none. So the outcome of a running study stays hidden, and each early look is written down.
"""

import json
import sqlite3
from dataclasses import asdict, dataclass

from saif.errors import InputError, StudyError
from saif.study.data.results import flow, n_finished_in
from saif.study.design.questions import is_text
from saif.study.design.study_file import Study
from saif.study.store.settings import change
from saif.study.store.store import Store

MAX_REASON = 500
"""Characters of a reason."""

_SETTING = "early_look_"


@dataclass(frozen=True, slots=True)
class Look:
    """One early look: when, with how many participants complete, and why."""

    at: str
    complete: int
    reason: str


def is_hidden(store: Store) -> bool:
    """Whether fewer participants have finished than the study was planned with."""
    with store.database.snapshot() as db:
        return is_hidden_in(db, store.study)


def is_hidden_in(db: sqlite3.Connection, study: Study) -> bool:
    """The same, of the caller's moment."""
    # Those who withdrew later finished, too: what could be seen once can't be unseen.
    return n_finished_in(db) < study.quota.complete


def too_early(study: Study, complete: int) -> StudyError:
    """What to raise where somebody would see the outcome without having given a reason."""
    return StudyError(
        f"The outcome stays hidden until {study.quota.complete} participants are complete; "
        f"{complete} are.",
        hint="To look now, give a reason, which is written down and reported: --unblind 'REASON'.",
    )


def unblind(store: Store, reason: str, *, actor: str) -> Look:
    """Note that somebody looks now, in the audit trail and for whoever reads the analysis.

    Raises InputError where no reason is given.
    """
    reason = " ".join(reason.split()) if is_text(reason) else ""
    if not 1 <= len(reason) <= MAX_REASON:
        raise InputError(f"Give a reason of up to {MAX_REASON} characters for looking early.")
    complete = flow(store)["complete"]
    with store.database.transaction() as db:
        look = Look(store.now(), complete, reason)
        name = f"{_SETTING}{len(early_looks_in(db)) + 1:04d}"
        change(db, name, json.dumps(asdict(look)))
        store.note(db, None, "unblind", store.study.id, asdict(look), actor=actor)
    return look


def look(store: Store, reason: str | None, *, actor: str) -> None:
    """To be called before the outcome leaves: where it is hidden, the look is noted.

    Raises StudyError there without a reason, and InputError where that says nothing.
    """
    if not is_hidden(store):
        return
    if reason is None:
        raise too_early(store.study, flow(store)["complete"])
    unblind(store, reason, actor=actor)


def early_looks(store: Store) -> list[Look]:
    """All early looks, oldest first."""
    with store.database.snapshot() as db:
        return early_looks_in(db)


def early_looks_in(db: sqlite3.Connection) -> list[Look]:
    """The same, of the caller's moment."""
    rows = db.execute(
        "SELECT value FROM setting WHERE name GLOB ? ORDER BY name", (f"{_SETTING}*",)
    )
    return [Look(**json.loads(row["value"])) for row in rows]
