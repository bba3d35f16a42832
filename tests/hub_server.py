"""A hub that speaks as much of the real one's protocol as sharing a repository takes."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


class HubServer:
    """repositories: name -> file -> content. token: what may write, and read what is gated."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.gated: set[str] = set()
        self.token = "hf_right"
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/validate-yaml":  # the card's head
            self._answer({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._answer({"error": "Unauthorized"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            self.hub.private[name] = bool(asked.get("private"))
            self._answer({"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
            files = json.loads(body)["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._answer({"files": [{"path": file["path"], **regular} for file in files]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    content = base64.b64decode(value["content"])
                    self.hub.repositories[found[1]][value["path"]] = content
            url = f"{self.hub.url}/{found[1]}/commit/{COMMIT}"
            self._answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            self._answer({"error": f"unknown {self.path}"}, 404)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/\w+)?", path):
            files = self.hub.repositories.get(found[1])
            if files is None:
                self._answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")
            elif found[2] == "tree":
                self._answer(
                    [
                        {
                            "type": "file",
                            "path": name,
                            "size": len(content),
                            "oid": _digest(content),
                        }
                        for name, content in files.items()
                    ]
                )
            else:
                siblings = [{"rfilename": name} for name in files]
                self._answer(
                    {"id": found[1], "sha": COMMIT, "siblings": siblings, "private": False}
                )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/\w+/(.+)", path):
            allowed = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
            if found[1] in self.hub.gated and not allowed:
                self._answer({"error": "Access is restricted"}, 401, X_Error_Code="GatedRepo")
                return
            content = self.hub.repositories[found[1]].get(found[2])
            if content is None:
                self._answer({"error": "not found"}, 404, X_Error_Code="EntryNotFound")
                return
            headers = {"ETag": f'"{_digest(content)}"', "X_Repo_Commit": COMMIT}
            self._answer(content, **headers)
        else:
            self._answer({"error": f"unknown {path}"}, 404)

    do_HEAD = do_GET  # noqa: N815 - what the server calls


@contextmanager
def reachable_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
    """A running hub that huggingface_hub takes for the real one, with an empty cache."""
    with hub_server() as server:
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)  # this hub is on this machine
        yield server


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def hub_server() -> Iterator[HubServer]:
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
