"""Splits replies by the `response_template` that some tokenizers bring, with transformers' own parser.

Knows transformers' events; its parser sees one letter at a time, so that a fault in it loses no more than a mark.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .calls import Tools, whole_call
from .conversation import tool_schema
from .pieces import Kind
from .splitting import Letters, Steps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KINDS: Mapping[str, Kind] = {
    "content": "text",
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "thinking": "reasoning",
}
# What its field parsers raise for a text that is not as they expect.
_FAULTS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Templated(Letters):
    """One reply; `prefix` is the prompt's text, whose end may have begun a part of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tools: Tools, prefix: str) -> None:
        template = copy.deepcopy(tokenizer.response_template)
        for field in template["fields"].values():
            field["optional"] = True
        schemas: list[dict[Any, Any] | Callable[..., Any]] = [tool_schema(tool) for tool in tools.values()]
        self._new_parser: Callable[[str], Any] = lambda before: tokenizer.get_response_parser(
            template, prefix=before, tools=schemas
        )
        self._parser = self._new_parser(prefix)
        self._tools = tools
        self._raw = ""
        self._part: str | None = None
        for event in self._parser.initial_events:
            self._part = None if event["type"] == "region_close" else event["field"]
        if self._part is not None and _KINDS.get(self._part) == "reasoning":
            self._pending: Kind | None = "reasoning"
        else:
            self._pending = None
        super().__init__(keeps_space=True)

    def split(self) -> Steps:
        if self._pending is not None:
            self.begin(self._pending)
        while letter := (yield):
            self._step(lambda one=letter: self._parser.feed(one))  # type: ignore[misc]
        self._step(lambda: self._parser.finalize()[1])

    def _step(self, step: Callable[[], list[dict[str, Any]]]) -> None:
        try:
            events = step()
        except _FAULTS:
            # The call that it could not read is text, and the rest is read anew.
            self.say("text", self._raw)
            self._raw, self._part = "", None
            self._parser = self._new_parser("")
            return
        for event in events:
            self._tell(event)

    def _tell(self, event: dict[str, Any]) -> None:
        kind = _KINDS.get(event["field"])
        if event["type"] == "region_open":
            self._raw = ""
            if kind is not None:
                self.begin(kind)
        elif event["type"] == "region_chunk" and kind is not None and not event["dirty"]:
            self.say(kind, event["text"])
        elif event["type"] == "region_chunk":
            self._raw += event["text"]
        elif kind is None:
            values = event["value"] if isinstance(event["value"], list) else [event["value"]]
            called = [self._call(value) for value in values]
            if not any(called):
                self.say("text", self._raw)
            self._raw = ""

    def _call(self, value: Any) -> bool:
        function = value.get("function", value) if isinstance(value, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or name not in self._tools:
            return False
        return whole_call(self, name, function.get("arguments", {}))
