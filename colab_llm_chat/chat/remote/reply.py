"""One running reply of an upstream: a thread reads it, so that it can be left at any time. Knows no HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

from ...errors import ChatError
from ...protocol.messages import Delta
from .link import Link

# A reply's deltas; who makes them tells how many messages were dropped as soon as that is known.
Read = Callable[[Link, Callable[[int], None]], Iterator[Delta]]


class RemoteReply:
    """Iterate its deltas from one thread, cancel it from any. It begins at once."""

    def __init__(self, read: Read, *, ping_seconds: float, forget: Callable[[RemoteReply], None]) -> None:
        self._read, self._ping_seconds, self._forget = read, ping_seconds, forget
        self._link = Link()
        self._pieces: SimpleQueue[Delta | ChatError | None] = SimpleQueue()
        self._dropped: int | None = None
        self._is_over = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="upstream", daemon=True).start()

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        try:
            piece = None if self._is_over else self._pieces.get(timeout=self._ping_seconds)
        except Empty:
            return Delta()
        if isinstance(piece, Delta) and not self._link.is_cut:
            self._is_over = piece.end is not None
            return piece
        self._is_over = True
        if isinstance(piece, ChatError) and not self._link.is_cut:
            raise piece
        raise StopIteration

    @property
    def dropped_messages(self) -> int | None:
        """How many of the oldest messages the upstream left out; None until it answers."""
        return self._dropped

    def cancel(self) -> None:
        """End the reply: its connection is cut, by which the upstream knows; a waiting reader is released."""
        self._link.cut()
        self._pieces.put(None)
        self._forget(self)

    def _run(self) -> None:
        try:
            for delta in self._read(self._link, self._drop):
                self._pieces.put(delta)
        except ChatError as error:
            self._pieces.put(error)
        finally:
            self._pieces.put(None)
            self._forget(self)

    def _drop(self, count: int) -> None:
        self._dropped = count
