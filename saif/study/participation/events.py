"""What happens on a participant's page besides their answers: when it was shown, left, returned to.

Events help to judge the data and are not data themselves, so they are kept out of the audit trail.
"""

from typing import Literal, get_args

from saif.errors import InputError
from saif.study.store.store import GOING_ON, Store

EventKind = Literal[
    "shown", "first_token", "complete", "first_click", "focus_lost", "focus_regained", "reloaded"
]

Canary = Literal["canary_equal", "canary_differs", "canary_failed"]
"""Each answer, made once more without the other, was the same or was not; or that failed."""

MAX_EVENTS = 5000
"""Per participant; what comes after is dropped, so that a broken page can't fill the disk."""

_INSERT = (
    "INSERT INTO event(participant_id, trial_id, t_client_ms, server_at, kind) "
    "VALUES (?, ?, ?, ?, ?)"
)


def note_event(
    store: Store,
    token: str,
    kind: EventKind,
    *,
    t_client_ms: float | None = None,
    trial_id: str | None = None,
) -> bool:
    """Write an event down; whether it was kept. None is written of who has ended: their page may
    still be open. t_client_ms: on the page's monotonic clock. Raises InputError for a kind that
    there isn't."""
    if kind not in get_args(EventKind):
        raise InputError(f"There is no event '{kind}'.")
    with store.database.transaction() as db:
        who = store.participant(db, token)
        if who.status not in GOING_ON:
            return False
        found = db.execute("SELECT COUNT(*) FROM event WHERE participant_id = ?", (who.id,))
        if found.fetchone()[0] >= MAX_EVENTS:
            return False
        db.execute(_INSERT, (who.id, trial_id, t_client_ms, store.now(), kind))
    return True


def note_canary(store: Store, participant: str, trial_id: str, found: Canary) -> None:
    """Write down what making a trial's answers one by one showed."""
    with store.database.transaction() as db:
        db.execute(_INSERT, (participant, trial_id, None, store.now(), found))
