"""The body of POST /v1/chat/completions: every field, every refusal, and the JSON and chunks that go back."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from openai.types.chat import ChatCompletion as ClientCompletion
from openai.types.chat import ChatCompletionChunk

from colab_llm_chat.errors import InvalidRequest, QueueFull
from colab_llm_chat.protocol import sse
from colab_llm_chat.protocol.chat_chunks import ChatCompletion
from colab_llm_chat.protocol.chat_completions import ChatCompletionRequest, parse_chat_completion
from colab_llm_chat.protocol.messages import ChatRequest, Delta, Message, TokenLogprob, Tool, ToolCall, ToolCallDelta
from colab_llm_chat.protocol.openai_fields import IGNORED, UNSUPPORTED
from colab_llm_chat.settings import SamplingParams, Settings
from tests.chat_services import events_of, reply_end

SETTINGS = Settings()
USER = {"role": "user", "content": "hi"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": ["string", "null"], "enum": ["x", None]}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


def parse(settings: Settings = SETTINGS, **fields: Any) -> ChatCompletionRequest:
    return parse_chat_completion(json.dumps({"messages": [USER], **fields}).encode(), settings)


def chat(**fields: Any) -> ChatRequest:
    return parse(**fields).choices[0]


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    return caught.value


def said(*messages: dict[str, Any]) -> tuple[Message, ...]:
    return chat(messages=list(messages)).messages


def test_messages_alone_get_the_servers_defaults() -> None:
    request = parse()
    [only] = request.choices
    said = (Message("user", "hi"),)
    assert only == ChatRequest(messages=said, sampling=SETTINGS.sampling, truncation="disabled", asked_in="messages")
    assert (request.model, request.stream, request.include_usage) == ("catbot", False, False)


def test_null_is_as_if_the_field_was_absent() -> None:
    names = [*SamplingParams.model_fields, *UNSUPPORTED, *IGNORED]
    names += ["stop", "n", "max_tokens", "max_completion_tokens", "stream", "stream_options", "logprobs", "tools"]
    names += ["top_logprobs", "tool_choice", "parallel_tool_calls", "response_format", "chat_template_kwargs", "model"]
    names += ["continue_final_message", "add_generation_prompt", "reasoning_effort", "truncation", "logit_bias"]
    assert parse(**dict.fromkeys(names)) == parse()


def test_every_field_of_sampling_is_honoured() -> None:
    sent = {
        "temperature": 0.5,
        "top_p": 0.4,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 4,
        "frequency_penalty": -2,
        "presence_penalty": 2,
        "seed": 7,
    }
    assert chat(**sent, max_tokens=9).sampling == SamplingParams(**sent, max_new_tokens=9)


def test_a_temperature_counts_as_set_only_where_somebody_set_it() -> None:
    assert "temperature" not in chat(max_tokens=5, top_p=0.5).sampling.model_fields_set
    assert "temperature" in chat(temperature=0.7).sampling.model_fields_set
    own = parse(Settings(temperature=0.7), max_tokens=5).choices[0].sampling
    assert "temperature" in own.model_fields_set


def test_languages_come_from_the_request_else_from_the_settings() -> None:
    own = Settings(language_source="eng_Latn", language_target="jpn_Jpan")
    [asked] = parse(own, target_language="fra_Latn").choices
    assert (asked.source_language, asked.target_language) == ("eng_Latn", "fra_Latn")
    [asked] = parse(own, source_language="").choices
    assert (asked.source_language, asked.target_language) == (None, "jpn_Jpan")


def test_token_rules_stop_and_the_rest_are_honoured() -> None:
    request = chat(logit_bias={"5": -100, "7": 1.5}, min_tokens=2, ignore_eos=True, stop="END", deadline_ms=900)
    assert (request.rules.logit_bias, request.rules.min_tokens, request.rules.ignore_eos) == (
        {5: -100, 7: 1.5},
        2,
        True,
    )
    assert (request.stop, request.deadline_ms) == (("END",), 900)
    assert chat(stop=["a", "b", "c", "d"]).stop == ("a", "b", "c", "d")
    assert chat(truncation="auto").truncation == "auto"


def test_max_completion_tokens_comes_before_max_tokens() -> None:
    assert chat(max_tokens=5, max_completion_tokens=8).sampling.max_new_tokens == 8
    assert chat(max_tokens=16.0).sampling.max_new_tokens == 16


def test_what_other_servers_mean_is_understood() -> None:
    assert chat(top_k=-1).sampling.top_k == 0
    assert 0 < chat(top_p=0).sampling.top_p < 1e-9
    assert chat(seed=-1).sampling.seed == 2**63 - 1


def test_with_a_seed_each_choice_has_its_own() -> None:
    assert [one.sampling.seed for one in parse(n=3, seed=5).choices] == [5, 6, 7]
    assert [one.sampling.seed for one in parse(n=2).choices] == [None, None]


@pytest.mark.parametrize(("fields", "asked"), [({}, None), ({"top_logprobs": 4}, 4), ({"top_logprobs": 0}, 0)])
def test_logprobs_are_asked_for_with_and_without_alternatives(fields: dict[str, Any], asked: int | None) -> None:
    assert chat(logprobs=True, **fields).rules.top_logprobs == (asked or 0)
    assert chat(logprobs=False).rules.top_logprobs is None


def test_system_and_developer_messages_are_joined_in_front() -> None:
    messages = said({"role": "developer", "content": "Be brief."}, USER, {"role": "system", "content": "Be kind."})
    assert messages == (Message("system", "Be brief.\n\nBe kind."), Message("user", "hi"))


def test_the_servers_own_system_prompt_is_for_conversations_that_bring_none() -> None:
    settings = Settings(system="Purr.")
    assert parse(settings).choices[0].messages[0] == Message("system", "Purr.")
    brought = parse(settings, messages=[{"role": "system", "content": "Bark."}, USER]).choices[0]
    assert brought.messages[0] == Message("system", "Bark.")


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, {"text": "c\ud83d"}]
    assert said({"role": "user", "content": parts}) == (Message("user", "abc\N{REPLACEMENT CHARACTER}"),)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "input_audio", "input_audio": {}},
        {"type": "file", "file": {}},
        {"type": "text"},
        {"type": ["text"], "text": "a"},
        {},
        "text",
        None,
    ],
)
def test_other_parts_are_refused_by_their_place(part: Any) -> None:
    error = refusal(messages=[USER, USER, USER, {"role": "user", "content": [part]}])
    assert error.param == "messages.3.content.0"
    assert "text only" in error.message


def test_a_tools_round_comes_back_whole() -> None:
    asked = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "reasoning_content": "Hm."}
    messages = said(USER, asked, {"role": "tool", "tool_call_id": "call_1", "content": "rain"})
    call = ToolCall(call_id="call_1", name="weather", arguments='{"city": "Oslo"}')
    assert messages[1] == Message("assistant", "", tool_calls=(call,), reasoning="Hm.")
    assert messages[2] == Message("tool", "rain", tool_call_id="call_1", name="weather")


def test_a_round_of_the_old_function_calls_is_one_of_tools() -> None:
    asked = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    messages = said(USER, asked, {"role": "function", "name": "f", "content": "1"})
    assert messages[1] == Message("assistant", "", tool_calls=(ToolCall(call_id="", name="f", arguments="{}"),))
    assert messages[2] == Message("tool", "1", name="f")


def test_arguments_sent_back_as_an_object_are_its_json() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": {"a": "é"}}}
    assert said(USER, {"role": "assistant", "tool_calls": [call]})[1].tool_calls[0].arguments == '{"a": "é"}'


def test_300_messages_are_no_problem() -> None:
    turns = [USER, {"role": "assistant", "content": "yes"}] * 150
    assert len(said(*turns)) == 300


def test_tools_are_parsed_with_how_they_may_be_used() -> None:
    use = chat(tools=[WEATHER]).tool_use
    assert use is not None
    assert (use.tools, use.choice, use.parallel) == (
        (Tool(name="weather", parameters={"type": "object"}),),
        "auto",
        True,
    )
    named = {"type": "function", "function": {"name": "weather"}}
    use = chat(tools=[WEATHER], tool_choice=named, parallel_tool_calls=False).tool_use
    assert use is not None
    assert (use.choice, use.name, use.parallel) == ("named", "weather", False)
    assert chat(tools=[], tool_choice="auto").tool_use is None


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_tool_choice_by_word_is_kept(choice: str) -> None:
    use = chat(tools=[WEATHER], tool_choice=choice).tool_use
    assert use is not None
    assert use.choice == choice


@pytest.mark.parametrize(
    ("sent", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, {}),
    ],
)
def test_a_response_format_becomes_a_schema(sent: dict[str, Any], schema: dict[str, Any] | None) -> None:
    assert chat(response_format=sent).json_schema == schema


def test_the_last_message_is_carried_on_when_asked() -> None:
    turns = [USER, {"role": "assistant", "content": "Once"}]
    assert chat(messages=turns, continue_final_message=True, add_generation_prompt=False).continue_final
    assert not chat(messages=turns).continue_final
    assert not chat(add_generation_prompt=False).generation_prompt


def test_reasoning_effort_and_template_kwargs_reach_the_template() -> None:
    assert chat(reasoning_effort="low").template_kwargs == {"reasoning_effort": "low"}
    assert chat(reasoning_effort="none").template_kwargs == {"enable_thinking": False}
    given = chat(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True, "a": None})
    assert given.template_kwargs == {"enable_thinking": True, "a": None}


def test_a_priority_puts_a_request_behind_the_others() -> None:
    assert [chat(priority=one).background for one in ("background", 1, 0, -1, "interactive")] == [True, True] + [
        False
    ] * 3


def test_what_is_ignored_changes_nothing() -> None:
    assert parse(**{name: {"a": 1} for name in IGNORED} | {"modalities": ["text"]}, anything="else") == parse()


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_honoured_is_refused_by_name(name: str) -> None:
    error = refusal(**{name: {"a": 1}})
    assert (error.code, error.param) == ("unsupported_parameter", name)


def test_the_way_out_of_functions_is_tools() -> None:
    assert "`tools`" in refusal(functions=[{"name": "f"}]).hint


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 2001}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a" * 100_001}]}, "messages.0.content"),
        ({"messages": [{"role": "system", "content": " "}]}, "messages"),
        ({"priority": "high"}, "priority"),
        ({"priority": True}, "priority"),
        ({"n": 1000}, "n"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": False}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"logprobs": True, "top_logprobs": 50}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stop": list("123456789")}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {str(at): 1 for at in range(10_000)}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": True}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1"),
        ({"tools": [WEATHER] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"truncation": "middle"}, "truncation"),
        ({"stream": "yes"}, "stream"),
        ({"model": 5}, "model"),
    ],
)
def test_a_bad_value_is_refused_with_its_field(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.param) == (400, param)
    assert f"`{param}`" in error.message
    assert "cannot be used" not in error.message


@pytest.mark.parametrize("name", ["persona:me", "adapter:mine"])
def test_what_a_name_chooses_must_be_there(name: str) -> None:
    assert (refusal(model=name).status, refusal(model=name).code) == (404, "model_not_found")


def _nested(levels: int) -> dict[str, Any]:
    return {"a": _nested(levels - 1)} if levels else {}


FREE = {
    "tools": lambda value: [{"type": "function", "function": {"name": "f", "parameters": {"default": value}}}],
    "response_format": lambda value: {"type": "json_schema", "json_schema": {"schema": {"default": value}}},
    "chat_template_kwargs": lambda value: {"default": value},
}


@pytest.mark.parametrize("value", [float("inf"), _nested(100)], ids=["beyond every float", "nested too deeply"])
@pytest.mark.parametrize("name", FREE)
def test_json_that_could_not_be_written_again_is_refused(name: str, value: Any) -> None:
    sent = json.dumps({"messages": [USER], name: FREE[name](value)}).replace("Infinity", "1e999")
    with pytest.raises(InvalidRequest) as caught:
        parse_chat_completion(sent.encode(), SETTINGS)
    assert str(caught.value.param).startswith(name)


def test_lone_surrogates_are_replaced_in_schemas_and_template_kwargs_too() -> None:
    request = chat(**{name: make({"\ud800": ["\udc00"]}) for name, make in FREE.items()})
    mended = {"default": {"\ufffd": ["\ufffd"]}}
    assert request.tool_use is not None
    assert (request.tool_use.tools[0].parameters, request.json_schema, request.template_kwargs) == (mended,) * 3


def test_any_other_model_is_served_by_the_loaded_one_unless_strict() -> None:
    strict = Settings(strict_model=True, model_id="/models/cat")
    assert parse(model="gpt-4o").model == "catbot"
    assert parse(strict, model="cat").model == "cat"
    with pytest.raises(InvalidRequest, match="gpt-4o"):
        parse(strict, model="gpt-4o")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["messages", "stop", "logit_bias", "tools", "tool_choice", "response_format", "priority", "seed", "top_p", "n"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_no_body_is_a_fault_of_the_server(fields: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        parse(**fields)


TEXT = [Delta("Hel"), Delta("lo"), Delta(end=reply_end())]
CALLS = [
    Delta(reasoning="Hm."),
    Delta(tool_calls=(ToolCallDelta(0, call_id="call_1", name="weather"),)),
    Delta(tool_calls=(ToolCallDelta(0, '{"city":'),)),
    Delta(tool_calls=(ToolCallDelta(0, ' "Oslo"}'), ToolCallDelta(1, "{}", "call_2", "time"))),
    Delta(end=reply_end("tool_calls")),
]


def wire_of(deltas: list[Delta], **fields: Any) -> ChatCompletion:
    wire = ChatCompletion(parse(**fields))
    wire.opened()
    for delta in deltas:
        wire.feed(0, delta)
    return wire


def stream_of(deltas: list[Delta], **fields: Any) -> bytes:
    wire = ChatCompletion(parse(stream=True, **fields))
    return wire.opened() + b"".join(wire.feed(0, delta) for delta in deltas) + wire.closed()


def chunks_of(stream: bytes) -> list[ChatCompletionChunk]:
    *chunks, done = events_of(stream.decode())
    assert done == "[DONE]"
    return [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]


def test_a_reply_is_the_clients_own_completion() -> None:
    body = wire_of(TEXT).body()
    completion = ClientCompletion.model_validate(body)
    [choice] = completion.choices
    assert (choice.message.content, choice.finish_reason, choice.logprobs) == ("Hello", "stop", None)
    assert body["id"].startswith("chatcmpl-")
    assert (completion.model, completion.object) == ("catbot", "chat.completion")
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.total_tokens) == (7, 10)
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_a_stream_is_role_then_content_then_the_reason() -> None:
    deltas = [chunk["choices"][0] for chunk in events_of(stream_of(TEXT).decode())[:-1]]  # type: ignore[index]
    assert [delta["delta"] for delta in deltas] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [delta["finish_reason"] for delta in deltas] == [None, None, None, "stop"]


def test_usage_comes_last_where_it_is_asked_for() -> None:
    *chunks, last = chunks_of(stream_of(TEXT, stream_options={"include_usage": True}))
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 3
    assert b"usage" not in stream_of(TEXT)


def test_a_deadline_is_a_limit_of_length_to_the_client() -> None:
    assert wire_of([Delta("a"), Delta(end=reply_end("deadline"))]).body()["choices"][0]["finish_reason"] == "length"


def test_tool_calls_and_reasoning_are_put_together() -> None:
    message = wire_of(CALLS).body()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == (None, "Hm.")
    assert message["tool_calls"][0] == CALL
    assert message["tool_calls"][1]["function"] == {"name": "time", "arguments": "{}"}


def test_tool_calls_are_streamed_by_index_with_the_name_first() -> None:
    chunks = chunks_of(stream_of(CALLS))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    assert [(piece.index, piece.id, piece.type) for piece in pieces] == [
        (0, "call_1", "function"),
        (0, None, None),
        (0, None, None),
        (1, "call_2", "function"),
    ]
    assert "".join(piece.function.arguments or "" for piece in pieces[:3] if piece.function) == '{"city": "Oslo"}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


LIKELY = TokenLogprob(
    "é", "é".encode(), -0.5, (TokenLogprob("é", "é".encode(), -0.5), TokenLogprob("\ufffd", b"\xc3", float("-inf")))
)


def test_logprobs_have_tokens_bytes_and_alternatives_without_infinity() -> None:
    body = wire_of([Delta("é", logprobs=(LIKELY,)), Delta(end=reply_end())], logprobs=True, top_logprobs=2).body()
    [choice] = ClientCompletion.model_validate(body).choices
    assert choice.logprobs is not None
    [token] = choice.logprobs.content or []
    assert (token.token, token.bytes, token.logprob) == ("é", [195, 169], -0.5)
    assert [(one.bytes, one.logprob) for one in token.top_logprobs] == [([195, 169], -0.5), ([195], -9999.0)]


def test_tokens_that_show_no_text_yet_still_tell_their_logprobs() -> None:
    held = replace(LIKELY, text="", top=())
    chunks = chunks_of(stream_of([Delta(logprobs=(held,)), Delta("é", reply_end(), logprobs=(LIKELY,))], logprobs=True))
    told = [chunk.choices[0].logprobs for chunk in chunks]
    assert [len(one.content or ()) if one else 0 for one in told] == [0, 1, 1, 0]


def test_choices_are_told_apart_by_index_and_share_the_prompt() -> None:
    wire = ChatCompletion(parse(n=2, stream=True))
    stream = wire.opened() + wire.feed(1, Delta("b", reply_end("length"))) + wire.feed(0, Delta("a", reply_end()))
    assert [chunk["choices"][0]["index"] for chunk in events_of(stream.decode())] == [0, 1, 1, 1, 0, 0]  # type: ignore[index]
    body = wire.body()
    assert [(one["message"]["content"], one["finish_reason"]) for one in body["choices"]] == [
        ("a", "stop"),
        ("b", "length"),
    ]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (7, 6)


def test_a_stream_that_breaks_ends_with_its_error() -> None:
    events = events_of(ChatCompletion(parse()).failed(QueueFull("Full.")).decode())
    assert events == [{"error": QueueFull("Full.").to_dict()}, "[DONE]"]


PIECES = st.text(st.characters(codec="utf-8") | st.sampled_from("\r\n\u2028\u0085:"), max_size=6)


@given(st.lists(PIECES, max_size=5), st.lists(st.integers(0, 4000), max_size=8))
def test_cut_at_any_byte_the_clients_decoder_reads_the_same_stream(texts: list[str], cuts: list[int]) -> None:
    stream = sse.OPEN + stream_of([*map(Delta, texts), Delta(), Delta(end=reply_end())])
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    parts = [stream[begin:end] for begin, end in pairwise(edges)]
    data = [event.data for event in SSEDecoder().iter_bytes(iter(parts))]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(text) for text in data[:-1]]
    content = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(content) == "".join(texts)
