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
from typing import Any

import pytest

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"

_REPOSITORY = r"(models|datasets)/([^/]+/[^/]+)"


class HubServer:
    """repositories: name -> file -> content; a data set's name begins with `datasets/`. token: what
    may write, and read what is gated or private. heads: name -> its newest commit, where one was
    made here. history: name -> every content it ever had, until it is squashed. large: files in
    the store of large ones. down: answer nothing but errors.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.gated: set[str] = set()
        self.heads: dict[str, str] = {}
        self.history: dict[str, list[bytes]] = {}
        self.large: list[dict[str, Any]] = []
        self.down = False
        self.loses_replies = False
        self.released = threading.Event()  # where it is not set, nothing is answered
        self.released.set()
        self.refuses = ""  # a part of an address that is answered with an error
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

    def _allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _fails(self) -> bool:
        self.hub.released.wait()
        fails = self.hub.down or (self.hub.refuses != "" and self.hub.refuses in self.path)
        if fails:
            self._answer({"error": "down"}, 500)
        return fails

    def do_POST(self) -> None:
        body = self._body()
        if self._fails():
            return
        if self.path == "/api/validate-yaml":  # the card's head
            self._answer({"errors": [], "warnings": []})
        elif not self._allowed():
            self._answer({"error": "Unauthorized"}, 401)
        else:
            self._write(body)

    def _write(self, body: bytes) -> None:
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked.get("type") == "dataset":
                name = f"datasets/{name}"
            if name in self.hub.repositories:
                url = f"{self.hub.url}/{name}"
                self._answer({"error": "You already created it", "url": url}, 409)
                return
            self.hub.repositories[name] = {}
            self.hub.private[name] = (
                bool(asked.get("private")) or asked.get("visibility") == "private"
            )
            self._answer({"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif found := re.fullmatch(rf"/api/{_REPOSITORY}/preupload/main", self.path):
            files = json.loads(body)["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._answer({"files": [{"path": file["path"], **regular} for file in files]})
        elif found := re.fullmatch(rf"/api/{_REPOSITORY}/commit/main", self.path):
            self._commit(_name(found), [json.loads(line) for line in body.splitlines()])
        elif found := re.fullmatch(rf"/api/{_REPOSITORY}/super-squash/main", self.path):
            name = _name(found)
            self.hub.history[name] = list(self.hub.repositories[name].values())
            self.hub.heads[name] = _digest(self.hub.heads[name].encode())
            self._answer({})
        elif re.fullmatch(rf"/api/{_REPOSITORY}/lfs-files/batch", self.path):
            gone = json.loads(body)["deletions"]["sha"]
            self.hub.large = [file for file in self.hub.large if file["fileOid"] not in gone]
            self._answer({})
        else:
            self._answer({"error": f"unknown {self.path}"}, 404)

    def _commit(self, name: str, entries: list[dict[str, Any]]) -> None:
        head = self.hub.heads.get(name, COMMIT)
        files = self.hub.repositories[name]
        for entry in entries:
            value = entry["value"]
            if entry["key"] == "header" and value.get("parentCommit", head) != head:
                self._answer({"error": "The branch has moved"}, 412)
                return
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                self.hub.history.setdefault(name, []).append(files[value["path"]])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        if name.startswith("datasets/"):
            head = self.hub.heads[name] = _digest(head.encode() + repr(sorted(files)).encode())
        if self.hub.loses_replies:
            self._answer({"error": "lost"}, 502)
            return
        url = f"{self.hub.url}/{name}/commit/{head}"
        self._answer({"commitUrl": url, "commitOid": head, "success": True})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self._fails():
            return
        if found := re.fullmatch(rf"/api/{_REPOSITORY}(?:/(revision|tree)/\w+)?", path):
            name, what = _name(found), found[3]
            files = self.hub.repositories.get(name)
            if files is None or (self.hub.private.get(name) and not self._allowed()):
                self._answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")
            elif what == "tree":
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
                    {
                        "id": found[2],
                        "sha": self.hub.heads.get(name, COMMIT),
                        "siblings": siblings,
                        "private": self.hub.private.get(name, False),
                    }
                )
        elif re.fullmatch(rf"/api/{_REPOSITORY}/lfs-files", path):
            self._answer(self.hub.large)
        elif found := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/\w+/(.+)", path):
            closed = found[1] in self.hub.gated or found[1].startswith("datasets/")
            if closed and not self._allowed():
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


def _name(found: re.Match[str]) -> str:
    return found[2] if found[1] == "models" else f"datasets/{found[2]}"


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
