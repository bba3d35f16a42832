"""The researcher's page of a store on a server of its own, as a browser meets it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from saif.study.server.app import build_app
from saif.study.server.context import ServerContext
from saif.study.store.store import Store

SECRET = "a secret of the researcher"


@contextmanager
def serving(store: Store, secret: str | None = SECRET) -> Iterator[str]:
    """The address while it is served."""
    context = ServerContext(store, None)  # type: ignore[arg-type]  # nobody asks for an answer here
    app = build_app(context, secret=secret)
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([door],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
