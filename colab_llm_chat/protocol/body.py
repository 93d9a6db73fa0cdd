"""A request's bytes -> a JSON object -> a typed model; what is wrong becomes InvalidRequest naming the field.

Knows no route and no field; never repeats the sender's text in an error.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import InvalidRequest

Model = TypeVar("Model", bound=BaseModel)


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object. UTF-8 only (RFC 8259 section 8.1); NaN and Infinity are no JSON."""
    if not body.strip():
        raise InvalidRequest("The body is empty.", hint="Send a JSON object as the body.")
    try:
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
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(str(part) for part in fault["loc"])
        text = fault["msg"].replace("Input should be", "must be").replace("String should", "must")
        raise InvalidRequest(f"`{path}` {text}.", param=path) from error


def well_formed(text: str) -> str:
    """The text with lone surrogates, which no UTF-8 can carry, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
