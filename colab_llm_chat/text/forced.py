"""Grammars, as llguidance reads them, that keep a reply to tool calls or JSON, with the model's reasoning before it.

Writes each format's own syntax, so that what is forced is what the model was trained on. Compiles nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..protocol.messages import Tool
from .grammar import STRICT

# As models write JSON in calls: on one line, with a space after each comma and colon.
_SPACING = {"item_separator": ", ", "key_separator": ": "}
TEXT = r"/(.|\n)*/"
GAP = r"/[ \n]{0,4}/"


def literal(text: str) -> str:
    """Lark's string."""
    return json.dumps(text, ensure_ascii=False)


def inline_json(schema: Mapping[str, Any]) -> str:
    """Compact JSON of a schema, all of which llguidance must be able to enforce."""
    return _json(schema or {"type": "object"}, STRICT)


def _json(schema: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)


def _spaced(schema: Mapping[str, Any], *, lenient: bool) -> str:
    """JSON as in tool calls; `lenient`: parts of the schema that llguidance does not know are left out."""
    return _json(schema, {**STRICT, **_SPACING, "lenient": lenient})


class Grammar:
    """One grammar's rules as they are gathered. `token_id` gives the id of a mark that is one token."""

    def __init__(self, token_id: Callable[[str], int | None]) -> None:
        self._token_id = token_id
        self._rules: list[str] = []

    def rule(self, body: str, *, options: str = "") -> str:
        """The name of a new rule."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def mark(self, text: str) -> str:
        found = self._token_id(text)
        return literal(text) if found is None else f"<[{found}]>"

    def up_to(self, mark: str) -> str:
        """Any text with the mark that ends it."""
        found = self._token_id(mark)
        if found is not None:
            return self.rule(f"{self.rule(TEXT)} <[{found}]>")
        escaped = "".join(f"\\{letter}" if letter in r"\/[](){}|.*+?^$" else letter for letter in mark)
        return self.rule(rf"/(.|\n)*{escaped}/".replace("\n", r"\n"), options="[lazy]")

    def finished(self, start: str) -> str:
        return "\n".join(["%llguidance {}", f"start: {start}", *self._rules])


def arguments(tool: Tool, *, exact: bool) -> str:
    """The object of a call's arguments; without `exact` any object."""
    schema = {**tool.parameters, "type": "object"} if exact else {"type": "object"}
    return _spaced(schema, lenient=not tool.strict)


def hermes(grammar: Grammar, tool: Tool, exact: bool) -> str:
    body = _named(grammar, tool, "arguments", exact=exact)
    return f'"\\n" {body} "\\n" {grammar.mark("</tool_call>")}'


def llama(grammar: Grammar, tool: Tool, exact: bool) -> str:
    return _named(grammar, tool, "parameters", exact=exact)


def _named(grammar: Grammar, tool: Tool, key: str, *, exact: bool) -> str:
    head = literal(f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "{key}": ')
    return f'{head} {grammar.rule(arguments(tool, exact=exact))} "}}"'


def mistral(grammar: Grammar, tool: Tool, exact: bool) -> str:
    return f"{literal(tool.name)} {grammar.mark('[ARGS]')} {grammar.rule(arguments(tool, exact=exact))}"


def mistral_array(grammar: Grammar, tool: Tool, exact: bool) -> str:
    return _named(grammar, tool, "arguments", exact=exact)


def harmony(grammar: Grammar, tool: Tool, exact: bool) -> str:
    to = literal(f"commentary to=functions.{tool.name} ")
    head = f"{to} {grammar.mark('<|constrain|>')} " + f'"json" {grammar.mark("<|message|>")}'
    return f"{head} {grammar.rule(arguments(tool, exact=exact))}"


def tagged(grammar: Grammar, tool: Tool, exact: bool) -> str:
    """Qwen3-Coder's: strings as bare text, all else as JSON."""
    properties = tool.parameters.get("properties")
    if not exact or not isinstance(properties, dict):
        value = grammar.up_to("\n</parameter>\n")
        parameters = f'("<parameter=" /[\\w.-]+/ ">\\n" {value})*'
    else:
        named = tool.parameters.get("required")
        required = named if isinstance(named, list) else ()
        shared = {key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters}
        parts = [(key, _tagged_value(grammar, key, schema, shared=shared)) for key, schema in properties.items()]
        parameters = " ".join(part if key in required else f"({part})?" for key, part in parts)
    head, tail = literal(f"\n<function={tool.name}>\n"), grammar.mark("</tool_call>")
    return f'{head} {parameters} "</function>\\n" {tail}'


def _tagged_value(grammar: Grammar, key: str, schema: Any, *, shared: Mapping[str, Any]) -> str:
    head, close = literal(f"<parameter={key}>\n"), literal("\n</parameter>\n")
    if not isinstance(schema, dict) or (schema.get("type") == "string" and "enum" not in schema):
        return f"{head} {grammar.up_to(chr(10) + '</parameter>' + chr(10))}"
    if schema.get("type") == "string" and isinstance(schema["enum"], list) and schema["enum"]:
        return f"{head} ({' | '.join(literal(str(one)) for one in schema['enum'])}) {close}"
    return f"{head} {grammar.rule(_spaced({**shared, **schema}, lenient=True))} {close}"


def one_of(rules: Sequence[str]) -> str:
    return f"({' | '.join(rules)})"
