"""What every door's reply can do, so that one place serves them all: take deltas, give events or one JSON body.

A wire knows its door's JSON; who serves it knows HTTP and which deltas come when.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..errors import ChatError
from .messages import Delta, ReplyEnd


class Wire(Protocol):
    """One request's reply, of one or more choices. Events are the bytes of an event stream, empty for none.

    Called in this order: `opened` once, `feed` for each delta that is no sign of life, of any choice; then `closed`
    after each choice's last delta, or `failed`. Without a stream their bytes are dropped, and `body` is asked for
    after `closed`.
    """

    def opened(self) -> bytes: ...
    def feed(self, choice: int, delta: Delta) -> bytes: ...
    def closed(self) -> bytes: ...

    def failed(self, error: ChatError) -> bytes:
        """The last events of a stream that broke; after them the stream ends."""
        ...

    def body(self) -> dict[str, Any]: ...

    @property
    def ends(self) -> list[ReplyEnd]:
        """Of the choices that have ended."""
        ...
