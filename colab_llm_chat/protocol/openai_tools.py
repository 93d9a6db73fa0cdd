"""Tools, tool choice and response format, as the bodies of the OpenAI door have them.

Whether the model's template knows tools, and whether a schema can be kept to, is found out further on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from ..errors import InvalidRequest
from .body import fault, sound
from .fields import JsonObject, Text
from .messages import Tool, ToolUse

MAX_TOOLS = 128
FUNCTION_NAME = re.compile(r"[\w.:/-]{1,128}")
Choice = Literal["auto", "none", "required", "named"]


def _function_name(value: object) -> object:
    if isinstance(value, str) and not FUNCTION_NAME.fullmatch(value):
        raise fault("must be 1 to 128 letters, digits or characters of _.:/-")
    return value


FunctionName = Annotated[
    str, BeforeValidator(_function_name), WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z0-9_.:/-]{1,128}$"})
]


class FunctionSpec(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(strict=True)

    name: FunctionName
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        return Tool(
            name=self.name,
            description=self.description or "",
            parameters=self.parameters or {},
            strict=bool(self.strict),
        )


class ToolSpec(BaseModel):
    """One of `tools`; functions are the only kind."""

    model_config = ConfigDict(strict=True)

    type: Literal["function"]
    function: FunctionSpec


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`name` is set where the choice is one function."""

    choice: Choice
    name: str | None = None


def _tool_choice(value: object) -> object:
    match value:
        case None:
            return None
        case "auto":
            return ToolChoice("auto")
        case "none":
            return ToolChoice("none")
        case "required" | "any":
            return ToolChoice("required")
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return ToolChoice("named", name)
    raise fault('must be "auto", "none", "required" or {"type": "function", "function": {"name": "…"}}')


def _json_schema(value: object) -> object:
    """The schema that the reply must keep to; None for plain text."""
    match value:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return sound(schema)
        case {"type": "json_schema", "json_schema": dict(named)} if named.get("schema") is None:
            return {}
    raise fault('must be of type "text", "json_object", or "json_schema" with a `json_schema` that has a `schema`')


_NAMED = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
    "required": ["type", "function"],
}
_SCHEMA_FORMAT = {
    "type": "object",
    "properties": {
        "type": {"const": "json_schema"},
        "json_schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "description": {"type": "string"},
                "schema": {"type": "object"},
                "strict": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            },
            "required": ["schema"],
        },
    },
    "required": ["type", "json_schema"],
}
_PLAIN_FORMAT = {
    "type": "object",
    "properties": {"type": {"enum": ["text", "json_object"]}},
    "required": ["type"],
}
ToolChoiceField = Annotated[
    Any,
    BeforeValidator(_tool_choice),
    WithJsonSchema({"anyOf": [{"enum": ["auto", "none", "required"]}, _NAMED, {"type": "null"}]}),
]
ResponseFormat = Annotated[
    Any, BeforeValidator(_json_schema), WithJsonSchema({"anyOf": [_PLAIN_FORMAT, _SCHEMA_FORMAT, {"type": "null"}]})
]


def tool_use(tools: Sequence[Tool], choice: ToolChoice | None, *, parallel: bool | None) -> ToolUse | None:
    """The tools with how they may be used; None without tools. Raises InvalidRequest."""
    names = [tool.name for tool in tools]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise InvalidRequest(f"`tools.{at}` has the name of another one, `{name}`.", param=f"tools.{at}")
    wanted = choice or ToolChoice("auto")
    if wanted.name is not None and wanted.name not in names:
        raise InvalidRequest("`tool_choice` names a function that is not in `tools`.", param="tool_choice")
    if wanted.choice == "required" and not tools:
        raise InvalidRequest("`tool_choice` asks for a call, but there are no `tools`.", param="tool_choice")
    if not tools:
        return None
    return ToolUse(tools=tuple(tools), choice=wanted.choice, name=wanted.name, parallel=parallel is not False)
