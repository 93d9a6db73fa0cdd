"""Flags that derive from Settings, for every command that has some of them. Knows no command."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import SecretStr, ValidationError

from ..errors import UsageError
from ..settings import Settings, flag_of, settings_fields

OTHER_FLAGS = {
    "model_id": ["-m"],
    "hf_token": ["-t", "--access-token"],
    "language_source": ["-S"],
    "language_target": ["-T"],
}
ENVIRONMENT = {"hf_token": "HF_TOKEN", "ngrok_token": "NGROK_AUTHTOKEN"}
SECRET = frozenset({"hf_token", "ngrok_token", "access_key"})


def _flag_type(annotation: Any) -> Any:
    """The click type of a field: the one that is not None, a choice for a Literal."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is Literal:
        return click.Choice([str(choice) for choice in get_args(annotation)])
    return str if annotation is SecretStr else annotation


def settings_flags(command: Callable[..., Any], *, only: Collection[str] | None = None) -> Callable[..., Any]:
    """Give a command one flag for each field of Settings, or for some of them."""
    for name, field in reversed(settings_fields().items()):
        if only is not None and name not in only:
            continue
        kind = _flag_type(field.annotation)
        shown = "" if field.default in (None, "") or kind is bool else f" [default: {field.default}]"
        command = click.option(
            flag_of(name),
            name,
            *OTHER_FLAGS.get(name, []),
            type=kind,
            is_flag=kind is bool,
            default=None,
            envvar=ENVIRONMENT.get(name, f"COLAB_LLM_CHAT_{name.upper()}"),
            help=(field.description or "") + shown,
        )(command)
    return command


def settings_from(flags: dict[str, Any], *, hint: str | None = None) -> Settings:
    """Settings of the flags that were given. Raises UsageError naming the flag at fault."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        given = "" if name in SECRET else f" (given: {flags.get(name)!r})"
        raise UsageError(f"{flag_of(name)}: {first['msg']}{given}.", param=name, hint=hint) from None
