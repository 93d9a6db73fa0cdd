"""A small Hub on the loopback, for the real Hub client to talk to: listings, files, ranges and refusals.

It keeps what was asked of it, so that a test can say what was not fetched again.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INFO = re.compile(r"/api/models/(?P<model>[^/]+(?:/[^/]+)?)(?:/revision/(?P<revision>[^/?]+))?")
TREE = re.compile(r"/api/models/(?P<model>[^/]+(?:/[^/]+)?)/tree/(?P<revision>[^/?]+)")
FILE = re.compile(r"/(?P<model>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@dataclass
class ModelOnHub:
    """The files of one model at its newest commit; `sizes` are lies told in the listing, `card` heads its page.

    A gated model is listed for all and read by few; a private one is not there for others.
    """

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return digest(b"".join(name.encode() + content for name, content in sorted(self.files.items())))


@dataclass
class Asked:
    """One request, as the stand-in saw it."""

    method: str
    path: str
    range: str | None
    authorization: str | None


class HubStandIn(ThreadingHTTPServer):
    """`status` answers everything with that status, `out_of_order` the named files with 503.

    `cuts` says how often a file's body is cut in its middle.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.models: dict[str, ModelOnHub] = {}
        self.tokens = {"hf_good": True}
        self.status: int | None = None
        self.out_of_order: set[str] = set()
        self.cuts: dict[str, int] = {}
        self.asked: list[Asked] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> list[str]:
        """Names of the files whose bodies were asked for, in order."""
        paths = [FILE.fullmatch(asked.path) for asked in self.asked if asked.method == "GET"]
        return [path["name"] for path in paths if path]

    def __enter__(self) -> HubStandIn:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubStandIn

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        sent = self.headers.get("Authorization")
        self.server.asked.append(Asked(self.command, path, self.headers.get("Range"), sent))
        if self.server.status:
            self._refuse(self.server.status)
        elif sent and sent.removeprefix("Bearer ") not in self.server.tokens:
            self._refuse(401, message="Invalid credentials in Authorization header")
        else:
            self._find(path)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _find(self, path: str) -> None:
        match = TREE.fullmatch(path) or INFO.fullmatch(path) or FILE.fullmatch(path)
        model = self.server.models.get(match["model"]) if match else None
        if match is None or model is None or (model.private and not self._may_read()):
            self._refuse(401 if not self.headers.get("Authorization") else 404, code="RepoNotFound")
        elif match["revision"] not in (None, "main", model.commit):
            self._refuse(404, code="RevisionNotFound")
        elif match.re is FILE:
            self._file(model, match["name"])
        else:
            self._list(match["model"], model, tree=match.re is TREE)

    def _list(self, model_id: str, model: ModelOnHub, *, tree: bool) -> None:
        sizes = {name: model.sizes.get(name, len(content)) for name, content in model.files.items()}
        blobs = {name: digest(content) for name, content in model.files.items()}
        entries: list[dict[str, Any]] = [
            {"type": "file", "path": name, "size": sizes[name], "oid": blobs[name]} for name in sizes
        ]
        siblings = [{"rfilename": name, "size": sizes[name], "blobId": blobs[name]} for name in sizes]
        info = {"id": model_id, "sha": model.commit, "siblings": siblings, "tags": [], "downloads": 0}
        info |= {"gated": "manual" if model.gated else False, "private": model.private, "cardData": model.card}
        self._send(200, json.dumps(entries if tree else info).encode(), {"Content-Type": "application/json"})

    def _file(self, model: ModelOnHub, name: str) -> None:
        if model.gated and not self._may_read():
            self._refuse(403 if self.headers.get("Authorization") else 401, code="GatedRepo")
            return
        if name in self.server.out_of_order:
            self._refuse(503)
            return
        content = model.files[name]
        headers = {"ETag": f'"{digest(content)}"', "X-Repo-Commit": model.commit, "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.command == "GET" and self.server.cuts.get(name, 0) > 0
        if cut:
            self.server.cuts[name] -= 1
        self._send(206 if start else 200, content[start:], headers, cut=cut)

    def _may_read(self) -> bool:
        return self.server.tokens.get((self.headers.get("Authorization") or "")[7:]) is True

    def _refuse(self, status: int, *, code: str = "", message: str = "") -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the tests look at `asked`."""
