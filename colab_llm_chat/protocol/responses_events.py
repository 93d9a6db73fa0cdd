"""The reply of POST /v1/responses: the Response object, or the numbered events that build it up piece by piece.

Knows no field of the request: what the reply repeats of it is given as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ChatError, InvalidRequest, QueueFull
from . import sse
from .messages import Delta, ReplyEnd, Usage
from .openai_reply import new_id, notes_fields
from .responses_output import Fields, Output


class ResponsesReply:
    """The Wire of POST /v1/responses. `repeated` are the fields of the request that the Response repeats."""

    def __init__(self, repeated: Mapping[str, Any], model: str) -> None:
        self._repeated = repeated
        self._model = model
        self._response_id = new_id("resp_")
        self._created = int(time.time())
        self._output = Output()
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
        # Clients look into the first message without asking whether there is one.
        events = self._output.close(status) if self._output.items else self._output.say_nothing(status)
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
            **notes_fields(self.ends),
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
