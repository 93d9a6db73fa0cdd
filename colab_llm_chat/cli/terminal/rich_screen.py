"""The chat in a real terminal: Markdown that grows, a header that fills itself in, lines with a history."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.text import Text

from .keys import quiet_keys
from .markdown import THEME, ChatMarkdown, last_block, lines_of, paragraph, printable
from .region import Region
from .screen import LOADING, ReplyView, Rows

# Often enough to look smooth; rendering takes a few milliseconds.
PAINT_SECONDS = 0.05
PENDING = "…"
# What a model thinks before it answers is set apart from the answer.
THOUGHT = "dim italic"


class RichReply:
    """A reply as it grows: finished blocks stay as they are, the last one is painted anew."""

    def __init__(self, console: Console, region: Region, lock: threading.RLock) -> None:
        self._console, self._region, self._lock = console, region, lock
        self._keys = quiet_keys()
        self._keys.__enter__()
        self._is_open = True
        self._thinking, self._text = "", ""
        # Lines of finished blocks: rendered once, and mostly above the screen soon.
        self._done: list[str] = []
        self._due = 0.0
        self._is_shown = True

    def feed(self, text: str, reasoning: str) -> None:
        with self._lock:
            if text:
                self._end_thinking()
            self._thinking += printable(reasoning)
            self._text += printable(text)
            self._is_shown = False
            if time.monotonic() >= self._due:
                self._paint()

    def tick(self) -> None:
        """Show what came since the last painting."""
        with self._lock:
            if not self._is_shown:
                self._paint()

    def close(self) -> None:
        with self._lock:
            self._end_thinking()
            self._done, self._text = self._with(ChatMarkdown(self._text)), ""
            self._region.paint(self._done)
            self._region.finish()
            self._is_open = False
        self._keys.__exit__(None, None, None)

    def repaint(self) -> None:
        """Show again what is not finished, after something else was printed."""
        if self._is_open:
            self._paint()

    def _paint(self) -> None:
        begins = last_block(self._text)
        if begins:
            self._done, self._text = self._with(ChatMarkdown(self._text[:begins])), self._text[begins:]
        thought = self._thinking
        self._region.paint(self._with(paragraph(thought, THOUGHT) if thought else ChatMarkdown(self._text)))
        self._is_shown = True
        self._due = time.monotonic() + PAINT_SECONDS

    def _end_thinking(self) -> None:
        if self._thinking:
            self._done, self._thinking = self._with(paragraph(self._thinking, THOUGHT)), ""

    def _with(self, block: RenderableType) -> list[str]:
        """The finished lines, and below them those of a block."""
        lines = lines_of(self._console, block, self._region.width)
        if not any(lines):
            return self._done
        return [*self._done, *([""] if self._done else []), *lines]


class RichScreen:
    """A terminal of which the last lines may be painted anew. `read_line` is how a line is typed there."""

    leaves_by_interrupt = False

    def __init__(self, read_line: Callable[[str], str], console: Console | None = None) -> None:
        self._console = console or Console(theme=THEME, highlight=False)
        self._region = Region(self._console)
        self._read_line = read_line
        # A warning may come from another thread.
        self._lock = threading.RLock()
        self._live: RichReply | None = None

    def say(self, text: str, *, hang: int = 0) -> None:
        self._print(printable(text), "", hang=hang)

    def note(self, text: str) -> None:
        self._print(printable(text), "dim")

    def warn(self, text: str) -> None:
        self._print(printable(text), "yellow")

    def header(self, rows: Rows, progress: str | None) -> None:
        """All rows, those that are not known yet with an ellipsis; below them how far loading is."""
        texts = [Text.assemble((f"{name}: ", "dim"), value or PENDING) for name, value in rows]
        line = Text(LOADING if progress is None else f"{LOADING} {progress}", no_wrap=True, overflow="ellipsis")
        width = self._region.width
        with self._lock:
            self._region.paint([one for text in [*texts, line] for one in lines_of(self._console, text, width)])
            if progress is None:
                self._region.finish()

    def reply(self) -> ReplyView:
        self._live = RichReply(self._console, self._region, self._lock)
        return self._live

    def read(self, prompt: str) -> str:
        self._live = None
        return self._read_line(prompt)

    def _print(self, text: str, style: str, *, hang: int = 0) -> None:
        with self._lock:
            self._region.erase()
            for line in lines_of(self._console, paragraph(text, style, hang=hang), self._region.width):
                self._console.file.write(f"{line}\n")
            if self._live is not None:
                self._live.repaint()
