"""The input of POST /v1/responses: a list of items (messages, thoughts, tool calls and their answers) -> messages.

Knows no other field of that body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..errors import UnsupportedParameter
from .body import fault
from .fields import Text
from .messages import Message, ToolCall
from .openai_messages import ROLES, Content

# Parts of a thought, which only their names tell from other text.
THOUGHT_PARTS = ("reasoning_text", "summary_text")

NEEDED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}


def _renamed_thoughts(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [
        {**part, "type": "text"} if isinstance(part, dict) and part.get("type") in THOUGHT_PARTS else part
        for part in value
    ]


Joined = Annotated[Content, BeforeValidator(_renamed_thoughts)]


def _by_type(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [
        {
            "properties": {"type": {"const": kind}},
            # Without a type it is a message.
            "required": [*(() if kind == "message" else ("type",)), *names],
        }
        for kind, names in NEEDED.items()
    ]


class InputItem(BaseModel):
    """One item of `input`. What is needed depends on `type`; one without is a message."""

    model_config = ConfigDict(strict=True, json_schema_extra=_by_type)

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Joined = None
    summary: Joined = None
    call_id: Text | None = None
    name: Text | None = None
    arguments: Text | None = None
    output: Joined = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in NEEDED[self.type]:
            if getattr(self, name) is None:
                raise fault(f"is a {self.type} without `{name}`")
        return self


def _listed(value: object) -> object:
    """`input` as a list: a string is one message of the user's. Raises UnsupportedParameter for references."""
    for at, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict) and item.get("type") == "item_reference":
            raise UnsupportedParameter(
                f"`input.{at}` is a reference to an earlier item; this server keeps none.",
                param=f"input.{at}",
                hint="Send the item itself as it came in the reply's `output`.",
            )
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _or_string(schema: dict[str, Any]) -> None:
    listed = {name: schema.pop(name) for name in list(schema)}
    schema["anyOf"] = [{"type": "string"}, listed]


InputItems = Annotated[list[InputItem], BeforeValidator(_listed), Field(min_length=1, json_schema_extra=_or_string)]


def messages_of(items: Sequence[InputItem]) -> tuple[Message, ...]:
    """The conversation: what the model thought, said and called without a break is one turn of its own."""
    turns: list[Message] = []
    names = {item.call_id: item.name for item in items if item.type == "function_call"}
    for item in items:
        _add(turns, _turn(item, names))
    # A thought that led to nothing has no place in a template.
    return tuple(turn for turn in turns if turn.role != "assistant" or turn.content or turn.tool_calls)


def _turn(item: InputItem, names: dict[str | None, str | None]) -> Message:
    if item.type == "function_call":
        call = ToolCall(call_id=item.call_id or "", name=item.name or "", arguments=item.arguments or "")
        return Message("assistant", "", tool_calls=(call,))
    if item.type == "function_call_output":
        return Message("tool", item.output or "", tool_call_id=item.call_id, name=names.get(item.call_id))
    if item.type == "reasoning":
        return Message("assistant", "", reasoning=item.content or item.summary or "")
    return Message(ROLES[item.role or "user"], item.content or "")


def _add(turns: list[Message], turn: Message) -> None:
    before = turns[-1] if turns else None
    if before is None or before.role != "assistant" or turn.role != "assistant" or not _goes_on(before, turn):
        turns.append(turn)
        return
    turns[-1] = replace(
        before,
        content=before.content + turn.content,
        reasoning=before.reasoning + turn.reasoning,
        tool_calls=before.tool_calls + turn.tool_calls,
    )


def _goes_on(before: Message, turn: Message) -> bool:
    """Whether the two are parts of one turn, whose order is thoughts, text, calls."""
    if turn.reasoning or turn.content:
        return not before.content and not before.tool_calls
    return True
