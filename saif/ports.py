"""Whether something can listen at an address, in words where it can't."""

import socket

from saif.errors import SaifError


def check_free(host: str, port: int) -> None:
    """Raise SaifError if nothing can listen there."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise SaifError(
                f"There is no host '{host}' here.", hint="Try --host 127.0.0.1."
            ) from error
        raise SaifError(
            f"Nothing can be served at {host}:{port}: {error.strerror or error}.",
            hint=f"Choose another port, for example --port {port + 1 if port < 65535 else 7860}.",
        ) from error
