"""Personas: named system prompts with defaults of a reply, the bundled ones and those in YAML files.

Knows no request and no model: what a persona changes is settings.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import yaml
from pydantic import ConfigDict, StringConstraints, ValidationError

from ..errors import UsageError
from ..settings import SamplingParams, Settings

FOLDER = Path(__file__).parent / "personas"
ENDINGS = (".yaml", ".yml")
LARGEST_FILE = 64 * 1024
SHOWN_CHARACTERS = 60

Filled = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Persona(SamplingParams):
    """What a file says. Of the fields of a reply those count that it names; their values come as text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    name: Filled
    description: str = ""
    description_ja: str = ""
    system: Filled

    def over(self, settings: Settings) -> Settings:
        """The settings with this persona's own in place of theirs."""
        return settings.model_copy(update=self._changes())

    def under(self, settings: Settings) -> Settings:
        """The settings with this persona's own where nobody has set any."""
        changes = self._changes()
        return settings.model_copy(update={name: changes[name] for name in changes.keys() - settings.model_fields_set})

    def _changes(self) -> dict[str, object]:
        return self.model_dump(include={"system", *SamplingParams.model_fields}, exclude_unset=True)


def with_persona(settings: Settings) -> Settings:
    """What is in force where settings name a persona: its own below what was set by hand. To be called once, at start.

    Raises UsageError where there is none of that name, or its file cannot be used.
    """
    return settings if settings.persona is None else persona_of(settings.persona).under(settings)


def each_persona(settings: Settings) -> Mapping[str, Settings]:
    """What is in force for a request that chooses a bundled persona: its own above all of the server's."""
    return MappingProxyType({name: persona.over(settings) for name, persona in bundled().items()})


@cache
def bundled() -> Mapping[str, Persona]:
    """The personas of the package by name."""
    return MappingProxyType({path.stem: read_persona(path) for path in sorted(FOLDER.glob(f"*{ENDINGS[0]}"))})


def persona_of(name: str) -> Persona:
    """The bundled one of this name, or the one in this file: a path has a `/` in it, or ends with `.yaml`.

    Raises UsageError.
    """
    if name in bundled():
        return bundled()[name]
    if name.endswith(ENDINGS) or "/" in name or os.path.sep in name:
        return read_persona(Path(os.path.expanduser(name)))
    near = get_close_matches(name.casefold(), bundled(), n=3, cutoff=0.5)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    raise _unusable(
        f"There is no persona {_short(name)}.", f"{meant}There are {', '.join(bundled())}; a file is named by its path."
    )


def read_persona(path: Path) -> Persona:
    """The persona in a YAML file, which may leave out its name. Raises UsageError naming the line and the key."""
    lines, values = _keys(path)
    unknown = next((key for key in values if key not in Persona.model_fields), None)
    if unknown is not None:
        near = get_close_matches(unknown, Persona.model_fields, n=3, cutoff=0.5)
        meant = f"Did you mean {' or '.join(near)}?" if near else f"Known are {', '.join(Persona.model_fields)}."
        raise _unusable(f"{path}, line {lines[unknown]}: there is no key {_short(unknown)}.", meant)
    try:
        return Persona(**{"name": path.stem, **values})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        if key not in values:
            raise _unusable(f"{path}: `{key}` is missing.", "Write the system prompt as `system: |`.") from None
        raise _unusable(
            f"{path}, line {lines[key]}: {key}: {first['msg']} (given: {_short(values[key])}).",
            "Correct this line of the file.",
        ) from None


def _keys(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Line and value of each key. Values stay text, so that no `no` becomes false and no date a date."""
    try:
        root = yaml.compose(_text(path), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        told = [getattr(error, name, None) for name in ("context", "problem", "reason")]
        raise _unusable(f"{path}{line} is not YAML: {', '.join(filter(None, told))}.", EXAMPLE) from None
    except RecursionError:
        raise _unusable(f"{path} is nested too deeply.", EXAMPLE) from None
    if not isinstance(root, yaml.MappingNode):
        raise _unusable(f"{path} holds no keys and values.", EXAMPLE)
    lines: dict[str, int] = {}
    values: dict[str, str] = {}
    for key, value in root.value:
        place = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            raise _unusable(f"{place}: every key has one text or number as its value.", EXAMPLE)
        if key.value in lines:
            raise _unusable(f"{place}: {_short(key.value)} is there twice.", "Keep one of the two.")
        lines[key.value] = key.start_mark.line + 1
        # A key without a value is as if it was not there.
        if value.tag != "tag:yaml.org,2002:null":
            values[key.value] = value.value
    return lines, values


def _text(path: Path) -> str:
    try:
        # Neither a folder nor a device, which may have no end.
        if not path.is_file():
            raise _unusable(f"{path} is no file.", f"Give the path of a YAML file, or one of {', '.join(bundled())}.")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise _unusable(f"{path} cannot be read: {error.strerror}.", "Give another file.") from None
    if len(data) > LARGEST_FILE:
        raise _unusable(f"{path} has more than {LARGEST_FILE // 1024} KiB.", "Give a YAML file with a shorter text.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unusable(f"{path} is not UTF-8: byte {error.start} is broken.", "Give a text file.") from None


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")


def _unusable(message: str, hint: str) -> UsageError:
    return UsageError(message, param="persona", hint=hint, japanese=JAPANESE)


EXAMPLE = "A persona file has lines such as `system: You are a poet.` and `temperature: 0.9`."
JAPANESE = (
    "--persona の値を使えません。原因は上の英語の行にあります。付属のものの名前か、YAML ファイルのパスを指定して"
    "ください。"
)
