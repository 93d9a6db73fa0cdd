"""POST /v1/completions: prompts in every form, the legacy shape of the reply, and every refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from colab_llm_chat.errors import EngineFailed, InvalidRequest
from colab_llm_chat.protocol.completions import CompletionRequest, parse_completion
from colab_llm_chat.protocol.messages import ChatRequest, Delta, Message, PromptTokens, TokenLogprob
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat, events_of, reply_end

SETTINGS = Settings()


def parse(**fields: Any) -> CompletionRequest:
    return parse_completion(json.dumps(fields).encode(), SETTINGS)


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(**{"prompt": "a", **fields})
    return caught.value


def make_client(chat: ScriptedChat) -> FlaskClient:
    return create_app(SETTINGS, chat).test_client()


def reply(chat: ScriptedChat, **fields: Any) -> Any:
    response = make_client(chat).post("/v1/completions", json={"prompt": "Once", **fields})
    assert response.status_code == 200, response.text
    return response.get_json()


def streamed(chat: ScriptedChat, **fields: Any) -> list[Any]:
    response = make_client(chat).post("/v1/completions", json={"prompt": "Once", "stream": True, **fields})
    assert response.status_code == 200, response.text
    return events_of(response.text)


def test_a_prompt_goes_to_the_model_as_it_is() -> None:
    [chat] = parse(prompt="Once upon").choices
    assert (chat.raw, chat.messages, chat.prompt_ids) == (True, (Message("user", "Once upon"),), ())
    assert chat.sampling == SETTINGS.sampling.model_copy(update={"max_new_tokens": 16})


def test_token_ids_are_a_prompt() -> None:
    [chat] = parse(prompt=[5, 6, 7]).choices
    assert (chat.raw, chat.prompt_ids) == (True, (5, 6, 7))


def test_several_prompts_have_their_choices_one_after_the_other() -> None:
    request = parse(prompt=["a", [5, 6]], n=2)
    assert [(chat.messages[0].content, chat.prompt_ids) for chat in request.choices] == [
        ("a", ()),
        ("a", ()),
        ("", (5, 6)),
        ("", (5, 6)),
    ]


def test_each_choice_of_a_seeded_prompt_is_drawn_by_a_seed_of_its_own() -> None:
    assert [chat.sampling.seed for chat in parse(prompt=["a", "b"], n=2, seed=3).choices] == [3, 4, 3, 4]


def test_every_field_reaches_the_pipeline() -> None:
    request = parse(
        prompt="a", max_tokens=5, temperature=0, top_p=0.5, top_k=3, stop=["x"], logprobs=2, logit_bias={"7": -100}
    )
    [chat] = request.choices
    drawn = chat.sampling
    assert (drawn.max_new_tokens, drawn.temperature, drawn.top_p, drawn.top_k) == (5, 0, 0.5, 3)
    assert (chat.stop, chat.rules.top_logprobs, chat.rules.logit_bias) == (("x",), 2, {7: -100.0})


def test_null_in_every_optional_field_is_as_if_it_was_absent() -> None:
    names = ["max_tokens", "n", "best_of", "logprobs", "echo", "suffix", "stream", "stop", "seed", "logit_bias"]
    names += ["temperature", "top_p", "user", "stream_options", "response_format", "presence_penalty"]
    assert parse(prompt="a", **dict.fromkeys(names)) == parse(prompt="a")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": "a" * 100_001}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 4}, "n"),
        ({"n": 1000}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 50}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"stop": list("abcdefghi")}, "stop"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"logit_bias": {str(at): 1 for at in range(10_000)}}, "logit_bias"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "the end"}, "suffix"),
        ({"echo": True, "logprobs": 0}, "echo"),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_name_of_its_field(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.param) == (400, param)
    assert f"`{param}`" in error.message


def test_an_empty_suffix_and_a_best_of_as_large_as_n_ask_for_nothing() -> None:
    assert parse(prompt="a", n=2, suffix="", best_of=2) == parse(prompt="a", n=2)


def test_the_reply_has_the_fields_of_the_contract() -> None:
    body = reply(ScriptedChat())
    assert body.pop("id").startswith("cmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion",
        "model": "catbot",
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_the_reply_and_its_chunks_are_completions_of_the_sdk() -> None:
    chat = ScriptedChat(steps=[Delta("He", logprobs=TOKENS[:1]), Delta("猫!", logprobs=TOKENS[1:])])
    whole = Completion.model_validate(reply(chat, logprobs=2))
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("He猫!", "stop")
    for chunk in streamed(chat, logprobs=2)[:-2]:
        # Only the last chunk has the reason for which the SDK has no null.
        chunk["choices"][0]["finish_reason"] = "stop"
        Completion.model_validate(chunk)


@pytest.mark.parametrize(("reason", "told"), [("stop", "stop"), ("length", "length"), ("deadline", "length")])
def test_it_says_why_the_text_ends(reason: Any, told: str) -> None:
    assert reply(ScriptedChat(end=reply_end(reason)))["choices"][0]["finish_reason"] == told


def test_notes_stand_beside_the_usage_and_in_the_last_chunk_of_a_choice() -> None:
    chat = ScriptedChat(end=reply_end(notes=("Read as English.",)))
    assert reply(chat, prompt=["a", "b"])["notes"] == ["Read as English."]
    assert "notes" not in reply(ScriptedChat())
    told = [chunk.get("notes") for chunk in streamed(chat)[:-1]]
    assert told == [None] * (len(told) - 1) + [["Read as English."]]


def test_choices_of_one_prompt_count_it_once() -> None:
    body = reply(ScriptedChat(), prompt=["a", "b"], n=2)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (14, 12)


def test_a_stream_is_chunks_then_usage_if_asked_then_done() -> None:
    first, *chunks, usage, done = streamed(ScriptedChat(), stream_options={"include_usage": True})
    assert (first["object"], first["choices"][0]["text"], first["usage"]) == ("text_completion", "Hel", None)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 10, "[DONE]")
    assert {chunk["id"] for chunk in chunks} == {first["id"], usage["id"]}


def test_without_stream_options_a_stream_has_no_usage() -> None:
    *chunks, last, _ = streamed(ScriptedChat())
    assert last["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in chunk for chunk in [*chunks, last])


def test_a_stream_of_several_prompts_tells_them_apart() -> None:
    *chunks, _ = streamed(ScriptedChat(), prompt=["a", "b"])
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "Hello", 1: "Hello"}


def test_echo_puts_the_prompt_in_front() -> None:
    assert reply(ScriptedChat(), echo=True)["choices"][0]["text"] == "OnceHello"
    first, *_ = streamed(ScriptedChat(), echo=True)
    assert first["choices"][0]["text"] == "Once"


def test_echoed_token_ids_become_text() -> None:
    class Decoding(ScriptedChat):
        def tokenize(self, request: ChatRequest) -> PromptTokens:
            return replace(super().tokenize(request), text="Twice ")

    assert reply(Decoding(), prompt=[3, 4], echo=True)["choices"][0]["text"] == "Twice Hello"


def test_a_broken_stream_ends_with_its_error_and_done() -> None:
    *_, error, done = streamed(ScriptedChat(steps=["Hel", EngineFailed("It broke.")]))
    assert (error["error"]["code"], done) == ("engine_failed", "[DONE]")


CAT = "猫".encode()
TOKENS = (
    TokenLogprob("He", b"He", -0.5, (TokenLogprob("He", b"He", -0.5), TokenLogprob("A", b"A", -1.0))),
    TokenLogprob("�", CAT[:2], -2.0),
    TokenLogprob("�", CAT[2:], -3.0),
    TokenLogprob("!", b"!", -4.0),
)


def test_logprobs_have_the_legacy_form_with_the_bytes_of_half_characters() -> None:
    chat = ScriptedChat(steps=[Delta("He", logprobs=TOKENS[:1]), Delta("猫!", logprobs=TOKENS[1:])])
    assert reply(chat, logprobs=2)["choices"][0]["logprobs"] == {
        "tokens": ["He", "bytes:\\xe7\\x8c", "bytes:\\xab", "!"],
        "token_logprobs": [-0.5, -2.0, -3.0, -4.0],
        "top_logprobs": [{"He": -0.5, "A": -1.0}, {"bytes:\\xe7\\x8c": -2.0}, {"bytes:\\xab": -3.0}, {"!": -4.0}],
        "text_offset": [0, 2, 2, 3],
    }


def test_streamed_logprobs_go_on_where_the_chunk_before_ended() -> None:
    chat = ScriptedChat(steps=[Delta("He", logprobs=TOKENS[:1]), Delta("猫!", logprobs=TOKENS[1:])])
    chunks = streamed(chat, logprobs=0)[:2]
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [[0], [2, 2, 3]]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["prompt", "n", "best_of", "logprobs", "echo", "stop", "suffix", "logit_bias", "stream", "stream_options"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=6))
def test_any_json_object_is_read_or_refused_and_nothing_else(fields: dict[str, Any]) -> None:
    try:
        request = parse(**fields)
    except InvalidRequest:
        return
    assert 1 <= len(request.choices) <= 16
