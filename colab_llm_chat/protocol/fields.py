"""Kinds of fields that the bodies of several doors have: text, stop strings, whole numbers, text parts.

Each is a pydantic type or a validator; none knows which field it stands for.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from ..settings import SamplingParams
from .body import fault, sound, well_formed

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1_000
# Longer than any code or name of a language.
MAX_LANGUAGE_CHARACTERS = 100
MAX_DEADLINE_MS = 24 * 60 * 60 * 1000
STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
TEXT_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"type": "string", "const": "text"}, "text": {"type": "string"}},
    "required": ["text"],
}
CONTENT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_PART_SCHEMA}]}


def mended(value: object) -> object:
    return well_formed(value) if isinstance(value, str) else value


def joined_parts(value: object) -> object:
    """A string as it is; a list of text parts as their texts joined."""
    if not isinstance(value, list):
        return mended(value)
    for part in value:
        is_text = isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text"
        if not is_text:
            raise fault('may only hold parts like {"type": "text", "text": "…"}')
    return well_formed("".join(part["text"] for part in value))


def _listed_stops(value: object) -> object:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return ()
    valid = isinstance(stops, list) and all(
        isinstance(stop, str) and 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops
    )
    if not isinstance(stops, list) or not valid or len(stops) > MAX_STOPS:
        raise fault(f"must be a string or a list of up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters")
    return tuple(well_formed(stop) for stop in stops)


def _whole(value: object) -> object:
    # JSON knows one kind of number, and JavaScript writes 16 as 16.0 where a slider made it.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, BeforeValidator(mended)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(sound)]
Content = Annotated[str, BeforeValidator(joined_parts), WithJsonSchema(CONTENT_SCHEMA)]
Stops = Annotated[
    tuple[str, ...],
    BeforeValidator(_listed_stops),
    WithJsonSchema({"anyOf": [STOP_SCHEMA, {"type": "array", "items": STOP_SCHEMA, "maxItems": MAX_STOPS}]}),
]
Whole = Annotated[int | None, BeforeValidator(_whole)]
Language = Annotated[str, StringConstraints(max_length=MAX_LANGUAGE_CHARACTERS), BeforeValidator(mended)] | None


def language(asked: str | None, default: str | None) -> str | None:
    """The code that counts: an empty one is none, and only an absent one leaves it to the server."""
    return (default if asked is None else asked) or None


def knob(name: str) -> Any:
    """A field that may be absent or null, with the bounds and the description that SamplingParams gives it."""
    field = SamplingParams.model_fields[name]
    bounds = {
        bound: getattr(limit, bound)
        for limit in field.metadata
        for bound in ("gt", "ge", "lt", "le")
        if hasattr(limit, bound)
    }
    return Field(None, description=field.description, **bounds)
