"""Everything that is known of a study's participants, in two files that survive a crash.

`study.db` holds what they did, under random ids; `identities.db` who they are to a recruitment
service. Whatever a method of `Store` returns is on disk by then: it may be shown as saved. Nothing
is written of anyone before they consent.

Each step of a participant carries a token; only its hash is stored. Whoever enters again gets a
new one, and the old one is worth nothing: the newest tab takes over.
"""

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from saif.errors import StudyError
from saif.study.design.plan import draw_plan, plan_seed
from saif.study.design.publish import Version, canonical
from saif.study.store import allocation, audit, trials
from saif.study.store.database import Connect, Database, connect
from saif.study.store.identities import Person, keyed_hash, record_identity
from saif.study.store.schema import IDENTITIES, MIGRATIONS
from saif.study.store.settings import PAUSED, change, check_may_open

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
    """What a participant's page is given."""

    participant_id: str
    status: Status
    token: str
    """Sent with every step."""
    receipt: str
    """With it they can withdraw later."""
    returning: bool
    """Whether they had consented before."""


def participant_of(row: sqlite3.Row) -> Participant:
    return Participant(row["participant_id"], row["status"], row["plan_seed"], row["salt"] or b"")


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def utc_now() -> datetime:
    return datetime.now(UTC)


class Store:
    """The store of one published version of a study, in `folder`.

    key: of the identities' hashes; None to look only. clock: tells the time, with a time zone.
    Raises StudyError where the files are of another study or key, damaged or made by a newer saif,
    and where the data were deleted when due.
    """

    def __init__(
        self,
        folder: Path,
        version: Version,
        key: bytes | None,
        *,
        clock: Callable[[], datetime] = utc_now,
        connect: Connect = connect,
    ) -> None:
        self.folder = folder
        self.version = version
        self.study = version.study
        self.database = Database(folder / "study.db", MIGRATIONS, connect)
        self.identities = Database(folder / "identities.db", (IDENTITIES,), connect)
        self._key = key
        self._clock = clock
        with self.database.transaction() as db:
            others = "SELECT study_id FROM study_version WHERE study_id <> ?"
            if other := db.execute(others, (self.study.id,)).fetchone():
                raise StudyError(f"{folder} holds the data of the study '{other[0]}'.")
            if key is None:
                return
            check_may_open(db, key, self.study.id)
            row = (version.id, self.study.id, version.number, canonical(version), self.now())
            added = db.execute("INSERT OR IGNORE INTO study_version VALUES (?, ?, ?, ?, ?)", row)
            if added.rowcount:
                self.note(db, None, "open", version.id, {"number": version.number})

    def close(self) -> None:
        self.database.close()
        self.identities.close()

    def now(self, plus: timedelta = timedelta()) -> str:
        """UTC in ISO 8601 with microseconds, so that text sorts as time."""
        return (self._clock() + plus).astimezone(UTC).isoformat(timespec="microseconds")

    def note(
        self,
        db: sqlite3.Connection,
        who: Participant | None,
        action: str,
        about: str,
        payload: Mapping[str, object],
        *,
        actor: str = "study",
    ) -> None:
        """Write to the audit trail, in the transaction that makes it true."""
        named = {"at": self.now(), "actor": who.id if who else actor, "action": action}
        salt = who.salt if who else b""
        audit.append(db, **named, about=about, payload=payload, salt=salt)

    def enrol(self, person: Person, *, share_text: bool) -> Entry:
        """Someone consents: they get a place, a plan and a token. share_text: their texts may be
        published.

        Enrolling twice is entering again. Raises StudyError where the study is paused or full.
        """
        pid_hmac = self._hmac(person)
        with self.database.transaction() as db:
            self.expire(db)
            known = self._known(db, pid_hmac)
            if known:
                entry = self._again(db, known)
            else:
                allocation.check_not_mixed(db, person.source)
                allocation.check_may_join(db, self.study, self.now())
                entry = self._new(db, person, pid_hmac, share_text)
        record_identity(self.identities, pid_hmac, person, self.study.id)
        return entry

    def enter(self, person: Person) -> Entry | None:
        """Someone opens the link: where they were, or None if they have not consented yet. Raises
        StudyError where the study's rules for coming back don't let them go on."""
        pid_hmac = self._hmac(person)
        with self.database.snapshot() as db:
            if self._known(db, pid_hmac) is None:
                return None
        with self.database.transaction() as db:
            known = self._known(db, pid_hmac)
            entry = None if known is None else self._again(db, known)
        if entry is not None and entry.status in GOING_ON:
            # The server may have died right after they consented, before it was noted who they are.
            record_identity(self.identities, pid_hmac, person, self.study.id)
        return entry

    def closed(self) -> str:
        """Why nobody new can join now, in words for them; "" where they can. Only looks."""
        with self.database.snapshot() as db:
            try:
                allocation.check_may_join(db, self.study, self.now())
            except StudyError as error:
                return error.sentence
        return ""

    def participant(self, db: sqlite3.Connection, token: str) -> Participant:
        """Whose token this is. Raises DisconnectedError where it is nobody's."""
        found = "SELECT * FROM participant WHERE token_hash = ?"
        row = db.execute(found, (token_hash(token),)).fetchone()
        if row is None:
            raise DisconnectedError(
                "This page is no longer connected to your session.",
                hint="If you opened the study again, go on there; else open its link again.",
            )
        return participant_of(row)

    def by_id(self, db: sqlite3.Connection, name: str) -> Participant:
        row = db.execute("SELECT * FROM participant WHERE participant_id = ?", (name,)).fetchone()
        if row is None:
            raise StudyError(f"There is no participant '{name}'.")
        return participant_of(row)

    def _known(self, db: sqlite3.Connection, pid_hmac: bytes) -> sqlite3.Row | None:
        found = "SELECT * FROM participant WHERE study_id = ? AND pid_hmac = ?"
        row: sqlite3.Row | None = db.execute(found, (self.study.id, pid_hmac)).fetchone()
        return row

    def _new(
        self, db: sqlite3.Connection, person: Person, pid_hmac: bytes, share_text: bool
    ) -> Entry:
        name, token, salt = secrets.token_hex(8), secrets.token_urlsafe(32), secrets.token_bytes(32)
        until = self._hold_until()
        block, arm_order = allocation.assign(db, self.study, self.version.id, name, until)
        seed = plan_seed(self.study, block, arm_order)
        where, hashed = (self.version.id, seed, arm_order), token_hash(token)
        db.execute(
            "INSERT INTO participant VALUES (?, ?, ?, ?, ?, ?, ?, 'enrolled', ?, ?, ?)",
            (name, self.study.id, pid_hmac, person.source, *where, hashed, salt, self.now()),
        )
        agreed = {"consent_sha": self.version.consent_sha256, "locale": self.study.consent.locale}
        consent = {**agreed, "given_at": self.now(), "share_text": int(share_text)}
        db.execute("INSERT INTO consent VALUES (?, ?, ?, ?, ?)", (name, *consent.values()))
        trials.issue(db, name, draw_plan(self.study, seed))
        who = Participant(name, "enrolled", seed, salt)
        begun = {"plan_seed": seed, "version": self.version.id, **consent}
        self.note(db, who, "enrol", name, begun)
        return Entry(name, "enrolled", token, self.receipt(name), returning=False)

    def _again(self, db: sqlite3.Connection, row: sqlite3.Row) -> Entry:
        """Give a known participant a new token, if they may come back."""
        who = participant_of(row)
        if who.status in GOING_ON:
            allocation.check_may_return(row, self.study, self._clock())
            if self.study.resume.policy == "restart" and who.status == "active":
                for trial in trials.all_of(db, who.id):
                    if trial.state != "planned":
                        trials.void(db, trial, "restarted", who.plan_seed)
                self.note(db, who, "restart", who.id, {})
            self.keep_place(db, who)
        token = secrets.token_urlsafe(32)
        renew = "UPDATE participant SET token_hash = ? WHERE participant_id = ?"
        db.execute(renew, (token_hash(token), who.id))
        self.note(db, who, "enter", who.id, {})
        return Entry(who.id, who.status, token, self.receipt(who.id), returning=True)

    def expire(self, db: sqlite3.Connection) -> None:
        """Give away the places of those who were away for too long."""
        for name in allocation.overdue(db, self.now()):
            self.leave(db, self.by_id(db, name), "stale")

    def leave(self, db: sqlite3.Connection, who: Participant, status: Status) -> None:
        """Set how someone ended; unless they are complete, their place is free again."""
        db.execute("UPDATE participant SET status = ? WHERE participant_id = ?", (status, who.id))
        end = allocation.complete if status == "complete" else allocation.release
        end(db, who.id)
        self.note(db, who, status, who.id, {})

    def _hold_until(self) -> str:
        return self.now(timedelta(minutes=self.study.quota.stale_minutes))

    def keep_place(self, db: sqlite3.Connection, who: Participant) -> None:
        """The participant is still there: hold their place for longer."""
        allocation.extend(db, who.id, self._hold_until())

    def set_paused(self, paused: bool, *, actor: str) -> None:
        """The researcher's stop: while it is on, nobody joins and no trial begins."""
        with self.database.transaction() as db:
            value = "yes" if paused else "no"
            change(db, PAUSED, value)
            self.note(db, None, "pause", self.study.id, {"paused": value}, actor=actor)

    def _hmac(self, person: Person) -> bytes:
        return keyed_hash(self._key, "person", self.study.id, person.source, person.pid)

    def receipt(self, participant: str) -> str:
        """A code that proves, to us only, that its bearer is this participant."""
        digest = keyed_hash(self._key, "receipt", self.study.id, participant)
        return f"{participant}-{digest.hex()[:12]}"

    def of_receipt(self, receipt: str) -> str:
        """The participant of a receipt. Raises StudyError where it was not made here."""
        name = receipt.strip().partition("-")[0]
        if not hmac.compare_digest(self.receipt(name).encode(), receipt.strip().encode()):
            raise StudyError("That code is not known.", hint="Please copy it once more, whole.")
        return name
