"""Names of models as clients write and read them. Knows no files and no network."""

from __future__ import annotations

import time
from pathlib import PurePath
from typing import Any

from ..errors import UnknownModel
from ..settings import Settings

OWNER = "colab-llm-chat"
# What a name may choose beside the loaded model; there is none of either yet, so each such name is unknown.
CHOICES = ("persona:", "adapter:")
SHOWN_CHARACTERS = 100
# Clients want a date; when the model was made is not known.
STARTED = int(time.time())


def shown_name(model_id: str) -> str:
    """The model's name for others: of a folder only its own, for a path names its owner."""
    path = PurePath(model_id)
    return path.name if path.is_absolute() or model_id.startswith((".", "~")) else model_id


def check_model(name: str | None, settings: Settings) -> None:
    """Raises UnknownModel for what cannot be chosen; any other name is served by the loaded model."""
    if name is None:
        return
    known = name in (settings.model_id, shown_name(settings.model_id))
    if name.startswith(CHOICES) or (settings.strict_model and not known):
        raise unknown_model(name)


def unknown_model(name: str) -> UnknownModel:
    return UnknownModel(f"There is no model `{name[:SHOWN_CHARACTERS]}` here.", param="model")


def model_entry(model_id: str) -> dict[str, Any]:
    """The loaded model as GET /v1/models lists it."""
    return {"id": shown_name(model_id), "object": "model", "created": STARTED, "owned_by": OWNER}
