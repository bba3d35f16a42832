"""Opening a published study to its participants, once everything about it has been checked."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from saif.engine.local import SharedEngine
from saif.errors import StudyError
from saif.ports import check_free
from saif.presets.library import Library
from saif.runtime.load import load_model
from saif.study.design.publish import check_fingerprint, check_presets
from saif.study.durability.housekeeping import Housekeeper
from saif.study.durability.remote import Copier
from saif.study.opening import newest_version, open_to_serve
from saif.study.participation.answers import AnswerGenerator
from saif.study.server.app import build_app, serve
from saif.study.server.context import ServerContext
from saif.study.server.streaming import Streams
from saif.study.store.identities import on_a_space, researcher_secret
from saif.study.store.settings import is_paused
from saif.study.store.store import Store


def open_to_participants(
    folder: Path, library: Library, host: str, port: int, *, say: Callable[[str], None]
) -> None:
    """Serve the newest version in `folder` until interrupted. say: told each address.

    Raises SaifError, before anything is served, where the place is unfit for a study, a preset or
    the model is not the published one, or nothing can listen there.
    """
    newest_version(folder)
    check_free(host, port)
    secret = researcher_secret()
    with _only_one(folder):
        store, copier = open_to_serve(folder)
        try:
            _serve(store, copier, library, (host, port), secret, say)
        finally:
            store.close()


def _serve(
    store: Store,
    copier: Copier | None,
    library: Library,
    address: tuple[str, int],
    secret: str | None,
    say: Callable[[str], None],
) -> None:
    version = store.version
    check_presets(version, library)
    say("Loading the study's model …")
    engine = SharedEngine(
        load_model(version.study.model, quantize=version.study.generation.quantize), turn_bytes=0
    )
    check_fingerprint(version, engine.model.fingerprint)
    streams = Streams(store, AnswerGenerator(version.study, library, engine))
    keeper = Housekeeper(store, copier)
    context = ServerContext(store, streams, keeper.is_safe_to_finish, keeper.wake)
    app = build_app(context, secret=secret, in_space=on_a_space())
    with store.database.reading() as db:
        if is_paused(db):
            say("The study is paused: nobody can join until it is resumed.")
    host, port = address
    say(f"Participants: http://{host}:{port}/study/{version.study.id}")
    if secret:
        say(f"Researcher: http://{host}:{port}/researcher")
    try:
        with keeper:
            serve(app, host, port)
    finally:
        streams.close()


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Raises StudyError where another process serves the study; a killed one holds nothing."""
    lock = FileLock(folder / "serving.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise StudyError(
            f"The study in {folder} is being served already.",
            hint="One process serves one study; end the other one first.",
        ) from None
    try:
        yield
    finally:
        lock.release()
