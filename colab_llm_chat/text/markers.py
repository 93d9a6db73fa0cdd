"""Where the turns of a form are parted by plain text: messages kept from speaking for it, and a reply that does ended.

Knows no family by name, and nothing of templates or token ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from ..protocol.messages import Message
from .verbatim import NONCHARACTERS

_GAPS = ("\n\n", "\n")
_COLONS = (":", "：")


class FamilyForm(Protocol):
    """What a family's form needs beside its template; see models.families.Family."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def own_labels(self) -> tuple[str, ...]: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def ends(self) -> tuple[str, ...]: ...
    @property
    def opened(self) -> bool: ...


class Markers:
    """The plain text that parts the turns of one form; `stop` are the strings that a reply ends before."""

    def __init__(self, form: FamilyForm) -> None:
        self.stop = (
            *(gap + label + colon for gap in _GAPS for label in form.labels for colon in _COLONS),
            *(gap + tag for gap in (*_GAPS, " ", "") for tag in (*form.tags, *form.ends)),
        )
        labels = _any_of((*form.labels, *form.own_labels))
        self._label_line = re.compile(rf"^(?=[ \t　]*(?:{labels})[ \t　]*[:：])", re.MULTILINE)
        self._tag = re.compile(_any_of(form.tags))

    def quoted(self, message: Message) -> Message:
        """The message with lines that look like a turn's quoted, and the form's tags broken by a space."""
        text = self._label_line.sub("> ", NONCHARACTERS.sub("", message.content))
        text = self._tag.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return message if text == message.content else replace(message, content=text)


def _any_of(texts: Iterable[str]) -> str:
    return "|".join(map(re.escape, texts)) or "(?!)"
