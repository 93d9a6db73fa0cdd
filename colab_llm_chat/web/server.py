"""Waitress in a daemon thread, with the settings measured for event streams; ended in an order that cuts no answer.

Knows WSGI, not what is served.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.server import create_server

from ..errors import ChatError, UsageError
from . import ports

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# A reply keeps its thread to its end; these answer the page, /health and what the full queue refuses.
SPARE_THREADS = 8
CONNECTION_LIMIT = 1_000
# Above what the app's own limit may be set to, so that 413 comes from the app, as JSON.
MAX_BODY_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 16 * 2**10
IDLE_SECONDS = 30
STALLED_SECONDS = 120
# A client that does not read holds at most this much of its reply, and its own thread until it counts as stalled.
MAX_UNREAD_BYTES = 64 * 2**10
FINISH_SECONDS = 2
CHECK_SECONDS = 0.5
ENDING_SIGNALS = ("SIGTERM", "SIGHUP")


class Server:
    """Listens from its making on, serves inside `with`. `end_replies` must make running requests finish soon.

    `on_drained` is called at the end, when they have finished and before what is left is cut.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        address: tuple[str, int],
        requests: int,
        end_replies: Callable[[], None],
        on_drained: Callable[[], None] = lambda: None,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        _hold_interrupts()
        listener = bound_socket(*address)
        self.host = address[0]
        self.port = int(listener.getsockname()[1])
        self._end_replies = end_replies
        self._on_drained = on_drained
        self._stalled_seconds = stalled_seconds
        self._waitress: Any = create_server(
            app,
            sockets=[listener],
            threads=requests + SPARE_THREADS,
            connection_limit=CONNECTION_LIMIT,
            # Only a connection that is still read tells that its client left.
            channel_request_lookahead=1,
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=1,
            max_request_body_size=MAX_BODY_BYTES,
            max_request_header_size=MAX_HEADER_BYTES,
            outbuf_high_watermark=MAX_UNREAD_BYTES,
            # select() cannot watch file numbers beyond 1,023, which a thousand connections pass.
            asyncore_use_poll=True,
            # The app itself decides whose forwarding headers it believes.
            clear_untrusted_proxy_headers=False,
            log_socket_errors=False,
            ident=None,
        )
        self._close_idle = self._waitress.maintenance
        self._waitress.maintenance = self._maintain
        self._thread = threading.Thread(target=self._waitress.run, name="web-server", daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop listening, let running requests say their last words, then cut what is left."""
        # Not the server's own close(): that also closes its trigger, which handlers may still pull.
        self._in_loop(lambda: wasyncore.dispatcher.close(self._waitress))
        self._end_replies()
        self._waitress.task_dispatcher.shutdown(timeout=FINISH_SECONDS)
        try:
            self._on_drained()
        finally:
            self._in_loop(self._cut_connections)
            self._waitress.task_dispatcher.shutdown(timeout=FINISH_SECONDS)
            self._in_loop(self._waitress.trigger.close)
            self._thread.join()

    def _maintain(self, now: float) -> None:
        """Waitress closes idle connections itself, but waits for ever for one whose client takes nothing."""
        self._close_idle(now)
        for channel in list(self._waitress.active_channels.values()):
            if channel.total_outbufs_len and channel.last_activity < now - self._stalled_seconds:
                channel.handle_close()

    def _cut_connections(self) -> None:
        for channel in list(self._waitress.active_channels.values()):
            channel.handle_close()

    def _in_loop(self, work: Callable[[], object]) -> None:
        """Run `work` in the server's own thread: its sockets may not be closed under its feet."""
        done = threading.Event()

        def run() -> None:
            try:
                work()
            finally:
                done.set()

        self._waitress.trigger.pull_trigger(run)
        while not done.wait(CHECK_SECONDS):
            if not self._thread.is_alive():
                run()


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises UsageError naming what to change."""
    try:
        # The form's field may hold it as text, which only bind() would take as it is.
        port = int(port or 0)
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, dualstack_ipv6=both)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "Choose another address or port: --port 0 takes a free one."
        japanese = f"ポート {port} を開けません。別のポート(--port)を指定してください。"
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            reason, hint, japanese = _taken(host, port)
        raise UsageError(f"Cannot listen on {host} port {port}: {reason}.", hint=hint, japanese=japanese) from error


def _taken(host: str, port: int) -> tuple[str, str, str]:
    """By whom, and what to do about it, in both languages."""
    holder, free = ports.holder_of(port), ports.next_free(host, port)
    way, end, end_japanese = holder, "End that program", "そのプログラムを終了する"
    if holder == ports.ITSELF:
        way, end, end_japanese = (
            "このプログラム自身",
            "Restart it (in a notebook: the runtime)",
            "ランタイムを再起動する",
        )
    hint = f"{end}, or choose another port: --port {free} is free, --port 0 takes any."
    japanese = f"ポート {port} は {way} が使用中です。{end_japanese}か、空いている --port {free} を指定してください。"
    return f"it is in use by {holder}", hint, japanese


def serve_until(stop: threading.Event, server: Server, *, on_ready: Callable[[], None]) -> None:
    """Block until `stop` is set, or SIGTERM, SIGHUP or Ctrl+C say the same. Raises ChatError if the server dies."""
    with contextlib.suppress(KeyboardInterrupt), _stopping_on_signals(stop):
        try:
            _release_interrupts()
            on_ready()
            # A wait with a limit lets signals in on every system and notices a dead server.
            while not stop.wait(CHECK_SECONDS):
                if not server.is_alive:
                    raise ChatError("The web server ended by itself.")
        finally:
            # What ends now would be cut short by an interrupt, and part of it left running.
            if _interrupts_come_once(_interrupt_once):
                signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM, and SIGHUP of a closed terminal, which Windows does not have; one ignored, as by nohup, stays so."""
    with contextlib.ExitStack() as undo:
        # Only the main thread may set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in ENDING_SIGNALS if hasattr(signal, name)):
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    undo.callback(signal.signal, number, before or signal.SIG_DFL)
                    signal.signal(number, lambda *_: stop.set())
        yield


@contextlib.contextmanager
def interrupted_once() -> Iterator[None]:
    """KeyboardInterrupt comes once at most: who presses stop twice must not be left with half of it running."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _interrupt_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Held:
    """SIGINT's handler while a server starts: an interrupt waits until there is a whole one to end."""

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self, *_: object) -> None:
        self.pressed = True


def _hold_interrupts() -> None:
    if _interrupts_come_once(_interrupt_once):
        signal.signal(signal.SIGINT, _Held())


def _release_interrupts() -> None:
    held = signal.getsignal(signal.SIGINT)
    if isinstance(held, _Held) and _interrupts_come_once(held):
        signal.signal(signal.SIGINT, _interrupt_once)
        if held.pressed:
            _interrupt_once()


def _interrupts_come_once(handler: object) -> bool:
    """Whether SIGINT is handled by this, in the only thread that may change it."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is handler


def _interrupt_once(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
