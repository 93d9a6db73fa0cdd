"""`/set`: the sampling knobs by name, checked against their bounds. Knows no screen."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from ...errors import UsageError
from ...settings import LARGEST_COUNT, SamplingParams

FIELDS = SamplingParams.model_fields
UNSET = ("none", "unset", "off")
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def with_knob(params: SamplingParams, name: str, text: str, *, start: SamplingParams) -> SamplingParams:
    """The parameters with one of them changed; `default` takes the value that the program began with.

    Raises UsageError naming the knob and its bounds. What nobody has set stays unset.
    """
    name = known_name(name)
    given = {**params.model_dump(exclude_unset=True)}
    if text.casefold() == "default":
        given.pop(name, None)
        return SamplingParams(**given, **start.model_dump(include={name}, exclude_unset=True))
    return SamplingParams(**{**given, name: _value(name, text)})


def known_name(name: str) -> str:
    """The field of this name, however its words are joined. Raises UsageError naming near matches."""
    field = name.lstrip("-").replace("-", "_").casefold()
    if field in FIELDS:
        return field
    near = get_close_matches(field, FIELDS, n=3, cutoff=0.5)
    meant = f"Did you mean {' or '.join(near)}?" if near else "/set alone shows all of them."
    raise UsageError(f"There is no setting {name!r}.", hint=meant)


def listed(params: SamplingParams) -> list[tuple[str, str, str]]:
    """Name, value and bounds of each knob."""
    return [(name, shown(params, name), bounds(name)) for name in FIELDS]


def shown(params: SamplingParams, name: str) -> str:
    value = getattr(params, name)
    return "unset" if value is None else str(value)


def bounds(name: str) -> str:
    """What it takes, in words."""
    field = FIELDS[name]
    kinds = get_args(field.annotation) or (field.annotation,)
    words = ["a whole number" if int in kinds else "a number"]
    for one in field.metadata:
        found = {word: getattr(one, name, None) for name, word in BOUNDS.items()}
        words += [f"{word} {bound}" for word, bound in found.items() if bound is not None and bound < LARGEST_COUNT]
    return ", ".join(words) + (" or none" if type(None) in kinds else "")


def _value(name: str, text: str) -> Any:
    field = FIELDS[name]
    if text.casefold() in UNSET and type(None) in get_args(field.annotation):
        return None
    # The bounds alone, without the strictness of JSON: what is typed is text.
    checked: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    try:
        value = checked.validate_python(text)
        SamplingParams(**{name: value})
    except ValidationError:
        raise UsageError(f"{name} takes {bounds(name)} (given: {text!r}).", hint=f"/set {name} VALUE") from None
    return value
