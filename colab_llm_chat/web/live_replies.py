"""The replies being served right now: one thread cancels those whose client left, `close` cancels them all.

Knows no route and no text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import ServerBusy
from ..protocol.messages import Delta, Reply

# A client that left is to be noticed within 0.1 s; to ask a hundred connections costs less than a millisecond.
POLL_SECONDS = 0.05


class LiveReply:
    """A reply while it is served; iterating it is iterating the reply."""

    def __init__(self, reply: Reply, has_left: Callable[[], bool], release: Callable[[LiveReply], None]) -> None:
        self._reply = reply
        self._has_left = has_left
        self._release = release
        self.cancelled = False

    def __iter__(self) -> Iterator[Delta]:
        return iter(self._reply)

    @property
    def dropped_messages(self) -> int | None:
        """Known once the reply's prompt is made."""
        return self._reply.dropped_messages

    def cancel_if_left(self) -> None:
        if not self.cancelled and self._has_left():
            self.cancel()

    def cancel(self) -> None:
        """End the reply before its time."""
        self.cancelled = True
        self._reply.cancel()

    def close(self) -> None:
        """The reply is over for its client: forget it, and stop what is still running of it."""
        self._release(self)
        self._reply.cancel()


class LiveReplies:
    """Registry of live replies with its watching thread, which sleeps while there are none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._live: set[LiveReply] = set()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def watch(self, reply: Reply, environ: Mapping[str, Any]) -> LiveReply:
        """Register a reply; under a server that cannot tell whether its client left, it counts as present."""
        has_left = environ.get("waitress.client_disconnected")
        live = LiveReply(reply, has_left or _never, self._release)
        with self._changed:
            if not self._closed.is_set():
                self._live.add(live)
                if has_left is not None:
                    self._ensure_watcher()
                self._changed.notify_all()
                return live
        reply.cancel()
        raise stopping()

    @property
    def count(self) -> int:
        return len(self._live)

    def close(self) -> None:
        """Cancel every reply, and every one that still comes."""
        with self._changed:
            self._closed.set()
            live = list(self._live)
            self._changed.notify_all()
        # Outside the lock: a reply that ends now takes itself off the list.
        for reply in live:
            reply.cancel()
        if self._watcher is not None:
            self._watcher.join()

    def _release(self, live: LiveReply) -> None:
        with self._changed:
            self._live.discard(live)

    def _ensure_watcher(self) -> None:
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="client-watcher", daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            with self._changed:
                self._changed.wait_for(lambda: self._live or self._closed.is_set())
                live = list(self._live)
            for reply in live:
                reply.cancel_if_left()


def stopping() -> ServerBusy:
    """The error of a reply that the server itself ended."""
    return ServerBusy(
        "The server is stopping, so this reply ends here.", hint="Start the server again, then send the message again."
    )


def _never() -> bool:
    return False
