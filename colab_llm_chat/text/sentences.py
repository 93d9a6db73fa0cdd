"""Near a deadline: a reply's text cut at sentence ends. Knows no clock; the time is told to it."""

from __future__ import annotations

import re

_WIDE_END = "[。．！？…]++[。．！？…!?]*+"
_NARROW_END = r"(?:(?<!\d)\.|[!?])[.!?]*+"
_CLOSING = "[\"'”’」』）)】〉》\\]*_]*+"
# An end counts when the next character is known: a closing bracket still belongs to the sentence, `3.` may be `3.14`.
_SENTENCE_END = re.compile(rf"{_WIDE_END}{_CLOSING}(?=[\s\S])|{_NARROW_END}{_CLOSING}(?=\s|[^\x00-\x7f])|(?<=\S)(?=\n)")
_REACH = 16


class SentenceCutter:
    """Near a deadline: passes whole sentences only. Time is told to it: `soft` is true once the soft deadline is over.

    White space after a sentence stays with the next one, so that a reply cut here can be carried on as it is.
    """

    def __init__(self) -> None:
        self._before = ""
        self._kept = ""
        self.at_sentence_end = False

    def feed(self, text: str, *, soft: bool) -> str:
        """All of the text while `soft` is false; then what reaches a sentence end."""
        self._kept += text
        return self._give(self._last_end(self._kept) if soft else len(self._kept), sentence=soft)

    def flush(self) -> str:
        """What was kept back, when the reply ended by itself."""
        return self._give(len(self._kept), sentence=False)

    def cut(self) -> str:
        """What may still go out at the hard deadline: whole sentences, or all if the reader sees half of one."""
        out = self._give(self._last_end(self._kept + " "), sentence=True)
        if not self.at_sentence_end:
            out += self._give(len(self._kept), sentence=False)
        self._kept = ""
        return out

    def _last_end(self, text: str) -> int:
        """End of the last whole sentence in `text`, 0 if it stands right before it, -1 if there is none."""
        whole = self._before + text
        ends = [match.end() for match in _SENTENCE_END.finditer(whole)]
        return max(ends[-1] - len(self._before), -1) if ends else -1

    def _give(self, end: int, *, sentence: bool) -> str:
        out, self._kept = self._kept[: max(end, 0)], self._kept[max(end, 0) :]
        self._before = (self._before + out)[-_REACH:]
        self.at_sentence_end = sentence and end >= 0
        return out
