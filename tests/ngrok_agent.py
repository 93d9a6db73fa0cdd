"""A stand-in for the ngrok agent: the command line, log and local API that pyngrok needs, and real forwarding.

Run as a program by the launcher that `install_agent` writes; its flaws are set there. Needs the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import socketserver
import sys
import threading
from dataclasses import asdict, dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Behaviour:
    """What goes wrong, by ngrok's codes; `diary` is a file that gets what was asked of the agent, line by line."""

    session_error: str = ""
    session_text: str = ""
    endpoint_error: str = ""
    endpoint_text: str = ""
    silent: bool = False
    hangs_in_api: bool = False
    without_endpoints: bool = False
    diary: str = ""


def install_agent(folder: Path, **behaviour: Any) -> Path:
    """An executable file that runs this module; put its path into PYNGROK_NGROK_PATH."""
    program = folder / "ngrok agent"
    words = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), json.dumps(asdict(Behaviour(**behaviour)))]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    return program


class Endpoint(socketserver.ThreadingTCPServer):
    """Passes connections of a free loopback port on to the upstream, byte by byte."""

    daemon_threads = True

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Passed)
        self.asked = asked
        self.upstream = int(asked["upstream"]["url"].rpartition(":")[2])
        self.ends: set[socket.socket] = set()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def as_json(self) -> dict[str, Any]:
        name = self.asked["name"]
        url = f"http://127.0.0.1:{self.server_address[1]}"
        return {**self.asked, "uri": f"/api/endpoints/{name}", "url": url, "metrics": {}}

    def end(self) -> None:
        self.shutdown()
        self.server_close()
        for end in list(self.ends):
            hang_up(end)


class _Passed(socketserver.BaseRequestHandler):
    server: Endpoint
    request: socket.socket

    def handle(self) -> None:
        try:
            beyond = socket.create_connection(("127.0.0.1", self.server.upstream), 5)
        except OSError:
            # What ngrok's own edge answers when nobody listens behind the agent.
            head = "HTTP/1.1 502 Bad Gateway\r\nngrok-error-code: ERR_NGROK_8012\r\nConnection: close\r\n"
            self.request.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            self.request.shutdown(socket.SHUT_WR)
            # Whoever closes with a request half read cuts off its sender.
            while self.request.recv(65536):
                pass
            return
        beyond.settimeout(None)
        with beyond:
            self.server.ends |= {self.request, beyond}
            back = threading.Thread(target=pass_on, args=(beyond, self.request), daemon=True)
            back.start()
            pass_on(self.request, beyond)
            back.join()
            self.server.ends -= {self.request, beyond}


def pass_on(source: socket.socket, target: socket.socket) -> None:
    """Bytes one way until either end closes; then both are closed."""
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    hang_up(source)
    hang_up(target)


def hang_up(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class Agent(ThreadingHTTPServer):
    """The local API on a free port."""

    daemon_threads = True

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.behaviour = behaviour
        self.endpoints: dict[str, Endpoint] = {}


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Agent

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing: standard error belongs to the agent's own words."""

    def do_GET(self) -> None:
        self._answer(200, {"endpoints": [endpoint.as_json() for endpoint in self.server.endpoints.values()]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour = self.server.behaviour
        write_diary(behaviour, {"asked": asked})
        if behaviour.hangs_in_api:
            threading.Event().wait()
        if behaviour.without_endpoints:
            self._answer(404, {"error_code": 100, "status_code": 404, "msg": "Not Found"})
        elif behaviour.endpoint_error or behaviour.endpoint_text:
            text = f"failed to start tunnel: {behaviour.endpoint_text}\r\n\r\n{behaviour.endpoint_error}\r\n"
            self._answer(502, {"error_code": 103, "status_code": 502, "msg": "no", "details": {"err": text}})
        else:
            endpoint = self.server.endpoints[asked["name"]] = Endpoint(asked)
            self._answer(201, endpoint.as_json())

    def do_DELETE(self) -> None:
        endpoint = self.server.endpoints.pop(self.path.rpartition("/")[2], None)
        write_diary(self.server.behaviour, {"deleted": self.path})
        if endpoint is None:
            return self._answer(404, {"error_code": 100, "status_code": 404})
        endpoint.end()
        return self._answer(204, None)

    def _answer(self, status: int, body: dict[str, Any] | None) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def write_diary(behaviour: Behaviour, entry: dict[str, Any]) -> None:
    if behaviour.diary:
        with open(behaviour.diary, "a", encoding="utf-8") as diary:
            diary.write(json.dumps(entry) + "\n")


def say(message: str, level: str = "info", **values: str) -> None:
    """A line of the agent's log, flushed: pyngrok waits for it."""
    pairs = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
    print(f't=2026-11-21T00:00:00+0000 lvl={level} msg="{message}" {pairs}', flush=True)


def run(behaviour: Behaviour, arguments: list[str]) -> int:
    """`start --none --log stdout --config FILE`."""
    config = json.loads(Path(arguments[arguments.index("--config") + 1]).read_text(encoding="utf-8"))
    token = os.environ.get("NGROK_AUTHTOKEN") or config["agent"]["authtoken"]
    write_diary(behaviour, {"config": config, "arguments": arguments})
    if behaviour.silent:
        say("no config paths", obj="app")
        threading.Event().wait()
    if behaviour.session_error or behaviour.session_text:
        # Like the real one, which repeats the token to whoever reads along.
        text = f"authentication failed: {behaviour.session_text}\nYour authtoken: {token}\r\n\r\n"
        say("failed to auth", "eror", obj="tunnels.session", err=f"{text}{behaviour.session_error}\r\n")
        say("command failed", "crit", err=f"{text}{behaviour.session_error}\r\n")
        print(f"ERROR:  {text}{behaviour.session_error}", file=sys.stderr, flush=True)
        return 1
    agent = Agent(behaviour)
    threading.Thread(target=agent.serve_forever, args=(0.02,), daemon=True).start()
    say("starting web service", obj="web", addr=f"127.0.0.1:{agent.server_address[1]}")
    say(f"client session established with {token}", obj="tunnels.session")
    say("tunnel session started", obj="tunnels.session")
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    known = {field.name for field in fields(Behaviour)}
    asked_for = json.loads(sys.argv[1])
    sys.exit(run(Behaviour(**{name: asked_for[name] for name in known}), sys.argv[2:]))
