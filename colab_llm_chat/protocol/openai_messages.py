"""The `messages` of a chat completion -> the conversation as every door has it.

Knows no other field of the body, and no template: what a model cannot take of it is found out further on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails

from ..errors import InvalidRequest
from ..settings import Settings
from .body import fault, refuse_long, well_formed
from .fields import Text
from .messages import Message, Role, ToolCall, system_first

# Which key of a part holds its text. The last three come back in conversations that began at /v1/responses or were
# refused elsewhere.
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"enum": ["text", "input_text", "output_text"]}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
CONTENT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": PART_SCHEMA}, {"type": "null"}]}
ARGUMENTS_SCHEMA = {"type": "string", "description": "The JSON text of an object."}
# Every role that is sent, by ours.
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def _part_text(at: int, part: object) -> str:
    kind = part.get("type", "text") if isinstance(part, dict) else None
    text = part.get(TEXT_PARTS.get(kind, "")) if isinstance(part, dict) and isinstance(kind, str) else None
    if isinstance(text, str):
        return well_formed(text)
    wrong = fault('must be a part like {"type": "text", "text": "…"}; this model takes text only')
    raise ValidationError.from_exception_data("part", [InitErrorDetails(type=wrong, loc=(at,), input=None)])


def _joined(value: object) -> object:
    """A string as it is, the texts of a list of parts joined."""
    if isinstance(value, list):
        return "".join(_part_text(at, part) for at, part in enumerate(value))
    return well_formed(value) if isinstance(value, str) else value


def _as_json(value: object) -> object:
    # Some clients send the arguments back as the object that they parsed.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


Content = Annotated[str | None, BeforeValidator(_joined), WithJsonSchema(CONTENT_SCHEMA)]
Arguments = Annotated[Text, BeforeValidator(_as_json), WithJsonSchema(ARGUMENTS_SCHEMA)]


class CalledFunction(BaseModel):
    model_config = ConfigDict(strict=True)

    name: Text
    arguments: Arguments = "{}"


class CalledTool(BaseModel):
    """A call that the model made earlier in the conversation."""

    model_config = ConfigDict(strict=True)

    id: Text | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class ChatMessage(BaseModel):
    """One of `messages`; which fields mean something depends on the role."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None
    name: Text | None = None
    tool_calls: list[CalledTool] | None = None
    function_call: CalledFunction | None = Field(None, description="What tool_calls was in older conversations.")
    tool_call_id: Text | None = None
    refusal: Text | None = None
    reasoning_content: Text | None = None
    reasoning: Any = None


def conversation(sent: Sequence[ChatMessage], settings: Settings) -> tuple[Message, ...]:
    """The messages in their order, but for those of system and developer, which are joined in front.

    Raises InvalidRequest. Without any system message, the server's own comes first.
    """
    called: dict[str, str] = {}
    messages = tuple(_message(at, one, called) for at, one in enumerate(sent))
    # The assistant's own must be able to come back, however long they are.
    said = {f"messages.{at}.content": one.content for at, one in enumerate(messages) if one.role != "assistant"}
    refuse_long(said, settings.max_message_characters)
    whole = system_first(messages, default=settings.system)
    if not whole:
        raise InvalidRequest("`messages` has nothing to answer.", param="messages", hint="Send what the user says.")
    return whole


def _message(at: int, sent: ChatMessage, called: dict[str, str]) -> Message:
    """`called` keeps the names of the calls so far by their ids: templates want them in a tool's answer, too."""
    if sent.role == "user" and sent.content is None:
        raise InvalidRequest(f"`messages.{at}.content` is missing.", param=f"messages.{at}.content")
    calls = tuple(_calls(sent))
    called.update((call.call_id, call.name) for call in calls if call.call_id)
    reasoning = sent.reasoning_content or (sent.reasoning if isinstance(sent.reasoning, str) else "")
    return Message(
        role=ROLES[sent.role],
        content=sent.content or sent.refusal or "",
        tool_calls=calls,
        tool_call_id=sent.tool_call_id,
        name=sent.name or called.get(sent.tool_call_id or ""),
        reasoning=well_formed(reasoning),
    )


def _calls(sent: ChatMessage) -> Iterator[ToolCall]:
    if sent.role != "assistant":
        return
    for call in sent.tool_calls or ():
        yield ToolCall(call_id=call.id or "", name=call.function.name, arguments=call.function.arguments)
    if sent.function_call is not None:
        yield ToolCall(call_id="", name=sent.function_call.name, arguments=sent.function_call.arguments)
