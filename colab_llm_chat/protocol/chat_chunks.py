"""The reply of POST /v1/chat/completions: chunks of its stream, and its JSON (OpenAI's `chat.completion`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import ChatError
from . import sse
from .chat_completions import ChatCompletionRequest
from .messages import Delta, ReplyEnd, ToolCallDelta
from .openai_reply import failed_events, finish_reason, logprob_fields, new_id, notes_fields, usage_fields


@dataclass(slots=True)
class _Choice:
    """What has come of one choice."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, ToolCallDelta] = field(default_factory=dict)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    end: ReplyEnd | None = None

    def take(self, delta: Delta) -> None:
        self.text.append(delta.text)
        self.reasoning.append(delta.reasoning)
        self.logprobs += map(logprob_fields, delta.logprobs)
        self.end = delta.end or self.end
        for piece in delta.tool_calls:
            begun = self.calls.get(piece.index, ToolCallDelta(piece.index))
            self.calls[piece.index] = ToolCallDelta(
                piece.index,
                begun.arguments + piece.arguments,
                begun.call_id or piece.call_id,
                begun.name or piece.name,
            )

    def message(self) -> dict[str, Any]:
        calls = [_call_fields(call) for _, call in sorted(self.calls.items())]
        text, reasoning = "".join(self.text), "".join(self.reasoning)
        return {
            "role": "assistant",
            # Beside calls, no text is null and not empty; clients tell one from the other.
            "content": None if calls and not text else text,
            "refusal": None,
            **({"reasoning_content": reasoning} if reasoning else {}),
            **({"tool_calls": calls} if calls else {}),
        }


class ChatCompletion:
    """The Wire of POST /v1/chat/completions. Choices come in any order, each with its index."""

    def __init__(self, request: ChatCompletionRequest) -> None:
        self._request = request
        self._choices = [_Choice() for _ in request.choices]
        self._logprobs_asked = request.choices[0].rules.top_logprobs is not None
        self._id = new_id("chatcmpl-")
        self._created = int(time.time())

    @property
    def ends(self) -> list[ReplyEnd]:
        return [choice.end for choice in self._choices if choice.end is not None]

    def opened(self) -> bytes:
        begun = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(at, begun) for at in range(len(self._choices)))

    def feed(self, choice: int, delta: Delta) -> bytes:
        self._choices[choice].take(delta)
        logprobs = [logprob_fields(token) for token in delta.logprobs]
        chunks = []
        for piece in _pieces(delta):
            chunks.append(self._chunk(choice, piece, logprobs=logprobs))
            logprobs = []
        if delta.end is not None:
            chunks.append(self._chunk(choice, {}, end=delta.end))
        return b"".join(chunks)

    def closed(self) -> bytes:
        if not self._request.include_usage:
            return sse.DONE
        return sse.event({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()}) + sse.DONE

    def failed(self, error: ChatError) -> bytes:
        return failed_events(error)

    def body(self) -> dict[str, Any]:
        choices = [
            {
                "index": at,
                "message": choice.message(),
                "logprobs": {"content": choice.logprobs, "refusal": None} if self._logprobs_asked else None,
                "finish_reason": finish_reason(choice.end) if choice.end else None,
            }
            for at, choice in enumerate(self._choices)
        ]
        told = notes_fields(self.ends)
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage(), **told}

    def _usage(self) -> dict[str, Any]:
        return usage_fields(self.ends)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._request.model}

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        *,
        logprobs: list[dict[str, Any]] | None = None,
        end: ReplyEnd | None = None,
    ) -> bytes:
        told = {
            "index": choice,
            "delta": delta,
            "logprobs": {"content": logprobs, "refusal": None} if logprobs else None,
            "finish_reason": None if end is None else finish_reason(end),
        }
        beside: dict[str, Any] = {"usage": None} if self._request.include_usage else {}
        beside |= {} if end is None else notes_fields([end])
        return sse.event({**self._head("chat.completion.chunk"), "choices": [told], **beside})


def _pieces(delta: Delta) -> Iterator[dict[str, Any]]:
    """The deltas on the wire, a kind each. Tokens that showed no text yet still have log-probabilities to tell."""
    if delta.reasoning:
        yield {"reasoning_content": delta.reasoning}
    if delta.text or (delta.logprobs and not delta.reasoning and not delta.tool_calls):
        yield {"content": delta.text}
    if delta.tool_calls:
        yield {"tool_calls": [_call_piece(piece) for piece in delta.tool_calls]}


def _call_piece(piece: ToolCallDelta) -> dict[str, Any]:
    if piece.name is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    return {"index": piece.index, **_call_fields(piece)}


def _call_fields(call: ToolCallDelta) -> dict[str, Any]:
    return {
        "id": call.call_id or "",
        "type": "function",
        "function": {"name": call.name or "", "arguments": call.arguments},
    }
