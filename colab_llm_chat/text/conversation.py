"""Messages and tools as chat templates take them, and bent where a template refuses them as they are.

Knows no tokenizer and renders nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from ..protocol.body import sound
from ..protocol.messages import Message, Tool, ToolCall

SHORT_ID = 9


def tool_schema(tool: Tool) -> dict[str, Any]:
    """A tool as OpenAI writes it, which is what templates expect."""
    function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    if not tool.parameters:
        function["parameters"] = {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def as_dicts(messages: Sequence[Message], *, arguments_as_text: bool = False) -> list[dict[str, Any]]:
    """The messages as templates read them: a call's arguments are an object, where they are one."""
    return [_as_dict(message, arguments_as_text) for message in messages]


def _as_dict(message: Message, arguments_as_text: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [_call_dict(call, arguments_as_text) for call in message.tool_calls]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        out["name"] = message.name
    return out


def _call_dict(call: ToolCall, as_text: bool) -> dict[str, Any]:
    arguments = call.arguments if as_text else parsed(call.arguments)
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def parsed(arguments: str) -> Any:
    """The object that the JSON text holds; other text, and what no template could write, stays text."""
    try:
        value = sound(json.loads(arguments or "{}"))
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def mark_value(value: Any, mark: Callable[[str], str]) -> Any:
    """The JSON value with every string in it, keys too, as `mark` makes it."""
    if isinstance(value, str):
        return mark(value)
    if isinstance(value, dict):
        return {mark(str(key)): mark_value(one, mark) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [mark_value(one, mark) for one in value]
    return value


def tool_names(messages: Sequence[Message]) -> list[Message]:
    """Tool answers with the name of the call that they belong to: some templates want it, few clients send it."""
    names = {call.call_id: call.name for message in messages for call in message.tool_calls}
    return [
        replace(message, name=names.get(message.tool_call_id or ""))
        if message.role == "tool" and message.name is None
        else message
        for message in messages
    ]


def single_calls(messages: Sequence[Message]) -> list[Message]:
    """One call a message, each followed by its result: Llama 3's templates take no more."""
    out: list[Message] = []
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        if len(message.tool_calls) < 2:
            out.append(message)
            continue
        count = next((at for at, one in enumerate(rest) if one.role != "tool"), len(rest))
        results, rest = rest[:count], rest[count:]
        for at, call in enumerate(message.tool_calls):
            first = message if at == 0 else Message("assistant", "")
            out.append(replace(first, tool_calls=(call,)))
            out += [one for one in results if one.tool_call_id == call.call_id]
        known = {call.call_id for call in message.tool_calls}
        out += [one for one in results if one.tool_call_id not in known]
    return out


def without_reasoning(messages: Sequence[Message]) -> list[Message]:
    return [replace(message, reasoning="") for message in messages]


def with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """Call ids of nine letters or digits, which is what Mistral's templates insist on."""
    return [
        replace(
            message,
            tool_calls=tuple(replace(call, call_id=_short(call.call_id)) for call in message.tool_calls),
            tool_call_id=None if message.tool_call_id is None else _short(message.tool_call_id),
        )
        for message in messages
    ]


def _short(call_id: str) -> str:
    if len(call_id) == SHORT_ID and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:SHORT_ID]


def system_into_user(messages: Sequence[Message]) -> list[Message]:
    """The system prompt in front of the first user message, for templates without a system role."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    chat = [message for message in messages if message.role != "system"]
    if not system:
        return chat
    first = next((at for at, message in enumerate(chat) if message.role == "user"), None)
    if first is None:
        return [Message("user", system), *chat]
    chat[first] = Message("user", f"{system}\n\n{chat[first].content}")
    return chat


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role joined, and a user's turn first, for templates that demand the roles in turn.

    Tool calls and their answers stay as they are.
    """
    joined: list[Message] = []
    for (role, apart), group in groupby(messages, key=lambda one: (one.role, one.role == "tool" or one.tool_calls)):
        kept = list(group)
        joined += kept if apart or len(kept) == 1 else [Message(role, "\n\n".join(message.content for message in kept))]
    start = 1 if joined and joined[0].role == "system" else 0
    if joined[start:] and joined[start].role == "assistant":
        joined.insert(start, Message("user", ""))
    return joined
