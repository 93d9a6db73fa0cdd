"""The OpenAI door's routes, registered under /v1 and without it: clients disagree on what their base URL ends in.

Knows no field of any body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import Blueprint, Response, current_app

from ..protocol.model_names import model_entry, unknown_model
from .render import json_response

if TYPE_CHECKING:
    from .app import ChatApp

openai_routes = Blueprint("openai", __name__)


def _app() -> ChatApp:
    return cast("ChatApp", current_app)


@openai_routes.get("/models")
def models() -> Response:
    """The one loaded model; listed while it loads, too, as clients ask when they start."""
    return json_response({"object": "list", "data": [model_entry(_app().chat.status().model_id)]})


@openai_routes.get("/models/<path:name>")
def model(name: str) -> Response:
    loaded = _app().chat.status().model_id
    entry = model_entry(loaded)
    if name not in (loaded, entry["id"]):
        raise unknown_model(name)
    return json_response(entry)
