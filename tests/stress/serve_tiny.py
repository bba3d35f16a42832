"""The tiny study in a process of its own, to be killed at any moment: `FOLDER PORT`."""

import sys
from pathlib import Path

from made_up_participants import KEY
from running_study import QUESTIONS, SlowEngine, the_library, the_model, version_of

from saif.engine.local import SharedEngine
from saif.study.durability.housekeeping import Housekeeper
from saif.study.participation.answers import AnswerGenerator
from saif.study.server.app import build_app, serve
from saif.study.server.context import ServerContext
from saif.study.server.streaming import Streams
from saif.study.store.store import Store

ASKED_AT_THE_END = [question for question in QUESTIONS if question["kind"] != "likert"]


def main(folder: Path, port: int) -> None:
    library = the_library(folder)
    version = version_of(folder / "study", library, questions=ASKED_AT_THE_END)
    store = Store(folder / "study", version, KEY)
    engine = SlowEngine(SharedEngine(the_model()), seconds_per_step=0.02)
    streams = Streams(store, AnswerGenerator(store.study, library, engine))
    with Housekeeper(store) as keeper:
        context = ServerContext(store, streams, keeper.is_safe_to_finish, keeper.wake)
        serve(build_app(context), "127.0.0.1", port)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
