"""The OpenAI door's routes: models, both addresses of each, errors."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from flask.testing import FlaskClient
from pydantic import BaseModel

from colab_llm_chat.errors import ChatError, ContextLengthExceeded, ModelLoading, OutOfMemory, QueueFull
from colab_llm_chat.protocol.messages import Delta, Status, ToolCallDelta
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat, events_of, reply_end, serving

USER = {"role": "user", "content": "hi"}
ERROR_FIELDS = {"message", "type", "param", "code", "hint"}
both_addresses = pytest.mark.parametrize("base", ["/v1", ""])


def client_of(chat: ScriptedChat | None = None, **settings: Any) -> FlaskClient:
    return create_app(Settings(**settings), chat or ScriptedChat()).test_client()


def loading(model_id: str) -> ScriptedChat:
    return ScriptedChat(state=Status(state="loading", model_id=model_id))


@both_addresses
def test_the_loaded_model_is_listed_even_while_it_loads(base: str) -> None:
    listed = client_of(loading("rinna/llama-3-youko-8b")).get(f"{base}/models").get_json()
    assert (listed["object"], listed["data"][0]["id"]) == ("list", "rinna/llama-3-youko-8b")
    assert all(model["id"].startswith("persona:") for model in listed["data"][1:])
    assert {"id", "object", "created", "owned_by"} <= set(listed["data"][0])


@both_addresses
def test_a_model_is_found_by_an_id_with_a_slash(base: str) -> None:
    model = client_of(loading("rinna/llama-3-youko-8b")).get(f"{base}/models/rinna/llama-3-youko-8b").get_json()
    assert (model["id"], model["object"]) == ("rinna/llama-3-youko-8b", "model")


def test_a_folder_is_listed_by_its_own_name_only() -> None:
    client = client_of(loading("/home/someone/models/cat"))
    assert client.get("/v1/models").get_json()["data"][0]["id"] == "cat"
    assert client.get("/v1/models/cat").status_code == 200


@pytest.mark.parametrize("name", ["gpt-5", "catbot/x", "persona:me", "a%20b"])
def test_another_model_is_404(name: str) -> None:
    response = client_of().get(f"/v1/models/{name}")
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/embeddings", "/images/generations", "/audio/speech", "/moderations", "", "/"])
def test_what_is_not_there_is_404_and_says_what_is(path: str) -> None:
    response = client_of().post(f"/v1{path}", json={})
    error = response.get_json()["error"]
    assert (response.status_code, error["code"], set(error)) == (404, "route_not_found", ERROR_FIELDS)
    assert "/v1/chat/completions" in error["hint"]
    assert "GET / is the page" not in error["hint"]


@both_addresses
def test_a_chat_completion_is_answered(base: str) -> None:
    reply = client_of().post(f"{base}/chat/completions", json={"messages": [USER]}).get_json()
    assert (reply["object"], reply["choices"][0]["message"]["content"]) == ("chat.completion", "Hello")


def test_each_choice_is_a_request_of_its_own() -> None:
    chat = ScriptedChat()
    reply = client_of(chat).post("/v1/chat/completions", json={"messages": [USER], "n": 3, "seed": 1}).get_json()
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["Hello"] * 3
    assert [request.sampling.seed for request in chat.requests] == [1, 2, 3]


def test_a_stream_has_its_headers_and_ends_with_done() -> None:
    response = client_of().post("/v1/chat/completions", json={"messages": [USER], "stream": True})
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-cache", "no")
    events = events_of(response.get_data(as_text=True))
    assert events[-1] == "[DONE]"
    assert len(events) == 5


def test_a_stream_that_breaks_ends_with_the_error_and_done() -> None:
    chat = ScriptedChat(steps=["Hel", OutOfMemory("Too much.")])
    response = client_of(chat).post("/v1/chat/completions", json={"messages": [USER], "stream": True})
    *_, error, done = events_of(response.get_data(as_text=True))
    assert (error, done) == ({"error": OutOfMemory("Too much.").to_dict()}, "[DONE]")


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (QueueFull("Full.", retry_after=5), 429, {"Retry-After": "5"}),
        (ModelLoading("Loading.", retry_after=10), 503, {"Retry-After": "10"}),
        (OutOfMemory("Too much."), 503, {"x-should-retry": "false"}),
        (ContextLengthExceeded("9 of 8 tokens.", param="messages"), 400, {}),
    ],
)
def test_a_refusal_has_its_status_and_headers(error: ChatError, status: int, headers: dict[str, str]) -> None:
    for stream in (False, True):
        body = {"messages": [USER], "stream": stream}
        response = client_of(ScriptedChat(refuses_with=error)).post("/v1/chat/completions", json=body)
        assert (response.status_code, response.get_json()) == (status, {"error": error.to_dict()})
        assert {name: response.headers[name] for name in headers} == headers
        assert response.headers["x-request-id"]


@both_addresses
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"data": b"{", "content_type": "application/json"}, 400, "invalid_request"),
        ({"data": b"[]", "content_type": "application/json"}, 400, "invalid_request"),
        ({"data": b"{}", "content_type": "text/plain"}, 415, "unsupported_media_type"),
        ({"data": b" " * 2000, "content_type": "application/json"}, 413, "body_too_large"),
        ({"method": "GET"}, 405, "method_not_allowed"),
        ({"method": "DELETE"}, 405, "method_not_allowed"),
        ({"json": {"messages": [USER], "n": 1000}}, 400, "invalid_request"),
    ],
)
def test_every_refusal_is_in_the_envelope(base: str, sent: dict[str, Any], status: int, code: str) -> None:
    response = client_of(max_body_bytes=1024).open(f"{base}/chat/completions", **{"method": "POST", **sent})
    [(name, error)] = response.get_json().items()
    assert (response.status_code, name, error["code"], set(error)) == (status, "error", code, ERROR_FIELDS)


@both_addresses
def test_without_the_key_it_is_401_as_openai_says_it(base: str) -> None:
    response = client_of(access_key="k").get(f"{base}/models")
    error = response.get_json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (401, "invalid_api_key", "authentication_error")
    assert response.headers["WWW-Authenticate"] == "Bearer"


class Cat(BaseModel):
    """What the client's helpers parse replies into."""

    name: str


def sdk(port: int | None, base: str = "/v1", key: str = "k") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}{base}", api_key=key)


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "gpt-x", "messages": [USER], **fields}


@pytest.mark.parametrize("base", ["/v1", "/v1/", ""])
def test_openais_client_lists_and_parses_by_any_base_url(base: str) -> None:
    chat = ScriptedChat(steps=['{"name":', ' "Tama"}'])
    with serving(create_app(Settings(access_key="k"), chat)) as app, sdk(app.bound_port, base) as client:
        assert next(iter(client.models.list())).id == "catbot"
        reply = client.chat.completions.parse(**asked(response_format=Cat))
    assert reply.choices[0].message.parsed == Cat(name="Tama")
    assert (chat.requests[0].json_schema or {})["properties"]["name"]["type"] == "string"


def test_openais_client_puts_a_streamed_tool_call_together() -> None:
    begun = Delta(tool_calls=(ToolCallDelta(0, call_id="call_1", name="Cat"),))
    steps = [Delta(reasoning="Hm."), begun, Delta(tool_calls=(ToolCallDelta(0, '{"name": "Tama"}'),))]
    chat = ScriptedChat(steps=[*steps], end=reply_end("tool_calls"))
    fields = asked(tools=[openai.pydantic_function_tool(Cat)], stream_options={"include_usage": True})
    with (
        serving(create_app(Settings(), chat)) as app,
        sdk(app.bound_port) as client,
        client.chat.completions.stream(**fields) as stream,
    ):
        reply = stream.get_final_completion()
    [call] = reply.choices[0].message.tool_calls or []
    assert (call.id, call.function.parsed_arguments) == ("call_1", Cat(name="Tama"))
    assert reply.usage is not None
    assert reply.usage.total_tokens == 10


def test_openais_client_raises_its_own_errors() -> None:
    chat = ScriptedChat(refuses_with=QueueFull("Full.", retry_after=5))
    with serving(create_app(Settings(access_key="k"), chat)) as app:
        with sdk(app.bound_port, key="wrong") as client, pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        with sdk(app.bound_port).with_options(max_retries=0) as client, pytest.raises(openai.RateLimitError) as full:
            client.chat.completions.create(**asked())
    assert (refused.value.code, full.value.code) == ("invalid_api_key", "rate_limit_exceeded")


def test_openais_client_raises_what_breaks_a_stream() -> None:
    chat = ScriptedChat(steps=["Hel", OutOfMemory("Too much.")])
    with serving(create_app(Settings(), chat)) as app, sdk(app.bound_port) as client:
        chunks = client.chat.completions.create(**asked(stream=True))
        with pytest.raises(openai.APIError, match="Too much"):
            list(chunks)
