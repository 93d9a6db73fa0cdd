"""A request's bytes -> a JSON object -> a typed model; what is wrong becomes InvalidRequest naming the field.

Knows no route and no field; never repeats the sender's text in an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ..errors import InvalidRequest

Model = TypeVar("Model", bound=BaseModel)

OWN_WORDS = "own_words"
# Chat templates and compilers of schemas go down by recursion.
DEEPEST = 100
# The library's kinds of fault in words for people who know JSON, not Python.
SENTENCES = {
    OWN_WORDS: "{sentence}",
    "missing": "is missing",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be {expected}",
    "too_short": "must not be empty",
    "string_too_long": "has more characters than the limit of {max_length}",
    "too_long": "has more entries than the limit of {max_length}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
}


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object. UTF-8 only (RFC 8259 section 8.1); NaN and Infinity are no JSON."""
    if not body.strip():
        raise InvalidRequest("The body is empty.", hint="Send a JSON object as the body.")
    try:
        # Decoded here: json would guess UTF-16 and UTF-32, which the standard rules out; editors write the mark.
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} is broken.") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"The body is not valid JSON: {error.msg} at {place}.") from error
    except ValueError as error:
        raise InvalidRequest("The body is not valid JSON: a number in it is none.") from error
    except RecursionError as error:
        raise InvalidRequest("The body's JSON is nested too deeply.") from error
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.", hint='Send something like {"message": "Hello"}.')
    return value


def validated(model: type[Model], fields: dict[str, Any]) -> Model:
    """The typed model; its first fault as InvalidRequest with the field's path, as in `history.2.role`."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"`{path}` {_sentence(first)}.", param=path) from error


def refuse_long(texts: Mapping[str, str | None], most: int) -> None:
    """Raises InvalidRequest for a text, by its field's path, that has more than so many characters."""
    for name, text in texts.items():
        if text is not None and len(text) > most:
            raise InvalidRequest(f"`{name}` has {len(text)} characters; the limit is {most}.", param=name)


def fault(sentence: str) -> PydanticCustomError:
    """For a validator to raise: what is wrong, as the sentence that goes on after the field's name."""
    return PydanticCustomError(OWN_WORDS, "{sentence}", {"sentence": sentence})


def _sentence(found: ErrorDetails) -> str:
    limits = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in found.get("ctx", {}).items()
    }
    return SENTENCES.get(found["type"], "has a value that cannot be used").format(**limits)


def well_formed(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 can carry, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def sound(value: Any, depth: int = DEEPEST) -> Any:
    """A JSON value that can be written as JSON again, with its texts `well_formed`.

    Raises the fault of one that is nested too deeply, or has a number beyond every float.
    """
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise fault("has a number that is too large")
    if isinstance(value, dict | list) and depth == 0:
        raise fault(f"is nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        return {well_formed(key): sound(one, depth - 1) for key, one in value.items()}
    return [sound(one, depth - 1) for one in value] if isinstance(value, list) else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
