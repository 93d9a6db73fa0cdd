"""The page, its session cookie, the server's health and the icon. Knows no conversation."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, cast

from flask import Blueprint, Response, current_app, render_template, request

from ..errors import InvalidAccessKey, InvalidRequest
from ..protocol.body import parse_object
from ..protocol.model_names import shown_name
from ..settings import VERSION
from .render import json_body, json_response

if TYPE_CHECKING:
    from .app import ChatApp

# Names that lead to this machine, or to one of the same network.
LOCAL_ENDINGS = (".local", ".localhost", ".internal")

page_routes = Blueprint("page", __name__)


def _app() -> ChatApp:
    return cast("ChatApp", current_app)


@page_routes.get("/")
def page() -> Response:
    app = _app()
    page_settings = {
        "modelName": shown_name(app.chat.status().model_id),
        "maxMessageCharacters": app.settings.max_message_characters,
        "accessKeyRequired": app.access.required,
        "relay": _relay(request.headers.get("X-Forwarded-Host") or request.host),
        "sourceLanguage": app.settings.language_source,
        "targetLanguage": app.settings.language_target,
        "cookieName": app.access.cookie_name,
        "version": VERSION,
    }
    return Response(render_template("index.html", page_settings=page_settings), mimetype="text/html")


@page_routes.get("/health")
def health() -> Response:
    status = _app().chat.status()
    fields: dict[str, Any] = {"status": status.state}
    # Open to all, so strangers learn no more than a load balancer needs; a model's path names its owner.
    if _app().access.recognises(request):
        fields |= {"model": status.model_id, "progress": status.progress, "detail": status.detail}
        fields |= {"task": status.task, "languages": status.languages}
        if status.error is not None:
            fields["error"] = status.error
    return json_response(fields, 200 if status.state == "ok" else 503)


@page_routes.post("/session")
def sign_in() -> Response:
    """Trade the access key for a cookie that lasts as long as the browser is open."""
    access = _app().access
    key = parse_object(json_body(request)).get("key")
    if not isinstance(key, str):
        raise InvalidRequest("`key` must be a string.", param="key")
    if access.required and not access.opens(key):
        raise InvalidAccessKey("The access key is wrong.", param="key")
    response = Response(status=204)
    if access.required:
        # Where an unregistered proxy speaks https for us, only the page's own address tells so.
        secure = request.is_secure or request.headers.get("Origin", "").startswith("https://")
        response.set_cookie(
            access.cookie_name, access.cookie_value, httponly=True, samesite="Lax", path="/", secure=secure
        )
    return response


@page_routes.delete("/session")
def sign_out() -> Response:
    response = Response(status=204)
    response.delete_cookie(_app().access.cookie_name, httponly=True, samesite="Lax", path="/")
    return response


@page_routes.get("/favicon.ico")
def favicon() -> Response:
    return _app().send_static_file("icon.svg")


def _relay(host: str) -> str:
    """The public name by which the visitor came, whose operator passes all messages on; empty where there is none."""
    name = host.lower().partition(":")[0].removesuffix(".")
    is_address = name.startswith("[") or name.replace(".", "").isdigit()
    is_near = "." not in name or name.endswith(LOCAL_ENDINGS) or name == socket.gethostname().lower()
    return "" if is_address or is_near else name
