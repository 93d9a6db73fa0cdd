"""The OpenAI door's routes, registered under /v1 and without it: clients disagree on what their base URL ends in.

Knows no field of any body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import Blueprint, Response, current_app, request

from ..protocol.chat_chunks import ChatCompletion
from ..protocol.chat_completions import parse_chat_completion
from ..protocol.completion_chunks import CompletionReply
from ..protocol.completions import echoes, parse_completion
from ..protocol.model_names import model_entry, persona_model, shown_name, unknown_model
from ..protocol.openapi import openapi
from ..protocol.responses import parse_responses
from ..protocol.responses_events import ResponsesReply
from ..protocol.tokenize import parse_tokenize
from .answering import answer
from .render import json_body, json_response

if TYPE_CHECKING:
    from .app import ChatApp

openai_routes = Blueprint("openai", __name__)


def _app() -> ChatApp:
    return cast("ChatApp", current_app)


@openai_routes.get("/models")
def models() -> Response:
    """The one loaded model, then each persona of it; listed while it loads, too, as clients ask when they start."""
    names = [_app().chat.status().model_id, *map(persona_model, _app().personas)]
    return json_response({"object": "list", "data": [model_entry(name) for name in names]})


@openai_routes.get("/models/<path:name>")
def model(name: str) -> Response:
    loaded = _app().chat.status().model_id
    if name not in (loaded, shown_name(loaded), *map(persona_model, _app().personas)):
        raise unknown_model(name)
    return json_response(model_entry(name))


@openai_routes.post("/chat/completions")
def chat_completions() -> Response:
    app = _app()
    asked = parse_chat_completion(json_body(request), app.settings, app.personas)
    return answer(asked.choices, ChatCompletion(asked), streamed=asked.stream)


@openai_routes.post("/completions")
def completions() -> Response:
    app = _app()
    asked = parse_completion(json_body(request), app.settings, app.personas)
    return answer(asked.choices, CompletionReply(asked, echoes(asked, app.chat)), streamed=asked.stream)


@openai_routes.post("/responses")
def responses() -> Response:
    app = _app()
    asked = parse_responses(json_body(request), app.settings, app.personas)
    return answer([asked.chat], ResponsesReply(asked.repeated, asked.model), streamed=asked.stream)


@openai_routes.get("/openapi.json")
def document() -> Response:
    return json_response(openapi())


@openai_routes.post("/tokenize")
def tokenize() -> Response:
    """The prompt of a request in tokens, without a reply."""
    app = _app()
    asked = parse_tokenize(json_body(request), app.settings, app.personas)
    return json_response(asked.reply(app.chat.tokenize(asked.chat)))
