"""What happens on a participant's page besides their answers: when it was shown, left, returned to.

Events help to judge the data and are not data themselves, so they are kept out of the audit trail.
"""

from typing import Literal, get_args

from saif.errors import InputError
from saif.study.steps import going_on
from saif.study.store import Store

EventKind = Literal[
    "shown", "first_token", "complete", "first_click", "focus_lost", "focus_regained", "reloaded"
]

MAX_EVENTS = 5000
"""Per participant; what comes after is dropped, so that a broken page can't fill the disk."""


def note_event(
    store: Store,
    token: str,
    kind: EventKind,
    *,
    t_client_ms: float | None = None,
    trial_id: str | None = None,
) -> bool:
    """Write an event down; whether there was room. t_client_ms: on the page's monotonic clock.
    Raises InputError for a kind that there isn't."""
    if kind not in get_args(EventKind):
        raise InputError(f"There is no event '{str(kind)[:40]}'.")
    with store.database.transaction() as db:
        who = going_on(store, db, token)
        n = db.execute("SELECT COUNT(*) FROM event WHERE participant_id = ?", (who.id,)).fetchone()[
            0
        ]
        if n >= MAX_EVENTS:
            return False
        db.execute(
            "INSERT INTO event(participant_id, trial_id, t_client_ms, server_at, kind) "
            "VALUES (?, ?, ?, ?, ?)",
            (who.id, trial_id, t_client_ms, store.now(), kind),
        )
    return True
