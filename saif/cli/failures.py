"""What a person sees when a command fails: one line on stderr, never a traceback unasked.

Exit status 2 is for what the user can put right, 1 for a bug, 130 for Ctrl-C.
"""

import logging
import os
import secrets
import sys
from typing import Any

import typer
from typer import TyperException
from typer.core import TyperGroup

from saif.errors import SaifError

_log = logging.getLogger("saif")


class FailuresInWords(TyperGroup):
    """A group of commands that turns every failure into a line and an exit status."""

    def main(self, *args: Any, **options: Any) -> Any:
        _keep_stdout_for_results()
        options["standalone_mode"] = False  # failures always come to this method
        try:
            status = super().main(*args, **options)
        except SaifError as error:
            status = _say(error.sentence, 2)
        except TyperException as error:
            status = _say(_usage(error), 2)
        except (KeyboardInterrupt, typer.Abort):  # Abort: a question met the end of the input
            status = 130
        except Exception:  # noqa: BLE001 - the boundary: a bug becomes a reference and a log entry
            reference = secrets.token_hex(4)
            _log.exception("Unexpected failure, reference %s", reference)
            status = _say(
                f"This is a bug in saif, reference {reference}. "
                "Please report it with the lines above.",
                1,
            )
        sys.exit(status if isinstance(status, int) else 0)


def _say(sentence: str, status: int) -> int:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return status


def _usage(error: TyperException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    full_stop = "" if message.endswith((".", "!", "?")) else "."
    hint = f" Try '{context.command_path} --help'." if context else ""
    return f"{message}{full_stop}{hint}"


def _keep_stdout_for_results() -> None:
    """Logs to stderr, without the libraries' chatter; no character a terminal lacks is fatal."""
    # Warnings of libraries come by the hundred (a quantized step has one per layer).
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(levelname)s %(message)s")
    _log.setLevel(logging.INFO)
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
