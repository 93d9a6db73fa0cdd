"""The OpenAPI document, and every route held to it by requests that schemathesis makes up."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from pydantic import BaseModel
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from colab_llm_chat.protocol import reply_models
from colab_llm_chat.protocol.messages import Delta, TokenLogprob, ToolCallDelta
from colab_llm_chat.protocol.openapi import ROUTES, openapi
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import ChatApp, create_app
from tests.chat_services import ScriptedChat, events_of, reply_end

TOKEN = TokenLogprob("a", b"a", -0.1)
STEPS = [
    Delta(reasoning="Hm."),
    Delta("a", logprobs=(TOKEN,)),
    Delta(tool_calls=(ToolCallDelta(0, "{}", "call_1", "f"),)),
    Delta(end=reply_end("tool_calls")),
]
USER = {"role": "user", "content": "hi"}
# Pages are described by what they show, metrics by README's table.
UNDESCRIBED = {"/", "/metrics", "/session", "/favicon.ico", "/static/<path:filename>"}
CONFORMS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def make_app(**chat: Any) -> ChatApp:
    return create_app(Settings(), ScriptedChat(**chat))


schema = schemathesis.openapi.from_wsgi("/openapi.json", make_app())


@schema.parametrize()
@settings(
    max_examples=10,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_made_up_requests_get_what_the_document_says(case: schemathesis.Case) -> None:
    response = case.call()
    case.validate_response(response, checks=CONFORMS)
    if response.status_code >= 400 and case.path != "/health":
        assert set(response.json()["error"]) == {"message", "type", "param", "code", "hint"}


def test_every_route_is_described() -> None:
    served = {rule.rule for rule in make_app().url_map.iter_rules()} - UNDESCRIBED
    described = {route.path.replace("{name}", "<path:name>") for route in ROUTES}
    without_prefix = {path.removeprefix("/v1") for path in described}
    assert served == described | without_prefix | {"/v1/openapi.json"}


def test_the_document_names_version_key_and_every_schema_it_points_to() -> None:
    document = openapi()
    assert document["openapi"].startswith("3.1")
    assert document["components"]["securitySchemes"]["accessKey"]["scheme"] == "bearer"
    text = json.dumps(document)
    pointed = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert pointed <= set(document["components"]["schemas"])
    assert not [name for name in document["components"]["schemas"] if name.startswith("_")]


@pytest.mark.parametrize(
    ("path", "fields", "shape"),
    [
        ("/chat", {"message": "hi"}, reply_models.SimpleChatReply),
        ("/v1/chat/completions", {"messages": [USER], "logprobs": True, "n": 2}, reply_models.ChatCompletionReply),
        ("/v1/completions", {"prompt": "hi", "logprobs": 1}, reply_models.TextCompletionReply),
        ("/v1/responses", {"input": "hi"}, reply_models.ResponseReply),
        ("/tokenize", {"prompt": "hi", "return_token_strs": True}, reply_models.TokenizeReply),
    ],
)
def test_a_reply_has_every_field_that_the_document_promises(
    path: str, fields: dict[str, Any], shape: type[BaseModel]
) -> None:
    steps = ["Hello"] if path == "/chat" else STEPS[1:2] if path == "/v1/completions" else STEPS[:-1]
    end = reply_end("stop" if path in ("/chat", "/v1/completions") else "tool_calls")
    response = make_app(steps=steps, end=end).test_client().post(path, json=fields)
    assert response.status_code == 200
    told = shape.model_validate(response.get_json()).model_dump(exclude_unset=True)
    assert told == response.get_json() if path != "/v1/responses" else told["output"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": [USER]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/chat", {"message": "hi"}),
    ],
)
def test_a_stream_is_events_until_done(path: str, asked: dict[str, Any]) -> None:
    events = events_of(make_app().test_client().post(path, json={**asked, "stream": True}).get_data(as_text=True))
    assert events[-1] == "[DONE]"
