"""Plain curl at the OpenAI door: JSON, events as they come, errors with their status."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.chat_services import events_of
from tests.served_model import KEY, ServedModel

ASKED = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "seed": 7}


def curl(url: str, *options: str, **fields: Any) -> tuple[str, int, str]:
    """Body, status and content type."""
    body = ["-H", "Content-Type: application/json", "-d", json.dumps(fields)] if fields else []
    told = "\n%{http_code} %{content_type}"
    command = ["curl", "-sS", "--max-time", "120", "-w", told, *options, *body, url]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    text, _, last = ran.stdout.rpartition("\n")
    status, _, kind = last.partition(" ")
    return text, int(status), kind


def test_a_chat_completion_is_json(served_model: ServedModel) -> None:
    text, status, kind = curl(f"{served_model.url}/v1/chat/completions", **ASKED)
    assert (status, kind) == (200, "application/json")
    reply = json.loads(text)
    assert reply["object"] == "chat.completion"
    assert reply["usage"]["completion_tokens"] == 12


def test_a_stream_comes_as_events_and_ends_with_done(served_model: ServedModel) -> None:
    whole = json.loads(curl(f"{served_model.url}/v1/chat/completions", **ASKED)[0])["choices"][0]["message"]["content"]
    text, status, kind = curl(f"{served_model.url}/v1/chat/completions", "-N", **ASKED, stream=True)
    assert (status, kind) == (200, "text/event-stream; charset=utf-8")
    *chunks, done = events_of(text)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole


def test_completions_and_responses_answer_too(served_model: ServedModel) -> None:
    completion, status, _ = curl(f"{served_model.url}/v1/completions", prompt="Once upon", max_tokens=4)
    assert (status, json.loads(completion)["object"]) == (200, "text_completion")
    response, status, _ = curl(f"{served_model.url}/v1/responses", input="Hello", max_output_tokens=4)
    assert (status, json.loads(response)["object"]) == (200, "response")


def test_the_model_is_listed(served_model: ServedModel) -> None:
    text, status, _ = curl(f"{served_model.url}/v1/models")
    assert (status, json.loads(text)["data"][0]["id"]) == (200, served_model.model)


def test_an_error_has_its_status_and_says_what_to_do(served_model: ServedModel) -> None:
    for url, fields, expected in [
        ("/v1/chat/completions", {"messages": []}, 400),
        ("/v1/chat/completions", {**ASKED, "n": 1000, "stream": True}, 400),
        ("/v1/nothing", {}, 404),
    ]:
        text, status, kind = curl(served_model.url + url, **fields)
        error = json.loads(text)["error"]
        assert (status, kind) == (expected, "application/json")
        assert sorted(error) == ["code", "hint", "message", "param", "type"]
        assert error["hint"]


def test_a_locked_server_asks_for_its_key(served_model: ServedModel) -> None:
    url = f"{served_model.locked_url}/v1/models"
    assert curl(url, "-H", f"Authorization: Bearer {KEY}")[1] == 200
    text, status, _ = curl(url)
    assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_api_key")
