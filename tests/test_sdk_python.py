"""The openai Python SDK as its users call it, against a real server over a tiny model."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, Field

from tests.served_model import END_ID, KEY, ServedModel

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
SEEDED: dict[str, Any] = {"seed": 7, "max_tokens": 24}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Kyoto", "Nara"]}, "days": {"type": "integer", "enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "Weather of a city.", "parameters": WEATHER}}
]
# At least two calls, and the end as soon as it may come after them.
TWO_CALLS: dict[str, Any] = {"extra_body": {"min_tokens": 120}, "logit_bias": {str(END_ID): 100}, "max_tokens": 400}


class Step(BaseModel):
    what: Annotated[str, Field(max_length=8)]
    kind: Literal["walk", "rest"]


class Plan(BaseModel):
    steps: Annotated[list[Step], Field(min_length=1, max_length=2)]
    note: Literal["short", "long"] | None
    days: Annotated[int, Field(ge=1, le=9)]


@pytest.fixture(scope="module")
def client(served_model: ServedModel) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served_model.url}/v1", api_key="any") as client:
        yield client


def ask(client: OpenAI, **fields: Any) -> ChatCompletion:
    asked = {"model": "m", "messages": HELLO, **SEEDED, **fields}
    return client.chat.completions.create(**asked)


def stream(client: OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(model="m", messages=HELLO, stream=True, **{**SEEDED, **fields}))


def text_of(chunks: list[ChatCompletionChunk], choice: int = 0) -> str:
    parts = [one for chunk in chunks for one in chunk.choices if one.index == choice]
    return "".join(part.delta.content or "" for part in parts)


@pytest.mark.parametrize("path", ["", "/v1", "/v1/"])
@pytest.mark.parametrize("key", ["any", "sk-other", "-"])
def test_any_key_and_base_url_will_do_where_there_is_no_key(served_model: ServedModel, path: str, key: str) -> None:
    with OpenAI(base_url=served_model.url + path, api_key=key) as client:
        assert ask(client, max_tokens=1).usage.completion_tokens == 1


def test_the_model_is_listed_and_retrieved(client: OpenAI, served_model: ServedModel) -> None:
    [model, *personas] = client.models.list()
    assert model.id == served_model.model
    assert client.models.retrieve("persona:cat") in personas
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as told:
        client.models.retrieve("gpt-none")
    assert told.value.code == "model_not_found"


def test_a_reply_has_text_usage_and_its_reason(client: OpenAI, served_model: ServedModel) -> None:
    reply = ask(client)
    [choice] = reply.choices
    assert (choice.message.role, choice.finish_reason, reply.model) == ("assistant", "length", served_model.model)
    assert choice.message.content
    assert reply.usage.completion_tokens == 24
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 24


def test_a_stream_is_the_same_text_in_pieces(client: OpenAI) -> None:
    chunks = stream(client)
    assert text_of(chunks) == ask(client).choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_tells_usage_where_it_is_asked_for(client: OpenAI) -> None:
    *chunks, last = stream(client, stream_options={"include_usage": True})
    assert (last.choices, last.usage) == ([], ask(client).usage)
    assert {chunk.usage for chunk in chunks} == {None}


def test_the_stream_helper_tells_events_and_the_whole_reply(client: OpenAI) -> None:
    text = ask(client).choices[0].message.content or ""
    with client.chat.completions.stream(model="m", messages=HELLO, stop=text[12:14], **SEEDED) as events:
        kinds = Counter(event.type for event in events)
        whole = events.get_final_completion().choices[0]
    assert (whole.message.content, whole.finish_reason) == (text[: text.index(text[12:14])], "stop")
    assert kinds["content.delta"] > 1
    assert kinds["content.done"] == 1


def test_several_choices_differ_and_share_a_prompt(client: OpenAI) -> None:
    reply = ask(client, n=3)
    texts = [choice.message.content for choice in reply.choices]
    assert ([choice.index for choice in reply.choices], len(set(texts))) == ([0, 1, 2], 3)
    assert reply.usage.completion_tokens == 3 * 24
    chunks = stream(client, n=3)
    assert [text_of(chunks, choice) for choice in range(3)] == texts


def test_a_seed_repeats_a_reply(client: OpenAI) -> None:
    def text(seed: int) -> str | None:
        return ask(client, seed=seed, temperature=1.0).choices[0].message.content

    assert text(1) == text(1) != text(2)


def test_a_stop_string_ends_the_reply_before_it(client: OpenAI) -> None:
    whole = ask(client).choices[0].message.content or ""
    stop = whole[6:8]
    [choice] = ask(client, stop=[stop]).choices
    assert (choice.message.content, choice.finish_reason) == (whole[: whole.index(stop)], "stop")
    assert text_of(stream(client, stop=stop)) == choice.message.content


def test_a_bias_forces_a_token_and_keeps_one_out(client: OpenAI) -> None:
    forced = ask(client, logit_bias={str(END_ID): 100})
    assert (forced.choices[0].finish_reason, forced.choices[0].message.content) == ("stop", "")
    usual = ask(client, temperature=0, max_tokens=1, logprobs=True).choices[0].logprobs.content[0]
    ids = tokens(client, usual.token)
    other = ask(client, temperature=0, max_tokens=1, logprobs=True, logit_bias={str(one): -100 for one in ids})
    assert other.choices[0].logprobs.content[0].bytes != usual.bytes


def tokens(client: OpenAI, text: str) -> list[int]:
    told = client.post("/tokenize", cast_to=object, body={"prompt": text})
    return list(told["tokens"])  # type: ignore[index]


def test_a_dialogue_goes_on(client: OpenAI) -> None:
    reply = ask(client)
    messages = [{"role": "system", "content": "Be brief."}, *HELLO, reply.choices[0].message, HELLO[0]]
    longer = ask(client, messages=messages)
    assert longer.usage.prompt_tokens > reply.usage.total_tokens


def test_logprobs_are_those_of_the_tokens(client: OpenAI) -> None:
    [choice] = ask(client, logprobs=True, top_logprobs=3, temperature=0).choices
    whole = choice.logprobs.content
    assert len(whole) == 24
    for token in whole:
        assert [other.logprob for other in token.top_logprobs] == sorted(
            (other.logprob for other in token.top_logprobs), reverse=True
        )
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, token.top_logprobs[0].logprob)
    chunks = stream(client, logprobs=True, top_logprobs=3, temperature=0)
    streamed = [token for chunk in chunks if (told := chunk.choices[0].logprobs) for token in told.content]
    assert [token.bytes for token in streamed] == [token.bytes for token in whole]


def test_parse_gives_the_model_of_the_caller(client: OpenAI) -> None:
    for seed in range(3):
        reply = client.chat.completions.parse(
            model="m", messages=HELLO, response_format=Plan, seed=seed, max_tokens=200
        )
        plan = reply.choices[0].message.parsed
        assert isinstance(plan, Plan)
        assert plan.steps
        assert reply.choices[0].finish_reason == "stop"


def test_the_stream_helper_parses_as_it_goes(client: OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=HELLO, response_format=Plan, max_tokens=200) as events:
        done = [event for event in events if event.type == "content.done"]
    assert [type(event.parsed) for event in done] == [Plan]


def test_any_json_is_an_object(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    form = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {**schema, "additionalProperties": False}},
    }
    reply = ask(client, response_format=form).choices[0].message.content
    assert isinstance(json.loads(reply)["yes"], bool)
    begun = ask(client, response_format={"type": "json_object"}).choices[0].message.content
    assert begun.startswith("{")


def test_logprobs_under_a_mask_are_those_of_what_is_allowed(client: OpenAI) -> None:
    asked = with_schema({"enum": ["no", "yes"]})
    [choice] = ask(client, **asked, logprobs=True, top_logprobs=20, temperature=1.0).choices
    told = choice.logprobs.content
    assert "".join(token.token for token in told) == choice.message.content
    for token in told:
        allowed = [other for other in token.top_logprobs if other.logprob > -9999]
        assert token.token in [other.token for other in allowed]
        assert sum(2.718281828**other.logprob for other in allowed) == pytest.approx(1, abs=1e-3)
    # What must come comes for certain.
    assert any(token.logprob == pytest.approx(0, abs=1e-6) for token in told)


def test_a_forced_call_is_made_answered_and_talked_about(client: OpenAI) -> None:
    first = ask(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=200).choices[0]
    assert (first.finish_reason, first.message.content) == ("tool_calls", None)
    [call] = first.message.tool_calls
    asked = json.loads(call.function.arguments)
    assert (call.type, call.function.name, asked["city"] in ("Kyoto", "Nara")) == ("function", "weather", True)
    answer = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"rain": asked["days"]})}
    second = ask(client, messages=[*HELLO, first.message, answer], tools=TOOLS, tool_choice="none").choices[0]
    assert (second.finish_reason, bool(second.message.content)) == ("length", True)


def test_parallel_calls_have_ids_of_their_own(client: OpenAI) -> None:
    [choice] = ask(client, tools=TOOLS, tool_choice="required", **TWO_CALLS).choices
    calls = choice.message.tool_calls
    assert len(calls) >= 2
    assert len({call.id for call in calls}) == len(calls)
    assert all(json.loads(call.function.arguments)["days"] in (1, 2) for call in calls)


def test_calls_stream_in_pieces_that_join_to_the_whole(client: OpenAI) -> None:
    chunks = stream(client, tools=TOOLS, tool_choice="required", **TWO_CALLS)
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    joined: dict[int, str] = {}
    for piece in pieces:
        # Name and id come once, with the first piece.
        assert (piece.index in joined) == (piece.id is None) == (piece.function.name is None)
        joined[piece.index] = joined.get(piece.index, "") + (piece.function.arguments or "")
    whole = ask(client, tools=TOOLS, tool_choice="required", **TWO_CALLS).choices[0].message.tool_calls
    assert list(joined.values()) == [call.function.arguments for call in whole]
    assert len(pieces) > len(joined)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_stream_helper_parses_calls(client: OpenAI) -> None:
    class Weather(BaseModel):
        city: Literal["Kyoto", "Nara"]

    tool = openai.pydantic_function_tool(Weather)
    asked: dict[str, Any] = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    with client.chat.completions.stream(model="m", messages=HELLO, max_tokens=200, **asked) as events:
        kinds = Counter(event.type for event in events)
        [call] = events.get_final_completion().choices[0].message.tool_calls
    assert kinds["tool_calls.function.arguments.delta"] > 1
    assert kinds["tool_calls.function.arguments.done"] == 1
    assert isinstance(call.function.parsed_arguments, Weather)


def test_a_named_tool_is_called(client: OpenAI) -> None:
    clock = {"type": "function", "function": {"name": "clock"}}
    named = {"type": "function", "function": {"name": "weather"}}
    asked: dict[str, Any] = {"tools": [clock, *TOOLS], "tool_choice": named, "parallel_tool_calls": False}
    [call] = ask(client, max_tokens=200, **asked).choices[0].message.tool_calls
    assert call.function.name == "weather"


def test_legacy_completions_have_text_and_logprobs(client: OpenAI) -> None:
    reply = client.completions.create(model="m", prompt="Once upon", logprobs=2, **SEEDED)
    [choice] = reply.choices
    assert (bool(choice.text), choice.finish_reason) == (True, "length")
    assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.tokens) == 24
    streamed = client.completions.create(model="m", prompt="Once upon", stream=True, **SEEDED)
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == choice.text


def test_responses_are_created_streamed_and_parsed(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "m", "input": "Hello", "max_output_tokens": 24, "extra_body": {"seed": 7}}
    reply = client.responses.create(**asked)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    with client.responses.stream(**asked) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == reply.output_text
    assert reply.usage.output_tokens == 24
    with client.responses.stream(model="m", input=HELLO, text_format=Plan, max_output_tokens=200) as events:
        assert isinstance(events.get_final_response().output_parsed, Plan)
    parsed = client.responses.parse(model="m", input=HELLO, text_format=Plan, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Plan)


def test_responses_call_functions_and_take_their_output(client: OpenAI) -> None:
    tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
    asked: dict[str, Any] = {"model": "m", "tools": [tool], "max_output_tokens": 200}
    first = client.responses.create(input=HELLO, tool_choice="required", parallel_tool_calls=False, **asked)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in ("Kyoto", "Nara")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    second = client.responses.create(input=[*HELLO, *first.output, output], tool_choice="none", **asked)
    assert second.output_text


def test_raw_responses_show_the_headers(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO, max_tokens=1)
    assert raw.headers["x-request-id"] == raw.request_id
    assert raw.parse()._request_id == raw.request_id


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}


def with_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def saying(content: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 50, "logprobs": True}, "top_logprobs"),
        ({"n": 1000}, "n"),
        ({"stop": list("abcdefghi")}, "stop"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"logit_bias": {str(at): 1 for at in range(10_000)}}, "logit_bias"),
        (saying([IMAGE]), "messages.0.content.0"),
        (saying("word " * 18_000), "messages"),
        (with_schema({"type": 1}), "response_format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_request_names_its_field(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        ask(client, **fields)
    assert told.value.param == param
    assert told.value.type == "invalid_request_error"
    assert told.value.code
    assert told.value.request_id


def test_a_long_conversation_is_answered(client: OpenAI) -> None:
    turns = [{"role": role, "content": "hm"} for _ in range(150) for role in ("user", "assistant")]
    assert ask(client, messages=[*turns, *HELLO], max_tokens=1).usage.completion_tokens == 1


def test_a_wrong_key_and_the_right_one(served_model: ServedModel) -> None:
    with OpenAI(base_url=f"{served_model.locked_url}/v1", api_key=KEY) as client:
        assert ask(client, max_tokens=1).choices
        with pytest.raises(openai.AuthenticationError) as told:
            ask(client.with_options(api_key="wrong"))
    assert (told.value.code, told.value.status_code) == ("invalid_api_key", 401)


def test_the_async_client_runs_several_at_once(served_model: ServedModel) -> None:
    async def both() -> tuple[list[str], str]:
        async with AsyncOpenAI(base_url=f"{served_model.url}/v1", api_key="any") as client:
            asked: dict[str, Any] = {"model": "m", "messages": HELLO, **SEEDED}
            replies = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(3)))
            chunks = [chunk async for chunk in await client.chat.completions.create(stream=True, **asked)]
        return [reply.choices[0].message.content or "" for reply in replies], text_of(chunks)

    texts, streamed = asyncio.run(both())
    assert {*texts, streamed} == {streamed}
