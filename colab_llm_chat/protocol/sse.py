"""The lines of a server-sent-event stream (HTML standard, section 9.2). Knows no field of any event."""

from __future__ import annotations

import codecs
import json
from io import IncrementalNewlineDecoder
from typing import Any

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
OPEN = b": open\n\n"


def event(value: dict[str, Any]) -> bytes:
    """One event whose data is the value's JSON, on one line (JSON escapes line ends inside strings)."""
    return b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n\n"


class EventReader:
    """A stream's bytes, cut anywhere -> the data of each event; one that its end cuts off is none."""

    def __init__(self) -> None:
        characters = codecs.getincrementaldecoder("utf-8-sig")("replace")
        # LF, CR LF and CR all end a line; a CR at a cut waits for what comes behind it.
        self._decoder = IncrementalNewlineDecoder(characters, translate=True)
        self._line = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[str]:
        """The data of each event that these bytes end."""
        # Not by `splitlines`, to which further characters end a line.
        *lines, rest = self._decoder.decode(data).split("\n")
        found = []
        for line in lines:
            whole, self._line = self._line + line, ""
            if whole:
                self._take(whole)
            elif self._data:
                found.append("\n".join(self._data))
                self._data = []
        self._line += rest
        return found

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
