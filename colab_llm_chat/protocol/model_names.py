"""Names of models and personas as clients write and read them. Knows no files and no network."""

from __future__ import annotations

import time
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from ..errors import InvalidRequest, UnknownModel
from ..settings import Settings

OWNER = "colab-llm-chat"
# What a name may choose beside the loaded model; there are no adapters yet, so each such name is unknown.
PERSONA = "persona:"
ADAPTER = "adapter:"
# The settings that each persona brings, by its name.
Personas = Mapping[str, Settings]
NO_PERSONAS: Personas = MappingProxyType({})
SHOWN_CHARACTERS = 100
# Clients want a date; when the model was made is not known.
STARTED = int(time.time())


def shown_name(model_id: str) -> str:
    """The model's name for others: of a folder only its own, for a path names its owner."""
    path = PurePath(model_id)
    return path.name if path.is_absolute() or model_id.startswith((".", "~")) else model_id


def settings_of_model(name: str | None, settings: Settings, personas: Personas) -> Settings:
    """What is in force for a request of this model: a persona's settings, where the name is one's.

    Raises UnknownModel for what cannot be chosen; any other name is served by the loaded model.
    """
    if name is None:
        return settings
    if name.startswith(PERSONA):
        chosen = personas.get(name.removeprefix(PERSONA))
        if chosen is None:
            raise unknown_model(name)
        return chosen
    known = name in (settings.model_id, shown_name(settings.model_id))
    if name.startswith(ADAPTER) or (settings.strict_model and not known):
        raise unknown_model(name)
    return settings


def settings_of_persona(name: str | None, settings: Settings, personas: Personas) -> Settings:
    """What is in force for a request of this persona. Raises InvalidRequest, naming near matches, for an unknown one.

    Names of files are unknown, too: those of a server are nothing that a client may have opened.
    """
    if not name:
        return settings
    if name not in personas:
        near = get_close_matches(name[:SHOWN_CHARACTERS].casefold(), personas, n=3, cutoff=0.5)
        raise InvalidRequest(
            f"There is no persona `{name[:SHOWN_CHARACTERS]}` here.",
            param="persona",
            hint=f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(personas) or 'none'}.",
        )
    return personas[name]


def persona_model(name: str) -> str:
    """What `model` is for a persona at the OpenAI door."""
    return f"{PERSONA}{name}"


def unknown_model(name: str) -> UnknownModel:
    return UnknownModel(f"There is no model `{name[:SHOWN_CHARACTERS]}` here.", param="model")


def model_entry(model_id: str) -> dict[str, Any]:
    """A model, or what else `model` may be, as GET /v1/models lists it."""
    return {"id": shown_name(model_id), "object": "model", "created": STARTED, "owned_by": OWNER}
