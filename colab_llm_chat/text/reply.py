"""A reply's text to deltas of answer, reasoning and tool calls: `feed` / `flush`.

Knows no format: a splitter finds the parts. Knows nothing of token ids or HTTP.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable

from ..protocol.messages import Delta, ToolCallDelta
from .pieces import Piece, Splitter
from .stream import stop_may_begin

_ID_LETTERS = string.ascii_letters + string.digits


class ReplyParser:
    """One reply. `called`: it has a tool call. `stopped`: a stop string or the only call that was allowed is over;
    from then on every feed gives an empty delta.

    `shown_ids` are the special tokens that mark reasoning or tool calls, for the TextStream in front, which also
    takes `stream_stop`; stop strings that only the answer may match are found here.
    """

    def __init__(
        self,
        splitter: Splitter,
        *,
        shown_ids: frozenset[int] = frozenset(),
        stream_stop: tuple[str, ...] = (),
        answer_stop: tuple[str, ...] = (),
        parallel: bool = True,
    ) -> None:
        self._splitter = splitter
        self.shown_ids = shown_ids
        self.stream_stop = stream_stop
        self._stop = tuple(one for one in answer_stop if one)
        self._parallel = parallel
        self._held = ""
        self._calls = 0
        self.stopped = False

    @property
    def called(self) -> bool:
        return self._calls > 0

    def feed(self, text: str) -> Delta:
        """What this text brings; may be empty."""
        return self._delta(self._splitter.feed(text) if not self.stopped else [], final=False)

    def flush(self) -> Delta:
        """What was held back, when no more text comes."""
        return self._delta(self._splitter.flush() if not self.stopped else [], final=True)

    def _delta(self, pieces: Iterable[Piece], *, final: bool) -> Delta:
        text, reasoning, calls = "", "", list[ToolCallDelta]()
        for piece in pieces:
            if self.stopped:
                break
            if piece.kind == "text":
                text += self._answer(piece.text)
            elif piece.kind == "reasoning":
                reasoning += piece.text
            elif piece.kind == "called":
                self.stopped = not self._parallel
            else:
                text += self._release()
                calls.append(self._call(piece))
        if final:
            text += self._release()
        return Delta(text, reasoning=reasoning, tool_calls=tuple(calls))

    def _answer(self, text: str) -> str:
        """The text up to the first stop string, without an end that may become one."""
        held = self._held + text
        maybe = stop_may_begin(held, self._stop)
        found = min((at for at in map(held.find, self._stop) if at >= 0), default=len(held) + 1)
        self.stopped = found <= maybe
        end = found if self.stopped else maybe
        self._held = "" if self.stopped else held[end:]
        return held[:end]

    def _release(self) -> str:
        text, self._held = self._held, ""
        return text

    def _call(self, piece: Piece) -> ToolCallDelta:
        if piece.kind == "arguments":
            return ToolCallDelta(self._calls - 1, piece.text)
        self._calls += 1
        return ToolCallDelta(self._calls - 1, call_id=new_call_id(), name=piece.text)


def new_call_id() -> str:
    """As OpenAI's: nobody has to know how many there were."""
    return "call_" + "".join(secrets.choice(_ID_LETTERS) for _ in range(24))
