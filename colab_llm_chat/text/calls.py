"""Readers of one tool call each, letter by letter, in the syntaxes that model families use.

A reader says the call as it comes and returns None, or says nothing and returns what it read, where that is no call
of one of the tools. Knows no marks around calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from typing import Any

from ..protocol.messages import Tool
from .splitting import Braces, Letters, Steps, loaded

Reader = Generator[None, str, str | None]
Tools = Mapping[str, Tool]

ARGUMENTS = ("arguments", "parameters")
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')
_BEGINNING = re.compile(r'\s*(?:\{\s*("\w*"?)?)?')
_FIRST_KEYS = tuple(f'"{key}"' for key in ("name", *ARGUMENTS, "type", "id", "function"))
_NAME = re.compile(r"[\w.-]{1,64}")
LONGEST_HEAD = 256


def json_call(out: Letters, tools: Tools, close: str, *, begun: str = "") -> Reader:
    """`{"name": …, "arguments": {…}}`, told while it comes if in that order, else when it is whole."""
    raw, braces = begun, Braces()
    for letter in begun:
        braces.step(letter)
    while letter := (yield):
        raw += letter
        before, depth = braces.depth, braces.step(letter)
        if not _may_be_call(raw):
            return raw
        if before == 1 and depth == 2 and len(raw) <= LONGEST_HEAD:
            head = _HEAD.fullmatch(raw)
            if head and head[1] in tools:
                out.began(head[1])
                yield from _object(out)
                yield from _tail(out, close)
                return None
        if depth == 0 and raw.strip():
            return None if _whole(out, tools, raw) else raw
        if close and raw.endswith(close):
            return None if _whole(out, tools, raw[: -len(close)]) else raw
    return raw


def _may_be_call(raw: str) -> bool:
    beginning = _BEGINNING.fullmatch(raw)
    if beginning is None:
        # Past its beginning, which was looked at when it came; only a first letter can still be wrong.
        first = re.match(r'\s*\{\s*("\w*")', raw)
        return first is not None and first[1] in _FIRST_KEYS
    return len(raw) <= LONGEST_HEAD and any(key.startswith(beginning[1] or "") for key in _FIRST_KEYS)


def _object(out: Letters) -> Generator[None, str, bool]:
    """The rest of an object whose bracket was read, as arguments; false if the reply ends before it does."""
    braces = Braces()
    depth = braces.step("{")
    out.arguments("{")
    while depth > 0:
        letter = yield
        if not letter:
            return False
        out.arguments(letter)
        depth = braces.step(letter)
    out.ended()
    return True


def _tail(out: Letters, close: str) -> Steps:
    """The rest of the object around the arguments, which some models forget to close."""
    braces, tail = Braces(), ""
    while letter := (yield):
        tail += letter
        if braces.step(letter) < 0 or (close and tail.endswith(close)):
            return
    out.say("text", tail)


def _whole(out: Letters, tools: Tools, text: str) -> bool:
    call = loaded(text)
    call = call.get("function", call) if isinstance(call, dict) else None
    name = call.get("name") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(name, str) or name not in tools:
        return False
    return whole_call(out, name, next((call[key] for key in ARGUMENTS if key in call), {}))


def whole_call(out: Letters, name: str, arguments: Any) -> bool:
    """Says a call that came in one; false if these are no arguments."""
    if isinstance(arguments, str):
        arguments = loaded(arguments)
    if not isinstance(arguments, dict):
        return False
    out.began(name)
    out.arguments(json.dumps(arguments, ensure_ascii=False))
    out.ended()
    return True


def bracket_calls(out: Letters, tools: Tools, close: str, *, begun: str = "") -> Reader:
    """Mistral's: `[{"name": …, "arguments": …}, …]`, or `name[ARGS]{…}` in newer models."""
    head = ""
    while letter := (yield):
        head += letter
        text = head.lstrip()
        if text == "[":
            return (yield from _array(out, tools, head))
        if text.endswith("{"):
            name = re.split(r"\[CALL_ID\]|\[ARGS\]|\{", text)[0].strip()
            if name not in tools:
                return head
            out.began(name)
            yield from _object(out)
            return None
        name = text.split("[")[0].rstrip()
        if (name and not _NAME.fullmatch(name)) or len(head) > LONGEST_HEAD:
            return head
    return head


def _array(out: Letters, tools: Tools, head: str) -> Reader:
    read = yield from json_call(out, tools, "")
    if read is not None:
        return head + read
    between = ""
    while letter := (yield):
        between += letter
        if letter == "]":
            return None
        if letter == ",":
            read = yield from json_call(out, tools, "")
            if read is None:
                between = ""
                continue
            between += read
        if not letter.isspace():
            break
    out.say("text", between)
    return None


def tagged_call(out: Letters, tools: Tools, close: str, *, begun: str = "") -> Reader:
    """Qwen3-Coder's: `<function=NAME>`, `<parameter=KEY>` each told when it is whole, `</function>`."""
    head = begun
    while not head.lstrip().startswith("<function=") or not head.endswith(">"):
        letter = yield
        head += letter
        start = head.lstrip()[:10]
        if not letter or not "<function=".startswith(start) or len(head) > LONGEST_HEAD:
            return head
    name = head.strip()[10:-1].strip()
    if name not in tools:
        return head
    out.began(name)
    properties = tools[name].parameters.get("properties", {})
    written = "{"
    while True:
        key = yield from _up_to("<parameter=", "</function>")
        if key is None:
            return None
        if key.endswith("</function>"):
            out.arguments("{}" if written == "{" else "}")
            out.ended()
            return None
        key = yield from _up_to(">")
        value = yield from _up_to("</parameter>")
        if key is None or value is None:
            return None
        kinds = properties.get(key[:-1].strip()) if isinstance(properties, dict) else None
        typed = _typed(value[: -len("</parameter>")], kinds)
        out.arguments(f"{written}{json.dumps(key[:-1].strip(), ensure_ascii=False)}: {typed}")
        written = ", "


def _up_to(*ends: str) -> Generator[None, str, str | None]:
    text = ""
    while letter := (yield):
        text += letter
        if text.endswith(ends):
            return text
    return None


def _typed(text: str, schema: Any) -> str:
    """JSON of a value that came as bare text: by its schema a string, else what it reads as."""
    text = text.removeprefix("\n").removesuffix("\n")
    if not isinstance(schema, dict) or schema.get("type") != "string":
        value = loaded(text.strip())
        if value is not None or text.strip() == "null":
            return json.dumps(value, ensure_ascii=False)
        if text.strip() in ("True", "False"):
            return text.strip().lower()
    return json.dumps(text, ensure_ascii=False)
