"""Splits replies in which marks stand around reasoning and tool calls: most families', and OpenAI's harmony.

Knows nothing of tokens: marks are text here.
"""

from __future__ import annotations

import re

from .calls import LONGEST_HEAD, Tools
from .formats import CallFormat, Thinking
from .pieces import Kind
from .splitting import Letters, Steps

_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")
_HARMONY_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")


class Marked(Letters):
    """Reasoning first, if there is any, then the answer with tool calls in it. `opened`: the prompt's end began the
    reasoning; `carries_on`: it ends in the middle of the answer.
    """

    def __init__(
        self, thinking: Thinking | None, calls: CallFormat | None, tools: Tools, *, opened: bool, carries_on: bool
    ) -> None:
        self._thinking = thinking
        self._calls = calls
        self._tools = tools
        self._opened = opened
        super().__init__(keeps_space=calls is None, carries_on=carries_on and not opened)

    def split(self) -> Steps:
        if self._opened and self._thinking is not None:
            yield from self._think(self._thinking)
        while mark := (yield from self.until(self._marks, "text")):
            if self._thinking is not None and mark == self._thinking.open:
                yield from self._think(self._thinking)
            elif self._calls is not None and mark != self._calls.close:
                begun = self._calls.begun_by(mark)
                read = yield from self._calls.read(self, self._tools, self._calls.close, begun=begun)
                if read is not None:
                    self.say("text", mark.removesuffix(begun) + read)

    def _think(self, thinking: Thinking) -> Steps:
        self._opened = True
        self.begin("reasoning")
        yield from self.until(lambda: (thinking.close,), "reasoning")
        self.begin("text")

    def _marks(self) -> tuple[str, ...]:
        marks: tuple[str, ...] = ()
        if self._thinking is not None and self.nothing_said and not self._opened:
            marks += (self._thinking.open,)
        if self._calls is not None:
            marks += self._calls.openings
            marks += self._calls.first_openings if self.nothing_said else ()
            if self.just_called:
                marks += (*self._calls.next_openings, *filter(None, (self._calls.close,)))
        return marks


class Harmony(Letters):
    """gpt-oss: messages with a header each; its channel tells reasoning from answer, its recipient a tool call."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        super().__init__(keeps_space=False)

    def split(self) -> Steps:
        mark = yield from self.until(lambda: ("<|start|>", "<|channel|>", " to=functions."), "text")
        while mark:
            if mark in ("<|end|>", "<|call|>", "<|return|>"):
                mark = yield from self.until(lambda: ("<|start|>", "<|channel|>"), "text")
                continue
            header = yield from self._header(mark)
            if not header:
                return
            if "<|message|>" not in header:
                self.say("text", header)
                mark = yield from self.until(lambda: _HARMONY_ENDS, "text")
                continue
            mark = yield from self._message(header)

    def _header(self, mark: str) -> Steps:
        header = mark
        while not header.endswith("<|message|>") and len(header) <= LONGEST_HEAD:
            letter = yield
            if not letter:
                return ""
            header += letter
        return header

    def _message(self, header: str) -> Steps:
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        if recipient is None or recipient[1] not in self._tools:
            kind: Kind = "reasoning" if channel is not None and channel[1] == "analysis" else "text"
            self.begin(kind)
            return (yield from self.until(lambda: _HARMONY_ENDS, kind))
        self.began(recipient[1])
        mark = yield from self.until(lambda: _HARMONY_ENDS, "arguments")
        if mark:
            self.ended()
        return mark
