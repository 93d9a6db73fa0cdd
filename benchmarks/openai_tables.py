"""README's tables of the OpenAI door, from the models that parse its bodies and from the check of JSON schemas.

Knows no README. What a model does not say of a field stands in SAID.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from colab_llm_chat.errors import InvalidRequest
from colab_llm_chat.protocol.chat_completions import ChatCompletionBody
from colab_llm_chat.protocol.completions import CompletionBody
from colab_llm_chat.protocol.openai_fields import IGNORED, UNSUPPORTED, SampledBody
from colab_llm_chat.protocol.responses import UNSUPPORTED as STATEFUL
from colab_llm_chat.protocol.responses import ResponsesBody
from colab_llm_chat.protocol.tokenize import TokenizeBody
from colab_llm_chat.settings import LARGEST_COUNT
from colab_llm_chat.text.grammar import json_grammar

OTHER_DOORS: dict[str, type[BaseModel]] = {
    "POST /v1/completions": CompletionBody,
    "POST /v1/responses": ResponsesBody,
    "POST /v1/tokenize": TokenizeBody,
}
SAID = {
    "messages": "Roles: system, developer, user, assistant, tool; content as a string or as parts of text.",
    "stream": "Events instead of one JSON.",
    "stream_options": "`include_usage`: one more chunk at the end, with `usage`.",
    "stop": "The reply ends before any of them; reasoning does not count.",
    "logprobs": "Those of the answer's tokens, after bias, penalties and schema, before temperature.",
    "max_tokens": "Longest reply, in tokens; the window shortens it, too.",
    "logit_bias": "By token id; -100 rules a token out, 100 all but forces it.",
    "min_tokens": "The reply does not end by itself before so many.",
    "ignore_eos": "The reply never ends by itself.",
    "tools": "Functions the model may call; `strict` keeps the arguments to the schema.",
    "tool_choice": "Also one function by its name.",
    "parallel_tool_calls": "false: at most one call.",
    "response_format": "`json_object`, or a `json_schema`, which the reply cannot break.",
    "modalities": "Text is the only one.",
    "chat_template_kwargs": "Given to the chat template as they are, such as `enable_thinking`.",
    "add_generation_prompt": "false: the prompt ends with the last message.",
}
# A schema for each keyword that could be refused; a keyword of llguidance's that is not here is not told of.
KEYWORDS: dict[str, dict[str, Any]] = {
    "type": {"type": ["string", "null"]},
    "properties": {"type": "object", "properties": {"a": {"type": "string"}}},
    "required": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "integer"}},
    "patternProperties": {"type": "object", "patternProperties": {"^a": {"type": "string"}}},
    "minProperties": {"type": "object", "minProperties": 1},
    "maxProperties": {"type": "object", "maxProperties": 3},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
    "items": {"type": "array", "items": {"type": "string"}},
    "prefixItems": {"type": "array", "prefixItems": [{"type": "string"}]},
    "minItems": {"type": "array", "minItems": 2},
    "maxItems": {"type": "array", "maxItems": 3},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "contains": {"type": "array", "contains": {"type": "integer"}},
    "unevaluatedItems": {"type": "array", "unevaluatedItems": False},
    "minLength": {"type": "string", "minLength": 2},
    "maxLength": {"type": "string", "maxLength": 4},
    "pattern": {"type": "string", "pattern": "^a+$"},
    "minimum": {"type": "number", "minimum": 2},
    "maximum": {"type": "number", "maximum": 4},
    "exclusiveMinimum": {"type": "number", "exclusiveMinimum": 2},
    "exclusiveMaximum": {"type": "number", "exclusiveMaximum": 4},
    "multipleOf": {"type": "integer", "multipleOf": 5},
    "enum": {"enum": ["a", 1]},
    "const": {"const": 1},
    "anyOf": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    "oneOf": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    "allOf": {"allOf": [{"type": "object"}, {"required": ["a"]}]},
    "not": {"not": {"type": "string"}},
    "if": {"if": {"type": "string"}, "then": {"minLength": 2}},
    "$ref": {"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
    "$dynamicRef": {"$dynamicRef": "#a"},
}
FORMATS = (
    *("date-time", "date", "time", "duration", "email", "idn-email", "hostname", "ipv4", "ipv6", "uri", "iri", "uuid"),
    *("json-pointer", "regex"),
)
Row = tuple[str, ...]


def chat_fields() -> str:
    """Every field of a chat completion: what it may be, and what it does; its own before those of every reply."""
    schema = ChatCompletionBody.model_json_schema()["properties"]
    own = [name for name in schema if name not in SampledBody.model_fields]
    names = own + [name for name in schema if name in SampledBody.model_fields]
    return table([("field", "value", "what it does"), *(_field(name, schema[name]) for name in names)])


def other_fields() -> str:
    """What the other doors take beside the fields of every reply: their own, and those of a chat completion."""
    known = _values(ChatCompletionBody)
    rows = []
    for door, model in OTHER_DOORS.items():
        every = SampledBody.model_fields if issubclass(model, SampledBody) else {}
        values = {name: value for name, value in _values(model).items() if name not in every}
        shared = [name for name, value in values.items() if known.get(name) == value]
        own = [f"`{name}` ({value})" for name, value in values.items() if name not in shared]
        rows.append((f"`{door}`", ", ".join(own), codes(shared)))
    return table([("route", "fields of its own", "as for a chat completion"), *rows])


def ignored_fields() -> str:
    return codes(name for name in IGNORED if name not in ChatCompletionBody.model_fields)


def refused_fields() -> str:
    rows = [(f"`{name}`", "all", hint) for name, hint in UNSUPPORTED.items()]
    rows += [(f"`{name}`", "`/v1/responses`", hint) for name, hint in STATEFUL.items()]
    return table([("field", "where", "what to do instead"), *rows])


def json_schemas() -> str:
    """Which keywords and formats of JSON schemas a reply is kept to, and which are refused, by trying each."""
    formats = {name: {"type": "string", "format": name} for name in FORMATS}
    rows = [("keywords", *_judged(KEYWORDS)), ("`format`", *_judged(formats))]
    return table([("part", "kept to", "refused with 400"), *rows])


def table(rows: Sequence[Row]) -> str:
    """Markdown; the first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], ("---",) * len(rows[0]), *rows[1:])]
    return "\n".join(lines)


def codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _field(name: str, schema: Mapping[str, Any]) -> Row:
    said = " ".join(filter(None, (SAID.get(name), schema.get("description"))))
    if not said:
        raise ValueError(f"nothing is said of the field {name}")
    return f"`{name}`", _value(schema), said


def _values(model: type[BaseModel]) -> dict[str, str]:
    properties = model.model_json_schema()["properties"]
    return {name: _value(properties[name]) for name in properties}


def _value(schema: Mapping[str, Any]) -> str:
    """What the field may be, in a few words."""
    kinds = [_kind(one) for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    exact = [kind for kind in kinds if not any(other.startswith(f"{kind} of") for other in kinds)]
    return " or ".join(dict.fromkeys(exact))


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f'`"{one}"`' for one in schema["enum"])
    kind = schema.get("type", "object")
    if kind == "array":
        return f"list of up to {schema['maxItems']}" if "maxItems" in schema else "list"
    least, most = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        return f"{kind}, above {schema['exclusiveMinimum']}, up to {most}"
    if least is None:
        return str(kind)
    return f"{kind}, {least} or more" if most is None or most >= LARGEST_COUNT else f"{kind}, {least} to {most}"


def _judged(schemas: Mapping[str, Mapping[str, Any]]) -> Row:
    kept = {name: _is_kept(schema) for name, schema in schemas.items()}
    return codes(name for name in kept if kept[name]), codes(name for name in kept if not kept[name])


def _is_kept(schema: Mapping[str, Any]) -> bool:
    try:
        json_grammar(schema)
    except InvalidRequest:
        return False
    return True
