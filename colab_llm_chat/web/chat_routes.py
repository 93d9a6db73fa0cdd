"""POST /chat, the door for scripts: one reply as JSON or as a stream of events. Knows no tokens and no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import Blueprint, Response, current_app, request

from ..protocol.simple import SimpleReply, parse_chat
from .answering import EVENTS, answer
from .render import json_body

if TYPE_CHECKING:
    from .app import ChatApp

chat_routes = Blueprint("chat", __name__)


@chat_routes.post("/chat")
def chat() -> Response:
    app = cast("ChatApp", current_app)
    parsed = parse_chat(json_body(request), app.settings, app.personas)
    streamed = parsed.stream if parsed.stream is not None else _accepts_events()
    return answer([parsed.chat], SimpleReply(parsed), streamed=streamed)


def _accepts_events() -> bool:
    """Whether the Accept header names events and likes JSON no better. `*/*` is what tools say that expect JSON."""
    accepted = request.accept_mimetypes
    named = [quality for kind, quality in accepted if kind.partition(";")[0].strip().lower() == EVENTS]
    return max(named, default=0) > 0 and max(named) >= accepted.quality("application/json")
