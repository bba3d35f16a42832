"""Who may join a study, and who may come back to it. Each of these raises StudyError, in words for
the participant, where the answer is no."""

import sqlite3
from datetime import datetime, timedelta

from saif.errors import StudyError
from saif.study.design.study_file import Study
from saif.study.store.identities import Source
from saif.study.store.settings import is_paused


def check_may_join(db: sqlite3.Connection, study: Study, now: str) -> None:
    """now: places held until before then are free, whether or not they were given back yet."""
    if is_paused(db):
        raise StudyError("The study is paused.", hint="Please come back later.")
    taken = "state = 'done' OR (state = 'held' AND held_until >= ?)"
    places = db.execute(f"SELECT COUNT(*) FROM cell_pool WHERE {taken}", (now,)).fetchone()[0]
    if places >= study.quota.complete:
        raise StudyError("The study has all the participants it needs. Thank you!")


def check_may_go_on(row: sqlite3.Row, study: Study, now: datetime) -> None:
    """row: of the table `participant`."""
    rules = study.resume
    age = now - datetime.fromisoformat(row["created_at"])
    if rules.policy == "block" and row["status"] == "active":
        raise StudyError("The study can't be continued once it was left.")
    if age > timedelta(hours=rules.max_age_hours):
        raise StudyError(f"You began more than {rules.max_age_hours} hours ago, too long ago.")


def keep_apart(db: sqlite3.Connection, source: Source) -> None:
    """Where people would meet made-up participants, or the reverse."""
    bots = source == "bot"
    found = "SELECT MIN(study_id) FROM participant WHERE (source = 'bot') <> ?"
    [other] = db.execute(found, (bots,)).fetchone()
    if other:
        raise StudyError(
            f"The store of '{other}' holds {'people' if bots else 'made-up participants'}.",
            hint="Play a study in a folder of its own.",
        )
