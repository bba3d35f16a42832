"""What a failure looks like to the person at the page, and what of it goes to the log."""

import logging
import secrets

from gradio import Error

from saif.errors import SaifError

logger = logging.getLogger(__name__)


def explain(error: BaseException) -> str:
    """The sentence to show. A SaifError speaks for itself; anything else is a bug, which is
    logged with its traceback and shown as a reference to look it up by."""
    if isinstance(error, SaifError):
        return error.sentence
    reference = f"{secrets.randbelow(10**8):08d}"
    logger.error("Reference %s", reference, exc_info=error)
    return f"Something went wrong that should not have (reference {reference}). Please try again."


def as_page_error(error: BaseException) -> Error:
    """The sentence for a caller of the API. Not popped up: the page shows it beside the box."""
    return Error(explain(error), visible=False, print_exception=False)
