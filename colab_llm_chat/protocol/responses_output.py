"""The output items of a Response (thoughts, message, tool calls) as they grow, and the events that tell of it.

Knows nothing of the Response around them.
"""

from __future__ import annotations

from typing import Any

from .messages import Delta, TokenLogprob, ToolCallDelta
from .openai_reply import logprob_fields, new_id

Fields = dict[str, Any]


class _Item:
    """One output item while it grows. `name` is that of its events, `None` parts have no content of their own."""

    name = ""

    def __init__(self, kind: str, index: int) -> None:
        self.item_id = new_id(f"{kind}_")
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


class Output:
    """The items so far. One grows at a time: what a new one begins with ends the one before."""

    def __init__(self) -> None:
        self.items: list[_Item] = []
        self._current: tuple[object, ...] = ()
        # Of tokens whose text is still held back; whose it is shows when it comes.
        self._early: list[TokenLogprob] = []

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

    def say_nothing(self, status: str) -> list[Fields]:
        """An empty message, for a reply that has nothing else."""
        return [*self._turned(("message",), _Message(0)), *self.close(status)]

    def _thought(self, piece: str) -> list[Fields]:
        self._early.clear()
        opened = self._turned(("reasoning",), _Reasoning(len(self.items)))
        return [*opened, self.items[-1].grown(piece)]

    def _said(self, delta: Delta) -> list[Fields]:
        if delta.text or not (delta.reasoning or delta.tool_calls):
            self._early += delta.logprobs
        if not delta.text:
            return []
        opened = self._turned(("message",), _Message(len(self.items)))
        message = self.items[-1]
        found = _of_text(self._early, delta.text) if opened else self._early
        self._early = []
        logprobs = [logprob_fields(token) for token in found]
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


def _of_text(tokens: list[TokenLogprob], text: str) -> list[TokenLogprob]:
    """Without the tokens that came before the text: those of a thought, of its mark, of space that the form wants."""
    wanted = text.encode()
    for first in range(len(tokens)):
        told = b"".join(token.data for token in tokens[first:])
        if told.startswith(wanted) or wanted.startswith(told):
            return tokens[first:]
    return tokens
