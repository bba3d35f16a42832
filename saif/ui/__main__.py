"""Start the page: read the options, put the parts together, serve."""

import sys
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from saif.errors import SaifError

if TYPE_CHECKING:
    from saif.engine.local import LocalEngine
    from saif.engine.protocol import Engine
    from saif.runtime.load import QuantizeOrAuto
    from saif.ui.launch import Options


def main(argv: Sequence[str], program: str) -> int:
    """Serve until interrupted; the exit status. program: how it was called, for what it says."""
    try:
        from saif.ui.launch import read_options

        options = read_options(argv, program)
        if options.study:
            from saif.study.server.serve import open_to_participants

            say = partial(print, file=sys.stderr)
            open_to_participants(
                options.study, options.library, options.host, options.port, say=say
            )
        else:
            _serve_chat(options)
    except SaifError as error:
        sys.stderr.write(f"{program}: {error.sentence}\n")
        return 2
    return 0


def _serve_chat(options: "Options") -> None:
    from saif.runtime.load import check_loadable, load_model, model_id
    from saif.ui.admin.service import ModelAdmin
    from saif.ui.app import build_app
    from saif.ui.launch import serve
    from saif.ui.services import Services, load_in_background

    engine: Future[Engine] = Future()

    def load(name: str, quantize: "QuantizeOrAuto") -> "LocalEngine":
        from saif.engine.local import LocalEngine, SharedEngine

        kind = LocalEngine if options.zero_gpu else SharedEngine  # a lent process has one caller
        return kind(load_model(name, quantize=quantize))

    if options.zero_gpu:  # where everything that wants a GPU has to be there before the page is
        from saif.engine.zero_gpu import ZeroGpuEngine

        engine.set_result(ZeroGpuEngine(load(options.model, options.quantize)))
    services = Services(options.library, model_id(options.model), engine, can_build=options.owner)
    admin = ModelAdmin(
        services, load, check_loadable, name=options.model, quantize=options.quantize
    )
    app = build_app(services, admin if options.owner else None)
    address = serve(app, options.host, options.port)
    sys.stderr.write(f"SAIF is at {address} (Ctrl+C ends it)\n")
    if not engine.done():  # now that the page is up, which importing torch would have held up
        load_in_background(lambda: load(options.model, options.quantize), engine)
    app.block_thread()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "python -m saif.ui"))
