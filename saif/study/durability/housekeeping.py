"""The housekeeping of a study that is being served, in one background thread.

It finishes erasures, gives away the places of who is gone, backs up, copies to a remote place and
deletes when the data are due. A job that fails is tried again and told in the study's status; it
never ends the thread, and what it says holds no participant's data.
"""

import json
import logging
import threading
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from saif.errors import SaifError
from saif.study.durability.backup import backup
from saif.study.durability.erasure import finish_erasures, purge_if_due
from saif.study.durability.remote import is_copied
from saif.study.store.settings import PURGED, TROUBLES, change, setting
from saif.study.store.store import Store, utc_now

_log = logging.getLogger("saif.study")

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

_PATIENCE = 10.0
"""Seconds that stopping waits for a job that is running."""


class Housekeeper:
    """Looks after an open store, as a context manager.

    copy: sends what is new to the remote place, see `saif.study.durability.remote`; None where the
    local disk is the only one.
    """

    def __init__(
        self,
        store: Store,
        copy: Callable[[], object] | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._copy = copy
        self._clock = clock
        self._jobs: dict[str, tuple[timedelta, Callable[[], object]]] = {
            "erasures": (MINUTE, lambda: finish_erasures(store)),
            "retention": (HOUR, lambda: purge_if_due(store, clock())),
            "places": (MINUTE, self._expire),
            "backup": (HOUR, self._backup),
        }
        if copy is not None:
            self._jobs["copy"] = (MINUTE, copy)
        self._due: dict[str, datetime] = {}
        self._troubles: dict[str, dict[str, str]] = {}
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        assert self._thread is None, "it is started once"
        with self._store.database.transaction() as db:
            change(db, TROUBLES, "{}")  # those of an earlier run are over, or will come again
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Copy what still waits and end, or give up after ten seconds: all is on the disk anyway.
        Stopping twice, or what was never started, is nothing."""
        self._stopped.set()
        self.wake()
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    def wake(self) -> None:
        """Somebody has finished: copy now rather than within the minute. Returns at once."""
        self._woken.set()

    def is_safe_to_finish(self, participant: str) -> bool:
        """Whether all that a participant did is where it has to be, so that they may be given their
        completion code: always, where the local disk is the only place."""
        if self._copy is None:
            return True
        with self._store.database.snapshot() as db:
            return is_copied(db, participant)

    def tick(self) -> None:
        """Do all that is due now."""
        if self._woken.is_set():
            self._woken.clear()
            self._due.pop("copy", None)
        now = self._clock()
        for name, (every, run) in self._jobs.items():
            if self._due.get(name, now) <= now:
                failed = _failure_of(run)
                self._due[name] = now + (MINUTE if failed else every)
                self._note(name, failed)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.tick()
            self._woken.wait(MINUTE.total_seconds())
        self.tick()  # stopping has woken it, so this copies

    def _expire(self) -> None:
        with self._store.database.transaction() as db:
            self._store.expire(db)

    def _backup(self) -> None:
        with self._store.database.snapshot() as db:
            purged = setting(db, PURGED)
        if not purged:
            backup(self._store)

    def _note(self, job: str, failed: str) -> None:
        """Keep what went wrong where `study status` finds it, until it goes right."""
        if not failed and job not in self._troubles:
            return
        if failed:
            _log.error("Housekeeping, %s: %s", job, failed)
            since = self._troubles.get(job, {}).get("since") or self._store.now()
            self._troubles[job] = {"since": since, "problem": failed}
        else:
            del self._troubles[job]
        try:
            with self._store.database.transaction() as db:
                change(db, TROUBLES, json.dumps(self._troubles))
        except SaifError as error:
            _log.error("Housekeeping: %s", error.sentence)


def _failure_of(run: Callable[[], object]) -> str:
    """Do one job; what went wrong, in words without data, or nothing."""
    try:
        run()
    except SaifError as error:
        return error.sentence
    except OSError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the thread's boundary: a bug in one job must not end the others
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"A bug: {type(error).__name__} in {Path(place.filename).name}:{place.lineno}."
    return ""
