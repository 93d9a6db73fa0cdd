"""The last lines of the screen, repainted where they change. Knows nothing of what they say.

What has scrolled off the top is never touched again: a long reply stays whole in the scrollback.
"""

from __future__ import annotations

from itertools import takewhile

from rich.console import Console

TO_LINE_START = "\r"
UP = "\x1b[{}A"
ERASE_BELOW = "\x1b[J"


class Region:
    """Lines that end with the cursor behind the last one, and become part of the scrollback by `finish`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._painted: list[str] = []
        # Lines of this region that are above the screen.
        self._gone = 0
        self._width = console.width

    @property
    def width(self) -> int:
        """Columns to write in: a line that fills the last one leaves the cursor where terminals disagree."""
        return max(10, self._console.width - 1)

    def paint(self, lines: list[str]) -> None:
        """Show these lines in place of those before; with as few written anew as can be."""
        if self._width != self._console.width:
            self._start_below()
        visible = lines[self._gone :]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._painted, visible, strict=False)))
        if same == len(self._painted) == len(visible):
            return
        if same == len(visible) > 0:
            # The cursor belongs behind the last line.
            same -= 1
        self._write(self._back_to(same) + "\n".join(visible[same:]))
        kept = max(1, self._console.height - 1)
        self._gone += max(0, len(visible) - kept)
        self._painted = visible[-kept:]

    def finish(self) -> None:
        """Leave what is shown and go to the next line."""
        if self._painted or self._gone:
            self._write("\n")
        self._painted, self._gone = [], 0

    def erase(self) -> None:
        """Take away what can still be taken away; the next `paint` shows it again."""
        if self._painted:
            self._write(self._back_to(0))
            self._painted = []

    def _back_to(self, line: int) -> str:
        """The way from the end of the last line to the beginning of this one, with all from there on erased."""
        if not self._painted:
            return ""
        if line == len(self._painted):
            return "\n"
        up = len(self._painted) - 1 - line
        return TO_LINE_START + (UP.format(up) if up else "") + ERASE_BELOW

    def _start_below(self) -> None:
        """A window of another width has broken its lines anew: nobody knows where they begin now."""
        if self._painted:
            self._write("\n")
        self._painted, self._width = [], self._console.width

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
