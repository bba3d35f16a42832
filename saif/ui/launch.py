"""How the app is started: options from the command line and the environment, and the server."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, get_args

import gradio as gr
import typer

from saif.errors import InputError
from saif.ports import check_free
from saif.presets.library import Library, user_folder
from saif.runtime.load import DEFAULT_MODEL, QuantizeOrAuto
from saif.ui.theme import theme

_ONLY_HERE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Options:
    """What the page is started with."""

    model: str
    quantize: QuantizeOrAuto
    host: str
    port: int
    library: Library

    zero_gpu: bool
    """This is a ZeroGPU Space, which lends its GPU call by call."""

    owner: bool
    """Whoever opens the page may load other models and build presets."""

    study: Path | None
    """The folder of a published study, to be served instead of the chat."""


_command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def read_options(argv: Sequence[str], program: str = "app.py") -> Options:
    """The command line's options, the environment's behind them. Raises InputError on one that
    makes no sense, and SystemExit after `--help`."""
    try:
        found = typer.main.get_command(_command).main(
            list(argv), prog_name=program, standalone_mode=False
        )
    except typer.TyperException as error:
        message = error.format_message().removesuffix(".")
        raise InputError(f"{message}.", hint=f"See {program} --help.") from error
    if not isinstance(found, Options):
        raise SystemExit(found)
    return found


@_command.command()
def _options(
    model: Annotated[
        str,
        typer.Option(envvar="SAIF_MODEL", help="A known name, a hub id or a local folder."),
    ] = DEFAULT_MODEL,
    quantize: Annotated[
        str,
        typer.Option(envvar="SAIF_QUANTIZE", help=f"{', '.join(get_args(QuantizeOrAuto))}."),
    ] = "auto",
    host: Annotated[
        str | None,
        typer.Option(
            envvar="SAIF_HOST",
            help="127.0.0.1 if left out; on a Space all of the container.",
        ),
    ] = None,
    port: Annotated[str, typer.Option(envvar="SAIF_PORT")] = "7860",
) -> Options:
    """A steered chat beside an unsteered one."""
    if quantize not in get_args(QuantizeOrAuto):
        raise InputError(
            f"'{quantize}' is not a way to quantize.",
            hint=f"Choose from {', '.join(get_args(QuantizeOrAuto))}.",
        )
    # On Spaces the page is reached from outside the container it runs in.
    host = host or ("0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1")
    zero_gpu = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")
    study = os.environ.get("SAIF_STUDY")
    return Options(
        model=model,
        quantize=cast("QuantizeOrAuto", quantize),
        host=host,
        port=_port(port),
        library=_library(os.environ.get("SAIF_PRESETS")),
        zero_gpu=zero_gpu,
        owner=_switch("SAIF_OWNER", default=host in _ONLY_HERE) and not zero_gpu,
        study=Path(study) if study else None,
    )


def _switch(name: str, *, default: bool) -> bool:
    given = os.environ.get(name, "").strip().lower()
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
        css_paths=sorted((Path(__file__).parent / "style").glob("*.css")),
        # Don't ask the page for itself first: a busy machine may take longer than the three
        # seconds after which gradio gives up and asks for a public link instead.
        _frontend=False,
    )
    return str(url)
