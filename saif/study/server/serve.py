"""Opening a published study to its participants, once everything about it has been checked."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from saif.engine.local import SharedEngine
from saif.errors import StudyError
from saif.ports import check_free
from saif.presets.library import Library
from saif.runtime.load import load_model
from saif.study.design.publish import Version, check_fingerprint, check_presets
from saif.study.durability.housekeeping import Housekeeper
from saif.study.opening import newest_version, open_to_serve
from saif.study.participation.answers import AnswerGenerator
from saif.study.server.app import build_app, serve
from saif.study.server.context import ServerContext
from saif.study.server.streaming import Streams
from saif.study.store.identities import on_a_space, researcher_secret
from saif.study.store.settings import is_paused


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
        with contextlib.closing(store):
            streams = Streams(store, _answers(store.version, library, say))
            with contextlib.closing(streams), Housekeeper(store, copier) as keeper:
                context = ServerContext(store, streams, keeper.is_safe_to_finish, keeper.wake)
                app = build_app(context, secret=secret, in_space=on_a_space())
                with store.database.snapshot() as db:
                    if is_paused(db):
                        say("The study is paused: nobody can join until it is resumed.")
                say(f"Participants: http://{host}:{port}/study/{store.study.id}")
                if secret:
                    say(f"Researcher: http://{host}:{port}/researcher")
                serve(app, host, port)


def _answers(version: Version, library: Library, say: Callable[[str], None]) -> AnswerGenerator:
    """What generates the answers, with the published presets and weights."""
    check_presets(version, library)
    say("Loading the study's model …")
    study = version.study
    model = load_model(study.model, quantize=study.generation.quantize)
    check_fingerprint(version, model.fingerprint)
    return AnswerGenerator(study, library, SharedEngine(model, cache_bytes=0))


def _only_one(folder: Path) -> contextlib.AbstractContextManager[object]:
    """A lock. Raises StudyError where another process serves the study; a killed one holds none."""
    try:
        return FileLock(folder / "serving.lock").acquire(blocking=False)
    except Timeout:
        raise StudyError(
            f"The study in {folder} is being served already.",
            hint="One process serves one study; end the other one first.",
        ) from None
