"""`study serve`: open a published study to its participants."""

import sys
from typing import Annotated

import typer

from saif.cli.options import PresetsOption, open_engine, open_library
from saif.cli.study.opening import StudyFolder, open_study

HostOption = Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for everybody.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535)]


def serve(
    folder: StudyFolder,
    host: HostOption = "127.0.0.1",
    port: PortOption = 7860,
    presets: PresetsOption = None,
) -> None:
    """Serve a published study to its participants."""
    from saif.engine import SharedEngine
    from saif.study.answers import Answering
    from saif.study.keeping import Housekeeper
    from saif.study.pages import server
    from saif.study.pages.desk import Desk
    from saif.study.pages.streaming import Streams
    from saif.study.publish import check_fingerprint, check_presets

    store = open_study(folder)
    library = open_library(presets)
    check_presets(store.version, library)
    loaded = open_engine(store.study.model, store.study.generation.quantize)
    engine = SharedEngine(loaded.steerable, turn_bytes=0)
    check_fingerprint(store.version, engine.model.fingerprint)
    streams = Streams(store, Answering(store.study, library, engine))
    keeper = Housekeeper(store)
    app = server.build_app(Desk(store, streams, keeper.is_safe_to_finish, keeper.wake))
    sys.stderr.write(f"The study is at http://{host}:{port}/study/{store.study.id} (Ctrl+C ends)\n")
    try:
        with keeper:
            server.serve(app, host, port)
    finally:
        streams.close()
        store.close()
