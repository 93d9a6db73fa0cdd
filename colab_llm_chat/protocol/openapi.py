"""The OpenAPI 3.1 document of all doors, made from the models that parse their bodies.

Knows which routes there are; a test compares them with the app's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ..errors import ChatError, InvalidAccessKey, InvalidRequest, ModelLoading, QueueFull
from ..settings import VERSION, SamplingParams
from .chat_completions import ChatCompletionBody
from .completions import CompletionBody
from .reply_models import (
    ChatCompletionReply,
    Document,
    ErrorReply,
    Health,
    Model,
    ModelList,
    ResponseReply,
    SimpleChatReply,
    SimpleErrorReply,
    TextCompletionReply,
    TokenizeReply,
)
from .responses import ResponsesBody
from .simple import SimpleBody
from .tokenize import TokenizeBody

COMPONENTS = "#/components/schemas/{model}"
DESCRIPTION = (
    "A private chat with an open language model. The routes under /v1 are there without /v1, too. "
    "`null` in a request is the same as leaving a field out; unknown keys are ignored."
)
EVENTS = "text/event-stream"
JSON = "application/json"
# Of one event; its data is JSON, at the end of a stream `[DONE]`.
EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
BRACES = str.maketrans("", "", "{}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route: what it takes and gives. With `streams` the reply may also be events."""

    method: str
    path: str
    summary: str
    body: type[BaseModel] | None = None
    reply: type[BaseModel]
    failure: type[BaseModel] = ErrorReply
    streams: bool = False
    is_open: bool = False


ROUTES = (
    Route(method="get", path="/health", summary="State of the model", reply=Health, failure=Health, is_open=True),
    Route(
        method="post",
        path="/chat",
        summary="One reply, for scripts and handlers",
        body=SimpleBody,
        reply=SimpleChatReply,
        failure=SimpleErrorReply,
        streams=True,
    ),
    Route(method="get", path="/v1/models", summary="The loaded model and its personas", reply=ModelList),
    Route(method="get", path="/v1/models/{name}", summary="One of them by its id", reply=Model),
    Route(
        method="post",
        path="/v1/chat/completions",
        summary="Chat completion",
        body=ChatCompletionBody,
        reply=ChatCompletionReply,
        streams=True,
    ),
    Route(
        method="post",
        path="/v1/completions",
        summary="Text completion",
        body=CompletionBody,
        reply=TextCompletionReply,
        streams=True,
    ),
    Route(
        method="post",
        path="/v1/responses",
        summary="Response, stateless",
        body=ResponsesBody,
        reply=ResponseReply,
        streams=True,
    ),
    Route(method="post", path="/v1/tokenize", summary="A prompt's tokens", body=TokenizeBody, reply=TokenizeReply),
    Route(method="get", path="/openapi.json", summary="This document", reply=Document),
)
# Those that a caller can count on meeting; `default` describes every other.
FAILURES: tuple[type[ChatError], ...] = (InvalidRequest, InvalidAccessKey, QueueFull, ModelLoading)


def openapi() -> dict[str, Any]:
    """The document, as JSON."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "colab-llm-chat", "version": VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        # Asked for once the server can be reached from outside, so both are true.
        "security": [{"accessKey": []}, {}],
        "paths": {route.path: {route.method: _operation(route)} for route in ROUTES},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"accessKey": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    events = {EVENTS: {"schema": EVENT}} if route.streams else {}
    asked = FAILURES if route.body else (InvalidAccessKey,)
    failures = () if route.is_open else asked
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method}_{route.path.strip('/').replace('/', '_').translate(BRACES)}",
        "responses": {
            "200": {"description": "Done", "content": {JSON: _of(route.reply), **events}},
            **{str(kind.status): _failure(kind.default_hint, route.failure) for kind in failures},
            "default": _failure("Anything else", route.failure),
        },
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: _of(route.body)}}
    if "{name}" in route.path:
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        operation["parameters"] = [{**name, "description": "May have slashes, as ids on the Hub do."}]
    if route.is_open:
        operation["security"] = []
    return operation


def _of(model: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": COMPONENTS.format(model=model.__name__)}}


def _failure(description: str, model: type[BaseModel]) -> dict[str, Any]:
    return {"description": description, "content": {JSON: _of(model)}}


def _schemas() -> dict[str, Any]:
    bodies = [route.body for route in ROUTES if route.body is not None]
    replies = [model for route in ROUTES for model in (route.reply, route.failure)]
    models: list[Any] = [(model, "validation") for model in dict.fromkeys([*bodies, *replies])]
    _, document = models_json_schema(models, ref_template=COMPONENTS)
    schemas: dict[str, Any] = document["$defs"]
    simple = schemas[SimpleBody.__name__]
    simple["anyOf"] = [{"required": ["message"]}, {"required": ["continue"]}]
    # They are parsed apart from the rest of the body, over the server's own.
    simple["properties"] |= {
        name: {"anyOf": [schema, {"type": "null"}]}
        for name, schema in SamplingParams.model_json_schema()["properties"].items()
    }
    return schemas
