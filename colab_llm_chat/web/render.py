"""JSON and errors as HTTP answers, and the headers that every answer carries. Knows no route's work."""

from __future__ import annotations

import json
import logging
import re
import secrets
from typing import Any

from flask import Request, Response, g, request
from werkzeug.exceptions import HTTPException

from ..errors import (
    BodyTooLarge,
    ChatError,
    InvalidRequest,
    MethodNotAllowed,
    RouteNotFound,
    UnsupportedMediaType,
)
from ..protocol.simple import error_fields

logger = logging.getLogger("colab_llm_chat")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self' https://*.googleusercontent.com https://colab.research.google.com"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# For clients that ask for embeddings, images or speech.
OPENAI_ROUTES = (
    "There is POST /v1/chat/completions, /v1/completions, /v1/responses and /tokenize, and GET /v1/models; "
    "GET /openapi.json describes them."
)
# Of an HTTPException's headers only those that its status demands; its content type is that of an HTML page.
KEPT_HEADERS = frozenset({"allow", "content-range", "retry-after"})


def request_id() -> str:
    """The id of the request being answered: the client's own where it is short and plain."""
    if "request_id" not in g:
        sent = request.headers.get("x-request-id", "")
        g.request_id = sent if REQUEST_ID.fullmatch(sent) else "req-" + secrets.token_hex(8)
    return str(g.request_id)


def json_response(fields: dict[str, Any], status: int = 200) -> Response:
    # A file's name in an error may hold what UTF-8 cannot carry; the answer goes out all the same.
    body = json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, status=status, mimetype="application/json")


def json_body(sent: Request) -> bytes:
    """The bytes of a request that says it is JSON. A form or plain text, which any web page may send, is refused."""
    if sent.mimetype != "application/json" and not sent.mimetype.endswith("+json"):
        raise UnsupportedMediaType("The request's Content-Type is not application/json.")
    if (sent.content_encoding or "identity").lower() != "identity":
        raise UnsupportedMediaType(
            "The request's body is compressed; this server takes no Content-Encoding but identity.",
            hint="Send the JSON as it is, without the header Content-Encoding.",
        )
    return sent.get_data(cache=False)


def render_error(error: ChatError) -> Response:
    return _error_response(error, error.status, error.headers)


def render_http_exception(error: HTTPException) -> Response:
    """Flask's and Werkzeug's own errors in our shape, with the headers that belong to them."""
    status = error.code or 500
    headers = {name: value for name, value in error.get_headers() if name.lower() in KEPT_HEADERS}
    return _error_response(_translated(status), status, headers)


def render_unexpected(error: Exception) -> Response:
    logger.error("request %s failed", request_id(), exc_info=error)
    return _error_response(unexpected(request_id()), 500, {})


def unexpected(request_id: str) -> ChatError:
    """The error of a fault of ours; the log has its traceback under the same id."""
    return ChatError(f"The server failed on this request ({request_id}).")


def finish(response: Response) -> Response:
    """Add what every answer carries."""
    response.headers["x-request-id"] = request_id()
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    # Answers hold conversations, and the page its settings; static files bring a rule of their own.
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def _error_response(error: ChatError, status: int, headers: dict[str, str]) -> Response:
    fields = error_fields(error) if request.path == "/chat" else {"error": error.to_dict()}
    response = json_response(fields, status)
    response.headers.update(headers)
    return response


def _openai_hint(path: str) -> str | None:
    return OPENAI_ROUTES if path == "/v1" or path.startswith("/v1/") else None


def _translated(status: int) -> ChatError:
    match status:
        case 404:
            return RouteNotFound("There is nothing at this address.", hint=_openai_hint(request.path))
        case 405:
            return MethodNotAllowed(f"{request.method} is not allowed here.")
        case 413:
            return BodyTooLarge("The request's body is larger than this server accepts.")
        case 415:
            return UnsupportedMediaType("This content type is not accepted here.")
    if status < 500:
        return InvalidRequest("The request could not be understood.")
    return ChatError("The server could not answer this request.")
