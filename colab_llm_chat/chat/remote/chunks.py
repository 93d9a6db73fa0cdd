"""The chunks of an upstream's reply -> deltas, and its end. Knows no network.

Takes what servers agree on, and what they call differently: where a thinking model's thoughts stand, for one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from ...errors.upstream import UpstreamFailed, UpstreamUnreadable
from ...protocol.messages import Delta, FinishReason, ReplyEnd, Usage
from .faults import plain, told_error

DONE = "[DONE]"
REASONS: dict[str, FinishReason] = {"length": "length", "tool_calls": "tool_calls"}
FILTERED = "The upstream's content filter ended this reply."


class Piece(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    # Some servers have objects there.
    reasoning: Any = None


class Choice(BaseModel):
    """`delta` of a stream, `message` of a whole reply, `text` of a raw one."""

    delta: Piece | None = None
    message: Piece | None = None
    text: str | None = None
    finish_reason: str | None = None


class Details(BaseModel):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Counts(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None


class Chunk(BaseModel):
    choices: list[Choice] | None = None
    usage: Counts | None = None
    notes: list[str] | None = None
    error: Any = None


class ChunkReader:
    """One reply. `feed` each event's data, then ask for the `end`; times go from `began`."""

    def __init__(self, began: float, *, dropped_messages: int = 0, key: str | None = None) -> None:
        self._began, self._key = began, key
        self._dropped_messages = dropped_messages
        self._first: float | None = None
        self._pieces = 0
        self._counts = Counts()
        self._reason: str | None = None
        self._notes: tuple[str, ...] = ()
        self.is_done = False

    def feed(self, data: str) -> Iterator[Delta]:
        """Raises the error that the upstream tells, and UpstreamUnreadable."""
        if data.strip() == DONE:
            self.is_done = True
        if self.is_done or not data.strip():
            return
        chunk = self._chunk(data)
        if chunk.error is not None:
            raise told_error({"error": chunk.error}, self._key)
        self._counts = chunk.usage or self._counts
        self._notes = tuple(map(plain, chunk.notes or ())) or self._notes
        for choice in (chunk.choices or [])[:1]:
            self._reason = choice.finish_reason or self._reason
            delta = _delta(choice)
            if not delta.is_ping:
                self._first = self._first or time.monotonic() - self._began
                self._pieces += 1
                yield delta

    def end(self) -> Delta:
        """The last delta. Raises UpstreamUnreadable where there was no reply, UpstreamFailed where it broke off."""
        if self._reason is None and not self.is_done:
            if self._first is None:
                raise UpstreamUnreadable("The upstream's answer has no reply in it.")
            raise UpstreamFailed("The upstream's reply broke off.")
        filtered = (FILTERED,) if self._reason == "content_filter" else ()
        return Delta(
            end=ReplyEnd(
                finish_reason=REASONS.get(self._reason or "", "stop"),
                usage=self._usage(),
                dropped_messages=self._dropped_messages,
                notes=(*self._notes, *filtered),
            )
        )

    def _chunk(self, data: str) -> Chunk:
        try:
            return Chunk.model_validate_json(data)
        except ValidationError:
            raise UpstreamUnreadable("The upstream's answer cannot be read.") from None

    def _usage(self) -> Usage:
        counts, seconds = self._counts, time.monotonic() - self._began
        # Who does not count sends about one token at a time.
        tokens = self._pieces if counts.completion_tokens is None else counts.completion_tokens
        prompt, completion = counts.prompt_tokens_details, counts.completion_tokens_details
        return Usage(
            prompt_tokens=counts.prompt_tokens or 0,
            completion_tokens=tokens,
            seconds=round(seconds, 3),
            tokens_per_second=round(tokens / seconds, 1) if seconds > 0 else 0.0,
            # Not told.
            context_length=0,
            first_token_seconds=None if self._first is None else round(self._first, 3),
            cached_tokens=(prompt.cached_tokens if prompt else None) or 0,
            reasoning_tokens=(completion.reasoning_tokens if completion else None) or 0,
        )


def _delta(choice: Choice) -> Delta:
    piece = choice.delta or choice.message or Piece(content=choice.text)
    elsewhere = piece.reasoning if isinstance(piece.reasoning, str) else ""
    return Delta(piece.content or "", reasoning=piece.reasoning_content or elsewhere)
