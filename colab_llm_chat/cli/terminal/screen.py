"""What the chat asks of wherever it is shown, and the plainest such place: pieces printed as they come.

Plain is for a notebook's cell and for terminals that can do no more. Knows no chat.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from .harmless import harmless

Rows = Sequence[tuple[str, str]]
LOADING = "Loading model..."
PROGRESS_WIDTH = 72


class ReplyView(Protocol):
    """One reply while it comes."""

    def feed(self, text: str, reasoning: str) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


class Screen(Protocol):
    """Where a chat is shown."""

    # Whether an interrupt at the prompt is the only way out, as it is in a cell.
    leaves_by_interrupt: bool

    def say(self, text: str, *, hang: int = 0) -> None:
        """Lines of the program's own; those that a broken one goes on in begin after `hang` columns."""
        ...

    def note(self, text: str) -> None:
        """Something beside the conversation."""
        ...

    def warn(self, text: str) -> None:
        """Something that went wrong."""
        ...

    def header(self, rows: Rows, progress: str | None) -> None: ...
    def reply(self) -> ReplyView: ...
    def read(self, prompt: str) -> str:
        """What somebody types. Raises EOFError, KeyboardInterrupt."""
        ...


class PlainReply:
    """The pieces, one behind the other."""

    def __init__(self) -> None:
        self._thinking = False
        self._said = False

    def feed(self, text: str, reasoning: str) -> None:
        if reasoning:
            self._print(reasoning if self._thinking else f"(thinking) {reasoning}")
            self._thinking = True
        if text:
            self._print(f"\n\n{text}" if self._thinking else text)
            self._thinking = False

    def tick(self) -> None:
        """Everything is shown already."""

    def close(self) -> None:
        if self._said:
            print(flush=True)

    def _print(self, text: str) -> None:
        self._said = True
        print(harmless(text), end="", flush=True)


class PlainScreen:
    """Standard output as a sheet of paper; what is typed comes by `input`."""

    def __init__(self, *, leaves_by_interrupt: bool = False) -> None:
        self.leaves_by_interrupt = leaves_by_interrupt
        self._rows: list[tuple[str, str]] = []
        self._loading = ""

    def say(self, text: str, *, hang: int = 0) -> None:
        print(harmless(text), flush=True)

    def note(self, text: str) -> None:
        print(f"({harmless(text)})", flush=True)

    def warn(self, text: str) -> None:
        print(harmless(text), flush=True)

    def header(self, rows: Rows, progress: str | None) -> None:
        """The rows that are known and not shown yet; below them how far loading is."""
        if progress is None and self._loading:
            print("\r" + " " * PROGRESS_WIDTH + "\r", end="")
        new = [row for row in rows if row[1] and row not in self._rows]
        for name, value in new:
            print(f"{name}: {value}")
        self._rows += new
        if progress is not None and not self._loading:
            print(LOADING, flush=True)
        if progress is not None and progress != self._loading:
            self._loading = progress or " "
            print(f"\r{progress[:PROGRESS_WIDTH]:<{PROGRESS_WIDTH}}", end="", flush=True)

    def reply(self) -> ReplyView:
        return PlainReply()

    def read(self, prompt: str) -> str:
        # Else bytes that are no text would end the chat. Who has read from it before can set that no more.
        if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors != "replace":
            with suppress(io.UnsupportedOperation):
                sys.stdin.reconfigure(errors="replace")
        return input(prompt)
