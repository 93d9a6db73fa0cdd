"""POST /v1/responses: its input, every refusal, the reply and its events, and what the openai SDK makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from openai import APIError, BadRequestError, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from colab_llm_chat.errors import EngineFailed, InvalidRequest, QueueFull, UnsupportedParameter
from colab_llm_chat.protocol.messages import Delta, Message, TokenLogprob, ToolCall, ToolCallDelta
from colab_llm_chat.protocol.responses import ResponsesRequest, parse_responses
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat, events_of, reply_end, serving

SETTINGS = Settings()
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALLS = [
    Delta(reasoning="Hm, "),
    Delta(reasoning="weather."),
    Delta("Let me see."),
    Delta(tool_calls=(ToolCallDelta(0, '{"city":', call_id="call_1", name="weather"),)),
    Delta(tool_calls=(ToolCallDelta(0, ' "Kyoto"}'),)),
    Delta(tool_calls=(ToolCallDelta(1, '{"city": "Nara"}', call_id="call_2", name="weather"),)),
]


def parse(settings: Settings = SETTINGS, **fields: Any) -> ResponsesRequest:
    return parse_responses(json.dumps({"input": "hi", **fields}).encode(), settings)


def messages(items: list[dict[str, Any]], **fields: Any) -> tuple[Message, ...]:
    return parse(input=items, **fields).chat.messages


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    return caught.value


def make_client(chat: ScriptedChat) -> FlaskClient:
    return create_app(SETTINGS, chat).test_client()


def reply(chat: ScriptedChat, **fields: Any) -> Any:
    answer = make_client(chat).post("/v1/responses", json={"input": "hi", **fields})
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def streamed(chat: ScriptedChat, **fields: Any) -> list[Any]:
    answer = make_client(chat).post("/v1/responses", json={"input": "hi", "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    *events, done = events_of(answer.text)
    assert done == "[DONE]"
    return events


@pytest.fixture
def scripted() -> ScriptedChat:
    return ScriptedChat()


@pytest.fixture
def sdk(scripted: ScriptedChat) -> Iterator[OpenAI]:
    """The SDK at a real server, over the test's scripted pipeline."""
    with (
        serving(create_app(SETTINGS, scripted)) as app,
        OpenAI(base_url=f"http://127.0.0.1:{app.bound_port}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client


def test_a_string_is_one_message_of_the_user() -> None:
    request = parse(input="hi")
    assert request.chat.messages == (Message("user", "hi"),)
    assert (request.chat.sampling, request.chat.truncation, request.chat.raw) == (SETTINGS.sampling, "disabled", False)


def test_instructions_and_system_messages_are_one_in_front() -> None:
    items = [{"role": "developer", "content": "Purr."}, {"role": "user", "content": "hi"}]
    assert messages(items, instructions="Be a cat.") == (Message("system", "Be a cat.\n\nPurr."), Message("user", "hi"))


def test_the_servers_own_system_prompt_stands_in_for_none() -> None:
    settings = Settings(system="Be a dog.")
    assert parse(settings).chat.messages[0] == Message("system", "Be a dog.")
    assert parse(settings, instructions="Be a cat.").chat.messages[0] == Message("system", "Be a cat.")
    assert parse(settings, instructions="").chat.messages == (Message("user", "hi"),)


def test_content_may_be_parts_of_text() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    said = [{"type": "output_text", "text": "c", "annotations": []}]
    items = [{"role": "user", "content": parts}, {"type": "message", "role": "assistant", "content": said}]
    assert messages(items) == (Message("user", "ab"), Message("assistant", "c"))


def test_what_the_model_thought_said_and_called_is_one_turn() -> None:
    items = [
        {"role": "user", "content": "Rain?"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "time", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": "noon"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "rain"}]},
    ]
    calls = tuple(ToolCall(call_id=one, name=name, arguments="{}") for one, name in [("c1", "weather"), ("c2", "time")])
    assert messages(items) == (
        Message("user", "Rain?"),
        Message("assistant", "Let me see.", tool_calls=calls, reasoning="Hm."),
        Message("tool", "noon", tool_call_id="c2", name="time"),
        Message("tool", "rain", tool_call_id="c1", name="weather"),
    )


def test_two_replies_in_a_row_stay_two_and_a_thought_alone_is_left_out() -> None:
    items: list[dict[str, Any]] = [{"role": "assistant", "content": text} for text in "ab"]
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    asked = {"role": "user", "content": "c"}
    told = messages([*items, thought, asked])
    assert [message.content for message in told] == ["a", "b", "c"]


def test_the_reply_can_be_sent_back_as_it_came() -> None:
    first = reply(ScriptedChat(steps=list(CALLS)), tools=[WEATHER])
    answered = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
    told = messages([{"role": "user", "content": "Rain?"}, *first["output"], answered])
    assert (told[1].reasoning, told[1].content) == ("Hm, weather.", "Let me see.")
    assert [call.arguments for call in told[1].tool_calls] == ['{"city": "Kyoto"}', '{"city": "Nara"}']


def test_every_field_reaches_the_pipeline() -> None:
    chat = parse(
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        top_logprobs=3,
        truncation="auto",
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}},
    ).chat
    drawn = chat.sampling
    assert (drawn.max_new_tokens, drawn.temperature, drawn.top_p, chat.rules.top_logprobs) == (9, 0, 0.5, 3)
    assert (chat.truncation, chat.template_kwargs) == ("auto", {"reasoning_effort": "low"})
    assert chat.tool_use is not None
    assert (chat.tool_use.tools[0].name, chat.tool_use.name, chat.tool_use.parallel) == ("weather", "weather", False)
    assert chat.json_schema == {"type": "object"}


def test_logprobs_json_objects_and_no_thinking_can_be_asked_for() -> None:
    chat = parse(
        include=["message.output_text.logprobs"],
        text={"format": {"type": "json_object"}},
        reasoning={"effort": "none"},
    ).chat
    assert (chat.rules.top_logprobs, chat.json_schema, chat.template_kwargs) == (0, {}, {"enable_thinking": False})


def test_null_in_every_optional_field_is_as_if_it_was_absent() -> None:
    names = ["instructions", "max_output_tokens", "tools", "tool_choice", "parallel_tool_calls", "text", "include"]
    names += ["top_logprobs", "reasoning", "metadata", "stream", "previous_response_id", "conversation", "prompt"]
    assert parse(**dict.fromkeys(names)) == parse()


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}


@pytest.mark.parametrize(
    ("fields", "param", "kind"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", UnsupportedParameter),
        ({"conversation": {"id": "conv_1"}}, "conversation", UnsupportedParameter),
        ({"background": True}, "background", UnsupportedParameter),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", UnsupportedParameter),
        ({"tools": [{"type": "web_search"}]}, "tools.0", UnsupportedParameter),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0", UnsupportedParameter),
        ({"input": None}, "input", InvalidRequest),
        ({"input": []}, "input", InvalidRequest),
        ({"input": [{"role": "system", "content": "a"}]}, "input", InvalidRequest),
        ({"input": [{"type": "computer_call"}]}, "input.0.type", InvalidRequest),
        ({"input": [{"role": "tool", "content": "a"}]}, "input.0.role", InvalidRequest),
        ({"input": [{"role": "user"}]}, "input.0", InvalidRequest),
        ({"input": [{"type": "function_call", "name": "a"}]}, "input.0", InvalidRequest),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input.0.content.0", InvalidRequest),
        ({"input": "a" * 100_001}, "input.0.content", InvalidRequest),
        ({"tools": [{"type": "function"}]}, "tools.0.name", InvalidRequest),
        ({"tool_choice": "required"}, "tool_choice", InvalidRequest),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format", InvalidRequest),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", InvalidRequest),
        ({"top_logprobs": 50}, "top_logprobs", InvalidRequest),
        ({"max_output_tokens": 0}, "max_output_tokens", InvalidRequest),
        ({"temperature": 3}, "temperature", InvalidRequest),
        ({"presence_penalty": -3}, "presence_penalty", InvalidRequest),
        ({"stop": list("abcdefghi")}, "stop", InvalidRequest),
        ({"truncation": "never"}, "truncation", InvalidRequest),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_name_of_its_field(
    fields: dict[str, Any], param: str, kind: type[InvalidRequest]
) -> None:
    error = refusal(**fields)
    assert (type(error), error.status, error.param) == (kind, 400, param)
    assert f"`{param}`" in error.message


def test_who_counts_on_a_memory_is_told_to_send_the_history() -> None:
    assert "send the history as `input`" in refusal(previous_response_id="resp_1").hint


def test_the_reply_is_a_response_of_the_sdk() -> None:
    body = reply(ScriptedChat(), instructions="Be a cat.", metadata={"a": "b"}, tools=[WEATHER], max_output_tokens=9)
    response = Response.model_validate(body)
    assert (response.status, response.output_text, response.error) == ("completed", "Hello", None)
    assert (response.model, response.instructions, response.metadata) == ("catbot", "Be a cat.", {"a": "b"})
    assert (body["store"], response.previous_response_id, response.max_output_tokens) == (False, None, 9)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.input_tokens_details.cached_tokens) == (7, 2)


def test_thoughts_text_and_calls_are_items_of_their_own() -> None:
    response = Response.model_validate(reply(ScriptedChat(steps=list(CALLS)), tools=[WEATHER]))
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    thought, said, kyoto, nara = (item.model_dump() for item in response.output)
    assert (thought["content"], thought["summary"]) == ([{"type": "reasoning_text", "text": "Hm, weather."}], [])
    assert (said["content"][0]["text"], said["content"][0]["annotations"]) == ("Let me see.", [])
    assert (kyoto["call_id"], kyoto["arguments"]) == ("call_1", '{"city": "Kyoto"}')
    assert (nara["call_id"], nara["name"], nara["status"]) == ("call_2", "weather", "completed")


@pytest.mark.parametrize("reason", ["length", "deadline"])
def test_a_reply_cut_short_is_incomplete(reason: Any) -> None:
    body = reply(ScriptedChat(end=reply_end(reason)))
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (body["output"][0]["status"], body["completed_at"]) == ("incomplete", None)


def test_a_reply_of_nothing_has_an_empty_message() -> None:
    response = Response.model_validate(reply(ScriptedChat(steps=[])))
    assert (response.output_text, [item.type for item in response.output]) == ("", ["message"])


def test_reasoning_tokens_are_counted() -> None:
    end = reply_end()
    chat = ScriptedChat(end=replace(end, usage=replace(end.usage, reasoning_tokens=4)))
    assert reply(chat)["usage"]["output_tokens_details"] == {"reasoning_tokens": 4}


HELLO = TokenLogprob("Hel", b"Hel", -0.5, (TokenLogprob("Hel", b"Hel", -0.5),))


def test_logprobs_come_with_the_text_and_not_with_thoughts() -> None:
    thought = Delta(reasoning="Hm.", logprobs=(TokenLogprob("Hm.", b"Hm.", -9.0),))
    early = Delta(logprobs=(HELLO,))
    body = reply(ScriptedChat(steps=[thought, early, "Hel"]), top_logprobs=1)
    [told] = body["output"][1]["content"][0]["logprobs"]
    assert told == {
        "token": "Hel",
        "bytes": list(b"Hel"),
        "logprob": -0.5,
        "top_logprobs": [{"token": "Hel", "bytes": list(b"Hel"), "logprob": -0.5}],
    }
    Response.model_validate(body)


def token(text: str) -> TokenLogprob:
    return TokenLogprob(text, text.encode(), -1.0)


def test_the_marks_around_a_thought_are_not_among_the_texts_logprobs() -> None:
    mark = Delta(logprobs=(token("</think>"), token("\n\n")))
    steps: list[Any] = [Delta(reasoning="Hm."), mark, Delta("Hi", logprobs=(token("Hi"),)), Delta(" you")]
    thought_and_text = Delta("Hi", reasoning="Hm.", logprobs=(token("Hm."), token("</think>"), token("Hi")))
    for told in (steps, [thought_and_text]):
        said = reply(ScriptedChat(steps=told), top_logprobs=0, include=["message.output_text.logprobs"])["output"][1]
        assert [one["token"] for one in said["content"][0]["logprobs"]] == ["Hi"]


def test_every_event_is_one_of_the_sdk_and_numbered() -> None:
    events = streamed(ScriptedChat(steps=list(CALLS)), tools=[WEATHER])
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_events_come_in_the_order_of_the_contract() -> None:
    steps = [Delta(reasoning="Hm."), "Hi", Delta(tool_calls=(ToolCallDelta(0, "{}", call_id="c", name="weather"),))]
    kinds = [event["type"].removeprefix("response.") for event in streamed(ScriptedChat(steps=steps))]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_each_event_bears_its_name() -> None:
    answer = make_client(ScriptedChat()).post("/v1/responses", json={"input": "hi", "stream": True})
    blocks = [block for block in answer.text.split("\n\n") if block.startswith("event: ")]
    assert blocks
    for block in blocks:
        name, data = block.split("\n")
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")


def test_the_last_event_has_what_the_json_reply_has() -> None:
    last = streamed(ScriptedChat(steps=list(CALLS)))[-1]["response"]
    whole = reply(ScriptedChat(steps=list(CALLS)))
    told = [{**item, "id": ""} for item in last["output"]]
    assert told == [{**item, "id": ""} for item in whole["output"]]
    assert (last["usage"], last.keys()) == (whole["usage"], whole.keys())


def test_notes_stand_beside_the_usage_and_in_the_last_event() -> None:
    chat = ScriptedChat(end=reply_end(notes=("Read as English.",)))
    assert reply(chat)["notes"] == ["Read as English."]
    told = [event["response"].get("notes") for event in streamed(chat) if "response" in event]
    assert told == [None, None, ["Read as English."]]


def test_a_cut_stream_ends_incomplete() -> None:
    last = streamed(ScriptedChat(end=reply_end("length")))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")


def test_a_broken_stream_ends_with_the_failed_response_and_an_error() -> None:
    *_, failed, error = streamed(ScriptedChat(steps=["Hel", EngineFailed("It broke.")]))
    assert EVENT.validate_python(failed).response.error.code == "server_error"
    assert failed["response"]["output"][0]["status"] == "incomplete"
    assert (error["type"], error["code"], error["message"]) == ("error", "engine_failed", "It broke.")
    assert error["error"] == EngineFailed("It broke.").to_dict()


@pytest.mark.parametrize(
    ("error", "code"), [(QueueFull("Full."), "rate_limit_exceeded"), (InvalidRequest("No."), "invalid_prompt")]
)
def test_a_failed_response_has_a_code_of_the_sdk(error: Exception, code: str) -> None:
    *_, failed, _ = streamed(ScriptedChat(steps=[error]))
    assert EVENT.validate_python(failed).response.error.code == code


def test_the_sdk_reads_the_reply(sdk: OpenAI) -> None:
    response = sdk.responses.create(model="any", input="hi", store=True)
    assert (response.output_text, response.status) == ("Hello", "completed")


def test_the_sdk_reads_the_stream(sdk: OpenAI) -> None:
    events = list(sdk.responses.create(model="any", input="hi", stream=True))
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["Hel", "lo"]
    assert events[-1].type == "response.completed"


def test_the_sdks_stream_helper_builds_the_response(sdk: OpenAI, scripted: ScriptedChat) -> None:
    scripted.steps = list(CALLS)
    tool: Any = {**WEATHER, "strict": False}
    with sdk.responses.stream(model="any", input="hi", tools=[tool]) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    assert snapshots == ['{"city":', '{"city": "Kyoto"}', '{"city": "Nara"}']
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]


class Cat(BaseModel):
    name: str
    lives: int


def test_the_sdks_parse_helper_gets_its_model(sdk: OpenAI, scripted: ScriptedChat) -> None:
    scripted.steps = ['{"name": "Mike",', ' "lives": 9}']
    response = sdk.responses.parse(model="any", input="A cat?", text_format=Cat)
    assert response.output_parsed == Cat(name="Mike", lives=9)
    assert scripted.requests[0].json_schema is not None
    assert scripted.requests[0].json_schema["properties"].keys() == {"name", "lives"}


def test_the_sdk_sends_a_tools_answer_with_the_output_before_it(sdk: OpenAI, scripted: ScriptedChat) -> None:
    scripted.steps = list(CALLS)
    asked: list[Any] = [{"role": "user", "content": "Rain?"}]
    first = sdk.responses.create(model="any", input=asked, tools=[{**WEATHER, "strict": False}])  # type: ignore[list-item]
    answer = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
    sdk.responses.create(model="any", input=[*asked, *first.output, answer])
    assert [message.role for message in scripted.requests[1].messages] == ["user", "assistant", "tool"]


def test_the_sdk_raises_what_broke_the_stream(sdk: OpenAI, scripted: ScriptedChat) -> None:
    scripted.steps = ["Hel", EngineFailed("It broke.")]
    with pytest.raises(APIError, match="It broke"):
        list(sdk.responses.create(model="any", input="hi", stream=True))


def test_the_sdk_raises_what_is_refused(sdk: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        sdk.responses.create(model="any", input="hi", previous_response_id="resp_1")
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "unsupported_parameter")


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_metadata_that_could_not_come_back_is_refused(number: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_responses(b'{"input": "hi", "metadata": {"a": %b}}' % number.encode(), SETTINGS)
    assert caught.value.param == "metadata"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["instructions", "tools", "tool_choice", "text", "include", "reasoning", "metadata", "stream", "conversation"]
ITEM_FIELDS = ["type", "role", "content", "summary", "call_id", "name", "arguments", "output"]
ITEMS = st.lists(st.dictionaries(st.sampled_from(ITEM_FIELDS), JSON_VALUES, max_size=4), max_size=3)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=5), JSON_VALUES | ITEMS)
def test_any_json_object_is_read_or_refused_and_nothing_else(fields: dict[str, Any], sent: Any) -> None:
    try:
        request = parse(**{**fields, "input": sent})
    except InvalidRequest:
        return
    assert request.chat.messages
