"""ChatApp.run over real sockets: many streams, clients that leave or do not read, and every way to end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from colab_llm_chat.errors import ChatError, UsageError
from colab_llm_chat.protocol.messages import Delta
from colab_llm_chat.settings import Settings
from colab_llm_chat.web import ports, server
from colab_llm_chat.web.app import ChatApp, create_app
from colab_llm_chat.web.server import Server
from tests.chat_services import ScriptedChat, ScriptedReply, events_of, serving, wait_until

CLIENTS = 100


def make_app(chat: ScriptedChat | None = None, **settings: Any) -> ChatApp:
    return create_app(Settings(port=0, **settings), chat or ScriptedChat())


def request(app: ChatApp, **fields: Any) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", app.bound_port or 0, timeout=60)
    body = json.dumps({"message": "hi", **fields})
    connection.request("POST", "/chat", body, {"Content-Type": "application/json"})
    return connection


def answer(app: ChatApp, **fields: Any) -> tuple[int, str]:
    connection = request(app, **fields)
    try:
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def exchange(app: ChatApp, sent: bytes) -> bytes:
    """What comes back for these bytes until the server closes."""
    with socket.create_connection(("127.0.0.1", app.bound_port or 0), timeout=60) as connection:
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return received


def test_a_reply_and_a_stream_over_real_sockets() -> None:
    with serving(make_app()) as app:
        assert json.loads(answer(app)[1])["response"] == "Hello"
        status, body = answer(app, stream=True)
    assert (status, events_of(body)[-1]) == (200, "[DONE]")


def test_a_hundred_clients_stream_at_once() -> None:
    gate = threading.Event()
    chat = ScriptedChat(steps=["a", gate, *"bcdefgh"])
    with serving(make_app(chat)) as app, ThreadPoolExecutor(CLIENTS) as pool:
        answers = [pool.submit(answer, app, stream=True) for _ in range(CLIENTS)]
        # All of them are past their first delta before any may go on.
        wait_until(lambda: sum(reply.waiting.is_set() for reply in chat.replies) == CLIENTS)
        assert app.live.count == CLIENTS
        gate.set()
        bodies = [future.result() for future in answers]
    assert all(status == 200 for status, _ in bodies)
    assert {json.dumps(events_of(body)) for _, body in bodies} == {json.dumps(events_of(bodies[0][1]))}
    assert events_of(bodies[0][1])[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_during_silence_is_noticed(stream: bool) -> None:
    chat = ScriptedChat(steps=[threading.Event()])
    with serving(make_app(chat)) as app:
        connection = request(app, stream=stream)
        wait_until(lambda: bool(chat.replies))
        assert chat.replies[0].waiting.wait(30)
        connection.close()
        assert chat.replies[0].cancelled.wait(30)


def test_other_replies_carry_on_when_one_client_leaves() -> None:
    gate = threading.Event()
    chat = ScriptedChat(steps=["a", gate, "b"])
    with serving(make_app(chat)) as app, ThreadPoolExecutor(1) as pool:
        leaving = request(app, stream=True)
        leaving.getresponse().read(1)
        staying = pool.submit(answer, app, stream=True)
        wait_until(lambda: len(chat.replies) == 2)
        leaving.close()
        assert chat.replies[0].cancelled.wait(30)
        gate.set()
        assert events_of(staying.result()[1])[1] == {"delta": "b"}


class EndlessReply(ScriptedReply):
    """Tells without end until it is cancelled, and counts what was taken."""

    taken = 0

    def __next__(self) -> Delta:
        if self.cancelled.is_set():
            raise StopIteration
        self.taken += 1
        return Delta("x" * 4096)


def endless_app() -> tuple[ChatApp, EndlessReply]:
    endless = EndlessReply([], None)
    chat = ScriptedChat()
    chat.stream = lambda _: endless  # type: ignore[method-assign]
    return make_app(chat), endless


def test_a_client_that_does_not_read_is_not_written_for_without_bound() -> None:
    app, endless = endless_app()
    with serving(app):
        connection = request(app, stream=True)
        taken = -1
        while taken != endless.taken and endless.taken < 16_384:
            taken = endless.taken
            threading.Event().wait(0.3)
        assert taken == endless.taken
        assert http_get(app, "/health")[0] == 200
    connection.close()
    assert endless.cancelled.is_set()


def test_a_client_that_takes_nothing_for_long_is_dropped() -> None:
    app, endless = endless_app()
    server = Server(app, address=("127.0.0.1", 0), requests=1, end_replies=app.live.close, stalled_seconds=0.5)
    with server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        body = b'{"message": "hi", "stream": true}'
        head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(b"POST /chat HTTP/1.1\r\n" + head.encode() + body)
        assert endless.cancelled.wait(60)


def http_get(app: ChatApp, path: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", app.bound_port or 0, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def test_a_connection_serves_several_requests() -> None:
    with serving(make_app()) as app:
        connection = request(app)
        assert connection.getresponse().read()
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()


def test_the_server_does_not_name_its_software() -> None:
    with serving(make_app()) as app:
        assert "server" not in http_get(app, "/health")[1]


def test_ending_tells_every_live_reply_and_closes_the_pipeline() -> None:
    chat = ScriptedChat(steps=["a", threading.Event()])
    with serving(make_app(chat)) as app, ThreadPoolExecutor(2) as pool:
        told, asked = (pool.submit(answer, app, stream=stream) for stream in (True, False))
        wait_until(lambda: sum(reply.waiting.is_set() for reply in chat.replies) == 2)
        app.shutdown()
        events = events_of(told.result()[1])
        assert asked.result()[0] == 503
    assert events[0] == {"delta": "a"}
    assert "stopping" in events[1]["message"]  # type: ignore[index]
    assert events[2] == "[DONE]"
    assert chat.closed.is_set()
    assert app.bound_port is None


def test_run_can_be_called_again_on_the_same_port() -> None:
    app = make_app()
    with serving(app):
        port = app.bound_port
    with serving(app):
        assert answer(app)[0] == 200
    again = create_app(Settings(port=port or 0), ScriptedChat())
    again.run(on_ready=lambda running: running.shutdown())


def test_a_taken_port_is_said_before_anything_is_served() -> None:
    chat = ScriptedChat()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}") as caught:
            make_app(chat).run(port=port)
    assert "--port" in caught.value.hint
    assert chat.closed.is_set()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "a" * 300])
def test_an_address_that_cannot_be_bound_is_a_usage_error(host: str) -> None:
    with pytest.raises(UsageError, match="Cannot listen"):
        make_app().run(host=host)


def test_flasks_other_arguments_of_run_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="debug"):
        make_app().run(debug=True)


def test_the_host_given_to_run_decides_whether_a_key_is_asked_for() -> None:
    keys = []
    make_app().run(host="0.0.0.0", on_ready=lambda app: (keys.append(app.access_key), app.shutdown()))
    assert keys[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_run_which_returns(number: signal.Signals) -> None:
    chat = ScriptedChat()
    before = signal.getsignal(number)
    make_app(chat).run(on_ready=lambda _: os.kill(os.getpid(), number))
    assert chat.closed.is_set()
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("moment", ["start", "close"])
def test_an_interrupt_while_server_and_pipeline_start_or_end_ends_run_whole(moment: str) -> None:
    chat, told = ScriptedChat(), []
    usual = getattr(chat, moment)
    setattr(chat, moment, lambda: (os.kill(os.getpid(), signal.SIGINT), usual()))
    before = set(threading.enumerate())
    make_app(chat).run(on_ready=lambda app: (told.append(app.bound_port), app.shutdown()))
    assert (chat.closed.is_set(), set(threading.enumerate()) <= before) == (True, True)
    assert bool(told) == (moment == "close")


def test_an_interrupt_while_the_server_is_made_leaves_no_port_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, app, before = server.create_server, make_app(ScriptedChat()), set(threading.enumerate())

    def make(*parts: Any, **options: Any) -> Any:
        made = usual(*parts, **options)
        os.kill(os.getpid(), signal.SIGINT)
        return made

    monkeypatch.setattr(server, "create_server", make)
    port = ports.next_free("127.0.0.1", 20_000)
    app.run(port=port, on_ready=lambda app: app.shutdown())
    assert set(threading.enumerate()) <= before
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_port_given_as_text_is_a_number_all_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text: Any = str(taken.getsockname()[1])
        with pytest.raises(UsageError, match="this program itself") as caught:
            make_app().run(port=text)
    assert "Restart" in caught.value.hint
    assert "このプログラム自身" in caught.value.japanese


def test_a_port_that_is_no_number_is_a_usage_error() -> None:
    text: Any = "five"
    with pytest.raises(UsageError, match="port five"):
        make_app().run(port=text)


def test_a_hangup_that_is_ignored_as_under_nohup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        make_app().run(on_ready=lambda app: (os.kill(os.getpid(), signal.SIGHUP), app.shutdown()))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_given_stop_event_ends_run() -> None:
    stop = threading.Event()
    stop.set()
    make_app(chat := ScriptedChat()).run(stop_event=stop)
    assert chat.closed.is_set()


def test_what_on_ready_raises_ends_run_and_reaches_the_caller() -> None:
    def refuse(_: ChatApp) -> None:
        raise UsageError("No tunnel.")

    chat = ScriptedChat()
    with pytest.raises(UsageError, match="No tunnel"):
        make_app(chat).run(on_ready=refuse)
    assert chat.closed.is_set()


def test_a_server_that_dies_ends_run_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ScriptedChat()
    monkeypatch.setattr("waitress.wasyncore.loop", lambda **_: None)
    with pytest.raises(ChatError, match="ended by itself"):
        make_app(chat).run()
    assert chat.closed.is_set()


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    with serving(make_app()) as app:
        answer(app, stream=True)
    assert set(threading.enumerate()) <= before


def test_a_chunked_body_over_the_limit_is_413_in_json() -> None:
    head = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    chunk = b"800\r\n" + b"a" * 2048 + b"\r\n0\r\n\r\n"
    with serving(make_app(max_body_bytes=1024)) as app:
        received = exchange(app, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b'"body_too_large"' in received


def test_a_request_without_a_host_is_refused_and_headers_without_end_too() -> None:
    with serving(make_app()) as app:
        assert exchange(app, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 403 ")
        endless = b"GET / HTTP/1.1\r\nHost: localhost\r\nx-a: " + b"a" * 20_000
        assert exchange(app, endless).startswith(b"HTTP/1.0 431 ")


def test_the_page_of_a_visitor_on_another_port_is_refused_over_real_sockets() -> None:
    with serving(make_app()) as app:
        head = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{app.bound_port}\r\nConnection: close\r\n"
        own = exchange(app, f"{head}Origin: http://127.0.0.1:{app.bound_port}\r\n\r\n".encode())
        other = exchange(app, f"{head}Origin: http://127.0.0.1:1\r\n\r\n".encode())
    assert own.startswith(b"HTTP/1.1 200 ")
    assert other.startswith(b"HTTP/1.1 403 ")
