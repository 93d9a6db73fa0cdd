"""A reply, read by a thread of its own: whoever waits for its pieces can do other things between them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from ...errors import ChatError
from ...protocol.messages import Delta, Reply


class Pump:
    """The pieces of a reply, from a thread that waits for them."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._pieces: SimpleQueue[Delta | ChatError | None] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def pieces(self, *, every: float) -> Iterator[Delta | None]:
        """Each delta as it comes, and None after every so many seconds without one. Raises what ended the reply."""
        while True:
            try:
                piece = self._pieces.get(timeout=every)
            except Empty:
                yield None
                continue
            if piece is None:
                return
            if isinstance(piece, ChatError):
                raise piece
            yield piece

    def _read(self) -> None:
        try:
            for delta in self._reply:
                self._pieces.put(delta)
        except ChatError as error:
            self._pieces.put(error)
        finally:
            self._pieces.put(None)
