"""How replies of the OpenAI door end before their time, as the openai SDK tells it: cancel, deadline, fault, queue."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.served_model import ENDLESS, ServedModel

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


class Impatient(OpenAI):
    """Tries again at once and keeps how long it was told to wait; `between` runs in the meantime."""

    waits: list[float]

    def between(self) -> None:
        """Nothing happens."""

    def _sleep_for_retry(self, *, retries_taken: int, max_retries: int, options: Any, response: Any) -> None:
        left = max_retries - retries_taken
        self.waits.append(self._calculate_retry_timeout(left, options, response.headers if response else None))
        self.between()


@pytest.fixture
def client(served_model: ServedModel) -> Iterator[Impatient]:
    served_model.wait_until_idle()
    with Impatient(base_url=f"{served_model.url}/v1", api_key="any", max_retries=2) as client:
        client.waits = []
        yield client
    served_model.wait_until_idle()


def begun(client: OpenAI, **fields: Any) -> Stream[ChatCompletionChunk]:
    """A stream that would go on for long, of which the first text has come."""
    stream = client.chat.completions.create(stream=True, **{**ASKED, **ENDLESS, **fields})
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    return stream


def waiting(client: OpenAI) -> Stream[ChatCompletionChunk]:
    return client.chat.completions.create(stream=True, **ASKED, **ENDLESS)


def short(client: OpenAI, **fields: Any) -> ChatCompletion:
    return client.chat.completions.create(**{**ASKED, "max_tokens": 4, "logit_bias": {"0": -100}, **fields})


def test_a_closed_stream_frees_its_row_for_who_waits(client: Impatient, served_model: ServedModel) -> None:
    running = [begun(client) for _ in range(served_model.chat.settings.max_rows)]
    next_one = client.chat.completions.create(stream=True, max_tokens=4, **ASKED)
    assert served_model.alive == 3
    running[0].close()
    assert [chunk.choices[0].finish_reason for chunk in next_one][-1] in ("length", "stop")
    assert served_model.alive == 1
    running[1].close()


def test_a_cancelled_request_without_a_stream_frees_its_row(client: Impatient, served_model: ServedModel) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3, max_retries=0).chat.completions.create(**ASKED, **ENDLESS)
    served_model.wait_until_idle()
    assert short(client).choices[0].finish_reason == "length"


def test_a_full_queue_is_retried_until_a_place_frees(client: Impatient, served_model: ServedModel) -> None:
    held = [begun(client), begun(client), waiting(client), waiting(client)]
    with pytest.raises(openai.RateLimitError) as told:
        short(client.with_options(max_retries=0))
    assert (told.value.code, told.value.response.headers["Retry-After"]) == ("rate_limit_exceeded", "5")

    def free_places() -> None:
        for one in held:
            one.close()
        served_model.wait_until_idle()

    client.between = free_places  # type: ignore[method-assign]
    assert short(client).choices[0].finish_reason == "length"
    assert client.waits == [5.0]


def test_choices_beyond_the_queue_are_refused_whole(client: Impatient, served_model: ServedModel) -> None:
    with pytest.raises(openai.RateLimitError):
        short(client.with_options(max_retries=0), n=served_model.chat.settings.max_requests + 1)
    assert served_model.alive == 0


def test_a_deadline_is_a_length_with_the_usage_so_far(client: Impatient) -> None:
    fields: dict[str, Any] = {**ENDLESS, "extra_body": {"ignore_eos": True, "deadline_ms": 800}}
    reply = client.chat.completions.create(**ASKED, **fields)
    assert (reply.choices[0].finish_reason, bool(reply.choices[0].message.content)) == ("length", True)
    assert 0 < reply.usage.completion_tokens < ENDLESS["max_tokens"]
    *_, end, usage = client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **ASKED, **fields
    )
    assert end.choices[0].finish_reason == "length"
    assert 0 < usage.usage.completion_tokens < ENDLESS["max_tokens"]


def test_a_deadline_is_an_incomplete_response(client: Impatient) -> None:
    limits = {"ignore_eos": True, "deadline_ms": 500}
    reply = client.responses.create(model="m", input="Hello", max_output_tokens=16_000, extra_body=limits)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert 0 < reply.usage.output_tokens < 16_000


def test_a_fault_in_mid_stream_is_an_error_and_the_next_request_works(
    client: Impatient, served_model: ServedModel
) -> None:
    stream = begun(client)
    response = client.responses.create(model="m", input="Hello", stream=True, max_output_tokens=16_000)
    with client.chat.completions.with_streaming_response.create(stream=True, **ASKED, **ENDLESS) as raw:
        os.kill(served_model.chat.engine.worker_pid or 0, signal.SIGKILL)
        *_, error, done = filter(None, raw.iter_lines())
    assert sorted(json.loads(error.removeprefix("data: "))["error"]) == ["code", "hint", "message", "param", "type"]
    assert done == "data: [DONE]"
    for broken in (stream, response):
        with pytest.raises(openai.APIError) as told:
            list(broken)
        assert told.value.code == "engine_failed"
        assert told.value.body["hint"]
    # Who asks now waits until the model is there again.
    assert short(client).choices[0].finish_reason == "length"
