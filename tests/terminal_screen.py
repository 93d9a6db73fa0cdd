"""A terminal's screen with its scrollback, as far as the terminal chat uses it: what a person would see, as text."""

from __future__ import annotations

import re

from rich.cells import cell_len

CONTROL = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|[\r\n\x08]|[^\x1b]")
BEHIND_WIDE = "\0"


class ScreenText:
    """Feed it what a program writes. Lines above the screen's top can no longer be changed, as in a real one."""

    def __init__(self, *, width: int = 80, height: int = 24) -> None:
        self.width, self.height = width, height
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        for match in CONTROL.finditer(text):
            if match[2]:
                self._obey(match[1], match[2])
            else:
                self._write(match[0])

    def text(self, begin: int = 0) -> str:
        """All lines from this one on, without spaces at their ends."""
        lines = ["".join(row).replace(BEHIND_WIDE, "").rstrip() for row in self.rows[begin:]]
        return "\n".join(lines).rstrip("\n")

    @property
    def top(self) -> int:
        return max(0, len(self.rows) - self.height)

    def _write(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self._go_down()
        elif letter == "\x08":
            self.column = max(0, self.column - 1)
        elif size := cell_len(letter):
            if self.column + size > self.width:
                self.column = 0
                self._go_down()
            row = self.rows[self.row]
            row += " " * (self.column + size - len(row))
            row[self.column : self.column + size] = [letter, *BEHIND_WIDE * (size - 1)]
            self.column += size
        elif self.rows[self.row][: self.column]:
            # A part of the character before it.
            self.rows[self.row][self.column - 1] += letter

    def _go_down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])

    def _obey(self, given: str, command: str) -> None:
        count = int(given) if given.isdigit() else 1
        if command == "A":
            self.row = max(self.top, self.row - count)
        elif command == "C":
            self.column = min(self.width - 1, self.column + count)
        elif command == "D":
            self.column = max(0, self.column - count)
        elif command in "JK" and given in ("", "0"):
            del self.rows[self.row][self.column :]
            if command == "J":
                for row in self.rows[self.row + 1 :]:
                    row.clear()
