"""How the app is started: options from the command line and the environment, and the server."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, get_args

import gradio as gr

from saif.errors import InputError
from saif.ports import check_free
from saif.presets.library import Library, user_folder
from saif.runtime.load import DEFAULT_MODEL, QuantizeOrAuto
from saif.ui.theme import stylesheets, theme

_ONLY_HERE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Options:
    """zero_gpu: this is a ZeroGPU Space, which lends its GPU call by call. owner: whoever opens
    the page may load other models and make presets. study: the folder of a published study, to be
    served instead of the chat."""

    model: str
    quantize: QuantizeOrAuto
    host: str
    port: int
    library: Library
    zero_gpu: bool
    owner: bool
    study: Path | None


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, like every other command here."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}.", hint="See python app.py --help.")


def read_options(argv: Sequence[str], env: Mapping[str, str]) -> Options:
    """The command line's options, the environment's behind them. Raises InputError."""
    # On Spaces the page is reached from outside the container it runs in.
    host = "0.0.0.0" if "SPACE_ID" in env else "127.0.0.1"
    parser = _Parser(prog="app.py", description="A steered chat beside an unsteered one.")
    parser.add_argument("--model", default=env.get("SAIF_MODEL") or DEFAULT_MODEL)
    parser.add_argument("--quantize", default=env.get("SAIF_QUANTIZE") or "auto")
    parser.add_argument("--host", default=env.get("SAIF_HOST") or host)
    parser.add_argument("--port", default=env.get("SAIF_PORT") or "7860")
    found = parser.parse_args(argv)
    if found.quantize not in get_args(QuantizeOrAuto):
        raise InputError(
            f"'{found.quantize}' is not a way to quantize.",
            hint=f"Choose from {', '.join(get_args(QuantizeOrAuto))}.",
        )
    library = _library(env.get("SAIF_PRESETS"))
    zero_gpu = env.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")
    owner = _switch(env, "SAIF_OWNER", default=found.host in _ONLY_HERE) and not zero_gpu
    return Options(
        model=found.model,
        quantize=found.quantize,
        host=found.host,
        port=_port(found.port),
        library=library,
        zero_gpu=zero_gpu,
        owner=owner,
        study=Path(env["SAIF_STUDY"]) if env.get("SAIF_STUDY") else None,
    )


def _switch(env: Mapping[str, str], name: str, *, default: bool) -> bool:
    given = env.get(name, "").strip().lower()
    if given not in ("", "0", "1", "true", "false"):
        raise InputError(f"{name} is '{given}'.", hint="Give 1 for yes or 0 for no.")
    return default if not given else given in ("1", "true")


def _library(presets: str | None) -> Library:
    if not presets:
        return Library(own=user_folder())
    if not Path(presets).is_dir():
        raise InputError(f"There is no folder {presets}.", hint="SAIF_PRESETS must name one.")
    return Library(Path(presets))


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise InputError(f"'{text}' is not a port.", hint="Give a number from 1 to 65535.")
    return int(text)


def serve_study(options: Options, folder: Path) -> None:
    """Serve a study instead of the chat, until interrupted. Raises SaifError if it can't be."""
    from saif.study.server.serve import open_to_participants

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    open_to_participants(folder, options.library, options.host, options.port, say=say)


def serve(app: gr.Blocks, host: str, port: int) -> str:
    """Serve the page in the background and return its address. Raises SaifError if it can't be.

    `app.block_thread()` then waits for the end.
    """
    check_free(host, port)
    _, url, _ = app.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        footer_links=[],
        theme=theme(),
        css_paths=stylesheets(),
        # Don't ask the page for itself first: a busy machine may take longer than the three
        # seconds after which gradio gives up and asks for a public link instead.
        _frontend=False,
    )
    return str(url)
