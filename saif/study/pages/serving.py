"""Opening a published study to its participants, once everything about it has been checked."""

from collections.abc import Callable
from pathlib import Path

from saif.engine import SharedEngine
from saif.ports import check_free
from saif.presets.library import Library
from saif.runtime.load import load_model
from saif.study.design.publish import check_fingerprint, check_presets
from saif.study.opening import open_to_serve
from saif.study.pages.desk import Desk
from saif.study.pages.server import build_app, serve
from saif.study.pages.streaming import Streams
from saif.study.safekeeping.keeping import Housekeeper
from saif.study.store.keys import on_a_space, researcher_secret
from saif.study.taking_part.answers import Answering


def open_to_participants(
    folder: Path, library: Library, host: str, port: int, *, say: Callable[[str], None]
) -> None:
    """Serve the newest version in `folder` until interrupted. say: told each address.

    Raises SaifError, before anything is served, where the place is unfit for a study, a preset or
    the model is not the published one, or nothing can listen there.
    """
    check_free(host, port)
    secret = researcher_secret()
    store, copier = open_to_serve(folder)
    version = store.version
    check_presets(version, library)
    engine = SharedEngine(
        load_model(version.study.model, quantize=version.study.generation.quantize), turn_bytes=0
    )
    check_fingerprint(version, engine.model.fingerprint)
    streams = Streams(store, Answering(version.study, library, engine))
    keeper = Housekeeper(store, copier)
    desk = Desk(store, streams, keeper.is_safe_to_finish, keeper.wake)
    app = build_app(desk, secret=secret, in_space=on_a_space())
    say(f"Participants: http://{host}:{port}/study/{version.study.id}")
    if secret:
        say(f"Researcher: http://{host}:{port}/researcher")
    try:
        with keeper:
            serve(app, host, port)
    finally:
        streams.close()
        store.close()
