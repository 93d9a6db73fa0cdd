"""The body of POST /chat: every field, every refusal, and the JSON that goes back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colab_llm_chat.errors import ChatError, InvalidRequest
from colab_llm_chat.protocol.messages import Delta, Message, ReplyEnd, Usage
from colab_llm_chat.protocol.simple import SimpleReply, SimpleRequest, error_fields, parse_chat, unescape
from colab_llm_chat.settings import SamplingParams, Settings

SETTINGS = Settings()
USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "Hello, I"}


def parse(settings: Settings = SETTINGS, **fields: Any) -> SimpleRequest:
    return parse_chat(json.dumps(fields).encode(), settings)


def refusal(**fields: Any) -> InvalidRequest:
    body = json.dumps(fields).replace("Infinity", "1e999")
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body.encode(), SETTINGS)
    return caught.value


def end(finish_reason: Any = "stop") -> ReplyEnd:
    usage = Usage(prompt_tokens=7, completion_tokens=3, seconds=0.51234, tokens_per_second=6.0, context_length=64)
    return ReplyEnd(finish_reason=finish_reason, usage=usage, dropped_messages=2)


def body_of(request: SimpleRequest, text: str, end: ReplyEnd) -> dict[str, Any]:
    reply = SimpleReply(request)
    reply.feed(0, Delta(text, end))
    return reply.body()


def test_a_message_alone_becomes_one_user_turn_with_the_defaults() -> None:
    request = parse(message="hi")
    assert request.chat.messages == (Message("user", "hi"),)
    assert request.chat.sampling == SETTINGS.sampling
    assert (request.chat.stop, request.chat.deadline_ms, request.chat.truncation) == ((), None, "auto")
    assert (request.chat.raw, request.chat.continue_final, request.stream) == (False, False, None)


@pytest.mark.parametrize("history", [{}, {"conversationHistory": None}, {"conversationHistory": []}])
def test_absent_null_and_empty_history_are_the_same(history: dict[str, Any]) -> None:
    assert parse(message="hi", **history) == parse(message="hi")


def test_null_in_every_optional_field_is_as_if_it_was_absent() -> None:
    names = ["system", "stream", "stop", "deadline_ms", "raw", "continue", "truncation", "conversationId", "messageId"]
    names += [*SamplingParams.model_fields, "persona", "source_language", "target_language"]
    assert parse(message="hi", **dict.fromkeys(names)) == parse(message="hi")


def test_unknown_keys_are_ignored_at_the_top_and_inside_a_turn() -> None:
    request = parse(message="b", wings=2, conversationHistory=[{**USER, "name": "Ann"}, ASSISTANT])
    assert [turn.content for turn in request.chat.messages] == ["hi", "Hello, I", "b"]


def test_history_that_already_ends_with_the_message_is_not_doubled() -> None:
    request = parse(message="hi", conversationHistory=[USER, ASSISTANT, USER])
    assert [turn.role for turn in request.chat.messages] == ["user", "assistant", "user"]


def test_content_may_be_text_parts() -> None:
    parts = [{"text": "a"}, {"type": "text", "text": "b"}]
    request = parse(message="c", conversationHistory=[{"role": "user", "content": parts}])
    assert request.chat.messages[0] == Message("user", "ab")


@pytest.mark.parametrize("parts", [[{"type": "image_url", "image_url": {}}], [{"text": 1}], ["a"], [None]])
def test_other_parts_are_refused(parts: list[Any]) -> None:
    error = refusal(message="c", conversationHistory=[{"role": "user", "content": parts}])
    assert error.param == "conversationHistory.0.content"


def test_an_unknown_role_is_refused_with_the_allowed_ones() -> None:
    error = refusal(message="c", conversationHistory=[USER, {"role": "developer", "content": "x"}])
    assert error.param == "conversationHistory.1.role"
    assert all(role in error.message for role in ("system", "user", "assistant"))


@pytest.mark.parametrize("message", ["", "  \n", "\u3000"])
def test_an_empty_message_is_refused(message: str) -> None:
    error = refusal(message=message)
    assert (error.param, error.message) == ("message", "`message` is empty.")


def test_a_missing_message_is_refused() -> None:
    assert refusal().message == "`message` is missing."


def test_a_message_beyond_the_limit_is_refused_naming_both_lengths() -> None:
    with pytest.raises(InvalidRequest, match="has 6 characters; the limit is 5"):
        parse(Settings(max_message_characters=5), message="123456")


@pytest.mark.parametrize("role", ["user", "system"])
def test_every_text_has_the_limit_of_a_message(role: str) -> None:
    for fields in ({"system": "123456"}, {"conversationHistory": [USER, {"role": role, "content": "123456"}]}):
        with pytest.raises(InvalidRequest, match="has 6 characters; the limit is 5") as caught:
            parse(Settings(max_message_characters=5), message="hi", **fields)
        assert caught.value.param in ("system", "conversationHistory.1.content")


def test_a_reply_longer_than_a_message_may_be_can_come_back() -> None:
    request = parse(Settings(max_message_characters=2), message="hi", conversationHistory=[USER, ASSISTANT])
    assert request.chat.messages[1].content == "Hello, I"


WRONG_VALUES: list[tuple[str, Any]] = [
    ("message", 1),
    ("message", ["hi"]),
    ("conversationHistory", {}),
    ("conversationHistory", [1]),
    ("system", 1),
    ("stream", 1),
    ("stream", "true"),
    ("raw", 0),
    ("continue", "yes"),
    ("truncation", "middle"),
    ("deadline_ms", 0),
    ("deadline_ms", True),
    ("deadline_ms", 10**400),
    ("temperature", True),
    ("temperature", "0.7"),
    ("temperature", 2.1),
    ("max_new_tokens", True),
    ("max_new_tokens", "5"),
    ("max_new_tokens", 0),
    ("top_p", 0),
    ("top_p", 1e999),
    ("top_k", -1),
    ("top_k", 1.5),
    ("min_p", 1.1),
    ("repetition_penalty", 0),
    ("no_repeat_ngram_size", -1),
    ("seed", -1),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", ["a"] * 5),
    ("stop", [1]),
    ("stop", {}),
    ("stop", "a" * 1_001),
    ("conversationId", True),
    ("conversationId", 1.5),
    ("messageId", "a" * 201),
    ("messageId", 2**63),
    ("conversationHistory", [USER] * 2_001),
    ("conversationHistory", [{}]),
    ("conversationHistory", [{"role": "cat", "content": "x"}]),
    ("conversationHistory", [{"role": "user", "content": None}]),
    ("conversationHistory", [{"role": "user", "content": [{}]}]),
    ("deadline_ms", 1.5),
    ("temperature", 10**400),
    ("seed", 2**63),
]


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES)
def test_a_wrong_value_is_refused_naming_the_field(name: str, value: Any) -> None:
    assert (refusal(**{"message": "hi", name: value}).param or "").split(".")[0] == name


@pytest.mark.parametrize(("name", "value"), WRONG_VALUES)
def test_a_refusal_speaks_of_json_and_in_our_words(name: str, value: Any) -> None:
    message = refusal(**{"message": "hi", name: value}).message
    words = ("_Turn", "_Body", "Input", "pydantic", "valid", "instance", "dictionary", "List ", "Field", "{{", "after")
    assert [word for word in words if word in message] == []
    assert message.startswith(f"`{name}")
    assert "cannot be used" not in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conversationHistory": [USER] * 2_001}, "`conversationHistory` has more entries than the limit of 2000."),
        ({"conversationHistory": [1]}, "`conversationHistory.0` must be an object."),
        ({"conversationHistory": [{"role": "user"}]}, "`conversationHistory.0.content` is missing."),
        (
            {"conversationHistory": [{"role": "cat", "content": ""}]},
            "`conversationHistory.0.role` must be 'system', 'user' or 'assistant'.",
        ),
        (
            {"conversationHistory": [{"role": "user", "content": [{}]}]},
            '`conversationHistory.0.content` may only hold parts like {"type": "text", "text": "…"}.',
        ),
        ({"stream": 1}, "`stream` must be true or false."),
        ({"temperature": 3}, "`temperature` must be at most 2."),
        ({"top_p": 0}, "`top_p` must be greater than 0."),
        ({"max_new_tokens": 2**31}, "`max_new_tokens` must be at most 2147483647."),
    ],
)
def test_a_refusal_names_what_is_allowed(fields: dict[str, Any], message: str) -> None:
    assert refusal(**{"message": "hi", **fields}).message == message


def test_sampling_fields_override_the_settings_one_by_one() -> None:
    request = parse(Settings(top_k=7, temperature=1.5), message="hi", temperature=0, seed=3)
    assert (request.chat.sampling.temperature, request.chat.sampling.seed, request.chat.sampling.top_k) == (0, 3, 7)


@pytest.mark.parametrize(("sent", "read"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ())])
def test_stop_is_a_string_or_a_list(sent: Any, read: tuple[str, ...]) -> None:
    assert parse(message="hi", stop=sent).chat.stop == read


def test_languages_come_from_the_request_else_from_the_settings() -> None:
    settings = Settings(language_source="eng_Latn", language_target="jpn_Jpan")
    asked = parse(settings, message="hi", target_language="fra_Latn", source_language=None).chat
    assert (asked.source_language, asked.target_language) == ("eng_Latn", "fra_Latn")
    assert parse(message="hi").chat.target_language is None


def test_an_empty_language_is_none_over_the_servers_own_too() -> None:
    settings = Settings(language_source="eng_Latn", language_target="")
    asked = parse(settings, message="hi", source_language="").chat
    assert (asked.source_language, asked.target_language, settings.language_target) == (None, None, None)


def test_a_language_is_a_short_text() -> None:
    for value in ("x" * 101, 7):
        with pytest.raises(InvalidRequest) as caught:
            parse(message="hi", target_language=value)
        assert caught.value.param == "target_language"
        assert "entries" not in caught.value.message


def test_a_temperature_counts_as_set_only_where_somebody_set_it() -> None:
    def says(settings: Settings, **fields: Any) -> bool:
        return "temperature" in parse(settings, message="hi", **fields).chat.sampling.model_fields_set

    assert not says(Settings())
    assert not says(Settings(top_k=7), seed=3)
    assert says(Settings(temperature=0.7), seed=3)
    assert says(Settings(), temperature=0.7)


def test_notes_are_told_where_there_are_any() -> None:
    noted = replace(end(), notes=("No language was needed.",))
    assert body_of(parse(message="hi"), "a", noted)["notes"] == ["No language was needed."]
    assert "notes" not in body_of(parse(message="hi"), "a", end())


def test_the_servers_system_prompt_fills_in_only_where_the_conversation_has_none() -> None:
    settings = Settings(system="Be a cat.")
    own = {"role": "system", "content": "Be a dog."}
    assert parse(settings, message="hi").chat.messages[0] == Message("system", "Be a cat.")
    assert parse(settings, message="hi", conversationHistory=[own]).chat.messages[0] == Message("system", "Be a dog.")


def test_the_system_field_replaces_what_the_history_says() -> None:
    own = {"role": "system", "content": "Be a dog."}
    request = parse(message="hi", system="Be a cow.", conversationHistory=[own])
    assert request.chat.messages == (Message("system", "Be a cow."), Message("user", "hi"))


def test_an_empty_system_field_means_none_at_all() -> None:
    assert parse(Settings(system="Be a cat."), message="hi", system="").chat.messages == (Message("user", "hi"),)


def test_several_system_messages_are_joined_in_front() -> None:
    first, second = ({"role": "system", "content": text} for text in "ab")
    request = parse(message="hi", conversationHistory=[first, USER, ASSISTANT, second])
    assert request.chat.messages[0] == Message("system", "a\n\nb")
    assert [turn.role for turn in request.chat.messages] == ["system", "user", "assistant", "user"]


def test_raw_deadline_truncation_and_stream_are_passed_on() -> None:
    request = parse(message="hi", raw=True, deadline_ms=2_500, truncation="disabled", stream=True)
    assert (request.chat.raw, request.chat.deadline_ms, request.chat.truncation) == (True, 2_500, "disabled")
    assert request.stream is True


@pytest.mark.parametrize("message", [{}, {"message": None}, {"message": ""}, {"message": "hi"}])
def test_continue_carries_on_the_last_assistant_message(message: dict[str, Any]) -> None:
    request = parse(conversationHistory=[USER, ASSISTANT], **{"continue": True}, **message)
    assert request.chat.messages == (Message("user", "hi"), Message("assistant", "Hello, I"))
    assert request.chat.continue_final
    history = body_of(request, " am", end())["conversationHistory"]
    assert history == [USER, {"role": "assistant", "content": "Hello, I am"}]


def test_continuing_a_reply_that_had_no_text_yet_asks_for_it_again() -> None:
    request = parse(conversationHistory=[USER, {**ASSISTANT, "content": ""}], **{"continue": True})
    assert (request.chat.messages, request.chat.continue_final) == ((Message("user", "hi"),), False)
    assert body_of(request, "Hello", end())["conversationHistory"][1:] == [{**ASSISTANT, "content": "Hello"}]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"conversationHistory": [USER]},
        {"conversationHistory": [USER, ASSISTANT], "message": "something else"},
        {"conversationHistory": [{**ASSISTANT, "content": ""}]},
    ],
)
def test_continue_without_something_to_carry_on_is_refused(fields: dict[str, Any]) -> None:
    assert refusal(**fields, **{"continue": True}).status == 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"hi"', "must be a JSON object"),
        (b'{"message": "\xff"}', "not UTF-8"),
        (b'{"message": "hi", "top_p": NaN}', "not valid JSON"),
        (b'{"message": "hi", "top_p": -Infinity}', "not valid JSON"),
        (b'{"message": "hi", "seed": ' + b"9" * 5_000 + b"}", "not valid JSON"),
        (b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        ("{}".encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse_chat(body, SETTINGS)


def test_a_byte_order_mark_is_no_fault() -> None:
    assert parse_chat(b'\xef\xbb\xbf{"message": "hi"}', SETTINGS) == parse(message="hi")


def test_lone_surrogates_are_replaced_wherever_text_is_read() -> None:
    body = rb'{"message": "a\ud800", "stop": "\udc00", "conversationId": "\ud800", "system": "\ud83d\ude00"}'
    request = parse_chat(body, SETTINGS)
    assert request.chat.messages == (Message("system", "😀"), Message("user", "a\ufffd"))
    assert (request.chat.stop, request.ids) == (("\ufffd",), {"conversationId": "\ufffd"})


def test_errors_do_not_repeat_what_was_sent() -> None:
    secret = "my secret text"
    error = refusal(message="hi", conversationHistory=[{"role": secret, "content": secret}], system=secret)
    assert secret not in json.dumps(error.to_dict())


def test_the_reply_has_the_fields_of_the_contract() -> None:
    request = parse(message="hi", conversationHistory=[ASSISTANT], conversationId="c1", messageId=7)
    assert body_of(request, "Meow", end()) == {
        "success": True,
        "response": "Meow",
        "conversationHistory": [ASSISTANT, USER, {"role": "assistant", "content": "Meow"}],
        "truncated": False,
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "cached_tokens": 0,
            "seconds": 0.512,
            "first_token_seconds": None,
            "context_length": 64,
            "tokens_per_second": 6.0,
        },
        "dropped_messages": 2,
        "conversationId": "c1",
        "messageId": 7,
    }


def test_usage_so_far_is_an_event_for_who_asks() -> None:
    request = parse(message="hi", running_usage=True)
    assert request.chat.running_usage
    assert not parse(message="hi").chat.running_usage
    events = SimpleReply(request).feed(0, Delta("Me", usage=end().usage))
    assert events.startswith(b'data: {"delta": "Me"}\n\ndata: {"usage": {"prompt_tokens": 7')


@pytest.mark.parametrize(("reason", "truncated"), [("stop", False), ("length", True), ("deadline", True)])
def test_a_reply_cut_short_says_so(reason: str, truncated: bool) -> None:
    assert body_of(parse(message="hi"), "x", end(reason))["truncated"] is truncated


def test_the_history_that_comes_back_can_be_sent_again() -> None:
    own = {"role": "system", "content": "Be a dog."}
    first = body_of(parse(message="hi", conversationHistory=[own]), "Wuff", end())
    again = parse(message="more", conversationHistory=first["conversationHistory"])
    assert [turn.content for turn in again.chat.messages] == ["Be a dog.", "hi", "Wuff", "more"]


def test_an_error_has_the_two_fields_of_this_door() -> None:
    error = ChatError("It broke.")
    assert error_fields(error) == {"success": False, "message": "It broke.", "error": error.to_dict()}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["message", "conversationHistory", "system", "stop", "seed", "continue", "raw", "deadline_ms", "messageId"]


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JSON_VALUES, max_size=6))
def test_any_json_object_is_read_or_refused_and_nothing_else(fields: dict[str, Any]) -> None:
    try:
        request = parse(**fields)
    except InvalidRequest:
        return
    assert request.chat.messages[-1].role in ("user", "assistant")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_nothing_else(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(body, SETTINGS)


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("plain \\n text", "plain \\n text"),
        ("\\あ", "あ"),
        ("\\\\", "\\"),
        ("\\\\n", "\n"),
        ("\\a\\\\n", "a\\n"),
        ("\\Once\\nupon \\x", "Once\nupon x"),
        ("\\end\\", "end\\"),
        ("\\", ""),
    ],
)
def test_a_raw_message_is_unescaped_after_a_leading_backslash(typed: str, sent: str) -> None:
    assert unescape(typed) == sent


def test_a_raw_message_is_sent_unescaped_and_kept_as_typed() -> None:
    request = parse(message="\\a\\nb", raw=True)
    assert request.chat.messages[-1] == Message("user", "a\nb")
    assert request.history[-1].content == "\\a\\nb"


def test_a_raw_message_is_carried_on_apart_from_its_reply_which_is_no_raw_text() -> None:
    turns = [{"role": "user", "content": "\\a\\nb"}, {"role": "assistant", "content": "\\n"}]
    request = parse(conversationHistory=turns, raw=True, **{"continue": True})
    assert request.chat.messages == (Message("user", "a\nb"), Message("assistant", "\\n"))
    assert (request.chat.raw, request.chat.continue_final, request.history[-1].content) == (True, True, "\\a\\nb")


def test_what_the_model_thinks_is_told_apart_from_its_reply() -> None:
    reply = SimpleReply(parse(message="hi"))
    streamed = reply.feed(0, Delta(reasoning="Hm.")) + reply.feed(0, Delta("Hi", end()))
    assert streamed == b'data: {"reasoning": "Hm."}\n\ndata: {"delta": "Hi"}\n\n'
    assert (reply.body()["reasoning"], reply.body()["response"]) == ("Hm.", "Hi")
