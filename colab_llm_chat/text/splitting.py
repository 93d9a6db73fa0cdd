"""Ground that the splitters of the formats stand on: letters one by one, pieces out, white space at the parts' edges.

One letter at a time, so that no cut into feeds can matter. Knows no format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator
from contextlib import suppress
from typing import Any

from .pieces import Kind, Piece
from .stream import stop_may_begin

# A step is given letter by letter; the empty one is the end of the reply.
Steps = Generator[None, str, Any]


class Letters:
    """A splitter whose `split` takes letters with `yield` and says pieces. It ends only after an empty letter."""

    def __init__(self, *, keeps_space: bool, carries_on: bool = False) -> None:
        """`keeps_space`: white space at a text's end is not held, as no call follows; `carries_on`: text is before."""
        self._pieces: list[Piece] = []
        self._keeps_space = keeps_space
        self._space = ""
        self._fresh = False
        self._said: set[Kind] = set()
        self._last: Kind | None = "text" if carries_on else None
        self._steps = self.split()
        next(self._steps)

    def split(self) -> Steps:
        raise NotImplementedError

    def feed(self, text: str) -> list[Piece]:
        for letter in text:
            self._steps.send(letter)
        return self._take()

    def flush(self) -> list[Piece]:
        with suppress(StopIteration):
            while True:
                self._steps.send("")
        if self._last in (None, "text") and not self._fresh:
            self._add("text", self._space)
        return self._take()

    def begin(self, kind: Kind) -> None:
        """A part of its own begins: white space at its edges is the format's."""
        self._space, self._fresh = "\n\n" if kind in self._said else "", True

    def say(self, kind: Kind, text: str) -> None:
        if self._fresh:
            text = text.lstrip()
        if not text:
            return
        self._fresh = False
        text = self._space + text
        ended = len(text.rstrip())
        # What is only white space yet may still stand before reasoning.
        cut = len(text) if self._keeps_space and kind == "text" and (ended or self._last) else ended
        text, self._space = text[:cut], text[cut:]
        if text:
            self._last = kind
            self._said.add(kind)
            self._add(kind, text)

    def began(self, name: str) -> None:
        """A call of the tool of that name."""
        self._space, self._fresh, self._last = "", False, "call"
        self._pieces.append(Piece("call", name))

    def arguments(self, text: str) -> None:
        self._add("arguments", text)

    def ended(self) -> None:
        self._last = "called"
        self._pieces.append(Piece("called"))

    @property
    def nothing_said(self) -> bool:
        return self._last in (None, "reasoning")

    @property
    def just_called(self) -> bool:
        return self._last == "called"

    def until(self, marks: Callable[[], Collection[str]], kind: Kind) -> Generator[None, str, str]:
        """Says the letters up to one of the marks, and returns it; the empty one is the end."""
        held = ""
        while letter := (yield):
            held += letter
            now = tuple(marks())
            found = max((mark for mark in now if held.endswith(mark)), key=len, default="")
            if found:
                self.say(kind, held[: -len(found)])
                return found
            keep = stop_may_begin(held, now)
            self.say(kind, held[:keep])
            held = held[keep:]
        self.say(kind, held)
        return ""

    def _add(self, kind: Kind, text: str) -> None:
        if not text:
            return
        if self._pieces and self._pieces[-1].kind == kind:
            self._pieces[-1] = Piece(kind, self._pieces[-1].text + text)
        else:
            self._pieces.append(Piece(kind, text))

    def _take(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces


class Braces:
    """How deep in JSON's brackets a text is, letter by letter; what is in strings does not count."""

    def __init__(self) -> None:
        self.depth = 0
        self._in_string = False
        self._escaped = False

    def step(self, letter: str) -> int:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif letter == "\\":
                self._escaped = True
            elif letter == '"':
                self._in_string = False
        elif letter == '"':
            self._in_string = True
        elif letter in "{[":
            self.depth += 1
        elif letter in "}]":
            self.depth -= 1
        return self.depth


def loaded(text: str) -> Any:
    """The JSON value, None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
