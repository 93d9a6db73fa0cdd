"""What a reply's text is made of, as whoever splits it tells it: answer, reasoning, tool calls.

Knows no format and no tokenizer.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

Kind = Literal["text", "reasoning", "call", "arguments", "called"]


class Piece(NamedTuple):
    """`call` opens a call of the tool `text`, pieces of its `arguments` follow, and `called` closes it."""

    kind: Kind
    text: str = ""


class Splitter(Protocol):
    """Splits one reply. Joined, the pieces are the same whatever the cut into feeds."""

    def feed(self, text: str) -> list[Piece]: ...

    def flush(self) -> list[Piece]:
        """What was held back, when no more text comes."""
        ...


class Unsplit:
    """A reply that is all answer."""

    def feed(self, text: str) -> list[Piece]:
        return [Piece("text", text)]

    def flush(self) -> list[Piece]:
        return []
