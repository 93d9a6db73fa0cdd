"""The reply of POST /v1/responses: the Response object, and the numbered events that build it up piece by piece.

Knows no field of the request: what the reply repeats of it is given as it is.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ChatError, InvalidRequest, QueueFull
from . import sse
from .messages import Delta, ReplyEnd, TokenLogprob, ToolCallDelta, Usage

Fields = dict[str, Any]


class _Item:
    """One output item while it grows. `name` is that of its events, `None` parts have no content of their own."""

    name = ""

    def __init__(self, kind: str, index: int) -> None:
        self.item_id = f"{kind}_{secrets.token_hex(12)}"
        self.index = index
        self.pieces: list[str] = []
        self.status = "in_progress"

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def fields(self) -> Fields:
        """The item as it stands in `output`."""
        raise NotImplementedError

    def part(self) -> Fields | None:
        """The content part that holds its text."""
        return None

    def details(self) -> Fields:
        """What its last event says beside its text."""
        return {"text": self.text}

    def opened(self) -> list[Fields]:
        # The item comes empty, its part after it: clients put the part into the item themselves.
        empty = self.fields() | ({"content": []} if self.part() else {})
        return [self._event("response.output_item.added", item=empty), *self._part_event("added")]

    def grown(self, piece: str, **details: Any) -> Fields:
        self.pieces.append(piece)
        return self._place(f"{self.name}.delta", delta=piece, **details)

    def closed(self, status: str) -> list[Fields]:
        self.status = status
        return [
            self._place(f"{self.name}.done", **self.details()),
            *self._part_event("done"),
            self._event("response.output_item.done", item=self.fields()),
        ]

    def _part_event(self, what: str) -> list[Fields]:
        part = self.part()
        return [self._place(f"response.content_part.{what}", part=part)] if part else []

    def _place(self, event: str, **fields: Any) -> Fields:
        content = {"content_index": 0} if self.part() else {}
        return self._event(event, item_id=self.item_id, **content, **fields)

    def _event(self, event: str, **fields: Any) -> Fields:
        return {"type": event, "output_index": self.index, **fields}


class _Reasoning(_Item):
    name = "response.reasoning_text"

    def __init__(self, index: int) -> None:
        super().__init__("rs", index)

    def fields(self) -> Fields:
        return {
            "id": self.item_id,
            "type": "reasoning",
            "summary": [],
            "content": [self.part()],
            "encrypted_content": None,
            "status": self.status,
        }

    def part(self) -> Fields:
        return {"type": "reasoning_text", "text": self.text}


class _Message(_Item):
    name = "response.output_text"

    def __init__(self, index: int) -> None:
        super().__init__("msg", index)
        self.logprobs: list[Fields] = []

    def fields(self) -> Fields:
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": self.status,
            "content": [self.part()],
        }

    def part(self) -> Fields:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}

    def details(self) -> Fields:
        return {"text": self.text, "logprobs": self.logprobs}


class _Call(_Item):
    name = "response.function_call_arguments"

    def __init__(self, index: int, begun: ToolCallDelta) -> None:
        super().__init__("fc", index)
        self.begun = begun

    def fields(self) -> Fields:
        return {
            "id": self.item_id,
            "type": "function_call",
            "status": self.status,
            "call_id": self.begun.call_id or "",
            "name": self.begun.name or "",
            "arguments": self.text,
        }

    def details(self) -> Fields:
        return {"name": self.begun.name or "", "arguments": self.text}


class _Output:
    """The items so far. One grows at a time: what a new one begins with ends the one before."""

    def __init__(self) -> None:
        self.items: list[_Item] = []
        self._current: tuple[object, ...] = ()
        # Of tokens whose text is still held back; whose it is shows when it comes.
        self._early: list[Fields] = []

    def feed(self, delta: Delta) -> list[Fields]:
        events = self._thought(delta.reasoning) if delta.reasoning else []
        events += self._said(delta) if delta.text or delta.logprobs else []
        for call in delta.tool_calls:
            events += self._called(call)
        return events

    def close(self, status: str) -> list[Fields]:
        """The end of the item that still grows, if any."""
        is_open = self._current != ()
        self._current = ()
        return self.items[-1].closed(status) if is_open else []

    def _thought(self, piece: str) -> list[Fields]:
        self._early.clear()
        opened = self._turned(("reasoning",), _Reasoning(len(self.items)))
        return [*opened, self.items[-1].grown(piece)]

    def _said(self, delta: Delta) -> list[Fields]:
        if not delta.reasoning and not delta.tool_calls:
            self._early += map(_logprob, delta.logprobs)
        if not delta.text:
            return []
        opened = self._turned(("message",), _Message(len(self.items)))
        logprobs, self._early = self._early, []
        message = self.items[-1]
        if isinstance(message, _Message):
            message.logprobs += logprobs
        return [*opened, message.grown(delta.text, logprobs=logprobs)]

    def _called(self, call: ToolCallDelta) -> list[Fields]:
        self._early.clear()
        opened = self._turned(("call", call.index), _Call(len(self.items), call))
        return [*opened, self.items[-1].grown(call.arguments)] if call.arguments else opened

    def _turned(self, kind: tuple[object, ...], begun: _Item) -> list[Fields]:
        if self._current == kind:
            return []
        closed = self.close("completed")
        self._current = kind
        opened = begun.opened()
        self.items.append(begun)
        return [*closed, *opened]


class ResponsesReply:
    """The Wire of POST /v1/responses. `repeated` are the fields of the request that the Response repeats."""

    def __init__(self, repeated: Mapping[str, Any], model: str) -> None:
        self._repeated = repeated
        self._model = model
        self._response_id = f"resp_{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._output = _Output()
        self._events_told = 0
        self.ends: list[ReplyEnd] = []

    def opened(self) -> bytes:
        begun = self._response("in_progress")
        return self._told(
            [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]
        )

    def feed(self, choice: int, delta: Delta) -> bytes:
        self.ends += [delta.end] if delta.end else []
        return self._told(self._output.feed(delta))

    def closed(self) -> bytes:
        status = self._outcome()
        events = self._output.close(status)
        events.append({"type": f"response.{status}", "response": self._response(status)})
        return self._told(events) + sse.DONE

    def failed(self, error: ChatError) -> bytes:
        # The failed Response comes first: SDKs raise at the error event and read no further.
        for item in self._output.items:
            item.status = "incomplete" if item.status == "in_progress" else item.status
        response = self._response("failed", error=_told_error(error))
        told = {"type": "error", **_without_type(error.to_dict()), "error": error.to_dict()}
        return self._told([{"type": "response.failed", "response": response}, told]) + sse.DONE

    def body(self) -> Fields:
        return self._response(self._outcome())

    def _outcome(self) -> str:
        return "completed" if self.ends[0].finish_reason in ("stop", "tool_calls") else "incomplete"

    def _response(self, status: str, *, error: Fields | None = None) -> Fields:
        return {
            "id": self._response_id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._model,
            "output": [item.fields() for item in self._output.items],
            **self._repeated,
            "usage": _usage(self.ends[0].usage) if self.ends else None,
        }

    def _told(self, events: Iterable[Fields]) -> bytes:
        told = b""
        for event in events:
            numbered = {**event, "sequence_number": self._events_told}
            told += b"event: " + str(event["type"]).encode() + b"\n" + sse.event(numbered)
            self._events_told += 1
        return told


def _usage(usage: Usage) -> Fields:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _logprob(token: TokenLogprob) -> Fields:
    return {**_token(token), "top_logprobs": [_token(one) for one in token.top]}


def _token(token: TokenLogprob) -> Fields:
    return {"token": token.text, "bytes": list(token.data), "logprob": token.logprob}


def _told_error(error: ChatError) -> Fields:
    """A failed Response's `error`, whose codes are a closed list; the error event has our own."""
    code = "server_error"
    if isinstance(error, InvalidRequest):
        code = "invalid_prompt"
    elif isinstance(error, QueueFull):
        code = "rate_limit_exceeded"
    return {**error.to_dict(), "code": code}


def _without_type(error: Mapping[str, Any]) -> Fields:
    return {name: value for name, value in error.items() if name != "type"}
