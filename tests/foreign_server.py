"""A server of somebody else's on loopback that answers as it is told, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON, EVENTS, PAGE = "application/json", "text/event-stream", "text/html; charset=utf-8"
MODELS = {"object": "list", "data": [{"id": "text-embed-1"}, {"id": "puma-7b"}, {"id": "lynx-70b"}]}


@dataclass
class Answer:
    """What is sent; a dict as JSON, several as the events of a stream, which `[DONE]` ends."""

    body: str | dict[str, Any] | list[Any]
    status: int = 200
    kind: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> tuple[str, bytes]:
        if isinstance(self.body, list):
            text = "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in self.body)
            return self.kind or EVENTS, text.encode()
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return self.kind or JSON, text.encode()


class ForeignServer(ThreadingHTTPServer):
    """Its answers by their path; of several each is given once, the last one on and on."""

    def __init__(self, **answers: Answer | list[Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        given = {"models": Answer(MODELS)} | answers
        self.answers = {name: one if isinstance(one, list) else [one] for name, one in given.items()}
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str) -> Answer:
        found = self.answers.get(path.removeprefix("/v1/").replace("/", "_"))
        if found is None:
            return Answer("not here", 404, "text/plain")
        return found.pop(0) if len(found) > 1 else found[0]


class _Handler(BaseHTTPRequestHandler):
    server: ForeignServer

    def do_GET(self) -> None:
        self._send(self.server.answer(self.path))

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.headers.append(dict(self.headers))
        self._send(self.server.answer(self.path))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _send(self, answer: Answer) -> None:
        kind, content = answer.content
        self.send_response(answer.status)
        for name, value in {"Content-Type": kind, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def foreign(**answers: Answer | list[Answer]) -> Iterator[ForeignServer]:
    with ForeignServer(**answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
