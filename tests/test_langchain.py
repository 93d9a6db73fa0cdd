"""LangChain's ChatOpenAI, which agents are built on, against a real server over a tiny model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.served_model import KEY, ServedModel

HELLO = [SystemMessage("Be brief."), HumanMessage("Hello")]


class Trip(BaseModel):
    """A journey."""

    city: Literal["Kyoto", "Nara"]
    days: Literal[1, 2] | None


@tool
def weather(city: Literal["Kyoto", "Nara"]) -> str:
    """Weather of a city."""
    return f"rain in {city}"


class Connected:
    """Makes chat models that share a connection pool: LangChain's own is closed by nobody."""

    def __init__(self, served: ServedModel, http_client: openai.DefaultHttpxClient) -> None:
        self.asked: dict[str, Any] = {
            "model": served.model,
            "base_url": f"{served.url}/v1",
            "api_key": "any",
            "http_client": http_client,
            "max_retries": 0,
            "seed": 7,
            "max_tokens": 24,
        }

    def __call__(self, **fields: Any) -> ChatOpenAI:
        return ChatOpenAI(**{**self.asked, **fields})


@pytest.fixture
def chat_model(served_model: ServedModel) -> Iterator[Connected]:
    with openai.DefaultHttpxClient() as http_client:
        yield Connected(served_model, http_client)


@pytest.fixture
def model(chat_model: Connected) -> ChatOpenAI:
    return chat_model()


def test_a_reply_has_text_and_usage(model: ChatOpenAI, served_model: ServedModel) -> None:
    reply = model.invoke(HELLO)
    assert reply.text
    assert reply.usage_metadata["output_tokens"] == 24
    assert reply.response_metadata["finish_reason"] == "length"
    assert reply.response_metadata["model_name"] == served_model.model


def test_a_stream_is_the_same_text_and_tells_usage(model: ChatOpenAI) -> None:
    chunks = list(model.stream(HELLO, stream_usage=True))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessageChunk)
    assert (whole.text, whole.usage_metadata["output_tokens"]) == (model.invoke(HELLO).text, 24)


def test_a_bound_tool_is_called_and_its_answer_talked_about(chat_model: Connected) -> None:
    model = chat_model(max_tokens=200)
    forced = model.bind_tools([weather], tool_choice="any", strict=True, parallel_tool_calls=False)
    called = forced.invoke(HELLO)
    [call] = called.tool_calls
    answer = weather.invoke(call)
    assert isinstance(answer, ToolMessage)
    assert answer.content.startswith("rain in")
    after = model.bind_tools([weather], tool_choice="none").invoke([*HELLO, called, answer])
    assert isinstance(after, AIMessage)
    assert (bool(after.text), after.tool_calls) == (True, [])


def test_a_streamed_call_joins_to_the_whole_one(chat_model: Connected) -> None:
    forced = chat_model(max_tokens=200).bind_tools([weather], tool_choice="weather", strict=True)
    chunks = list(forced.stream(HELLO, parallel_tool_calls=False))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [call["args"] for call in whole.tool_calls] == [
        call["args"] for call in forced.invoke(HELLO, parallel_tool_calls=False).tool_calls
    ]


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_is_the_callers_model(chat_model: Connected, method: Any) -> None:
    structured = chat_model(max_tokens=200).with_structured_output(Trip, method=method, strict=True)
    assert isinstance(structured.invoke(HELLO), Trip)


def test_json_mode_is_an_object_of_any_kind(chat_model: Connected, served_model: ServedModel) -> None:
    closing = chat_model(logit_bias={served_model.token_id("}"): 100})
    assert closing.with_structured_output(None, method="json_mode").invoke(HELLO) == {}


def test_the_responses_api_answers_too(chat_model: Connected) -> None:
    # The package gives that API no seed of its own accord, and without one a turn may end at once.
    reply = chat_model(use_responses_api=True, seed=None, extra_body={"seed": 7}).invoke(HELLO)
    assert (bool(reply.text), 0 < reply.usage_metadata["output_tokens"] <= 24) == (True, True)


def test_async_calls_and_streams_work(chat_model: Connected) -> None:
    async def both() -> tuple[str, str]:
        async with openai.DefaultAsyncHttpxClient() as http_client:
            model = chat_model(http_async_client=http_client)
            whole = await model.ainvoke(HELLO)
            return whole.text, "".join([chunk.text async for chunk in model.astream(HELLO)])

    whole, streamed = asyncio.run(both())
    assert whole == streamed != ""


def test_a_key_opens_a_locked_server(chat_model: Connected, served_model: ServedModel) -> None:
    locked = f"{served_model.locked_url}/v1"
    assert chat_model(base_url=locked, api_key=KEY).invoke("Hello").text
    with pytest.raises(openai.AuthenticationError):
        chat_model(base_url=locked, api_key="wrong").invoke("Hello")
