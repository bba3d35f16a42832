"""Unblinding: looking at the outcome before the planned number of participants is complete.

Who looks and then decides whether to go on finds an effect in one study of six where there is
none. So the outcome of a running study stays hidden, and each early look is written down.
"""

import json
import sqlite3
from dataclasses import asdict, dataclass

from saif.errors import InputError, StudyError
from saif.study.data.results import flow_in, n_finished_in
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


def is_hidden(db: sqlite3.Connection, study: Study) -> bool:
    """Whether fewer participants have finished than the study was planned with."""
    # Those who withdrew later finished, too: what could be seen once can't be unseen.
    return n_finished_in(db) < study.quota.complete


def too_early(study: Study, complete: int) -> StudyError:
    """What to raise where somebody would see the outcome without having given a reason."""
    return StudyError(
        f"The outcome stays hidden until {study.quota.complete} participants are complete; "
        f"{complete} are.",
        hint="To look now, give a reason, which is written down and reported: --unblind 'REASON'.",
    )


def look(store: Store, reason: str | None, *, actor: str) -> Look | None:
    """To be called before the outcome leaves: where it is hidden, the look is noted in the audit
    trail and for whoever reads the analysis. None where it isn't hidden.

    Raises StudyError where it is and there is no reason, and InputError where that says nothing.
    """
    with store.database.transaction() as db:
        if not is_hidden(db, store.study):
            return None
        complete = flow_in(db)["complete"]
        if reason is None:
            raise too_early(store.study, complete)
        reason = " ".join(reason.split()) if is_text(reason) else ""
        if not 1 <= len(reason) <= MAX_REASON:
            raise InputError(f"Give a reason of up to {MAX_REASON} characters for looking early.")
        noted = Look(store.now(), complete, reason)
        name = f"{_SETTING}{len(early_looks_in(db)) + 1:04d}"
        change(db, name, json.dumps(asdict(noted)))
        store.note(db, None, "unblind", store.study.id, asdict(noted), actor=actor)
    return noted


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
