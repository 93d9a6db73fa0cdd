"""POST /tokenize: what it takes and tells, over a scripted pipeline and over a real tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from colab_llm_chat.chat import Chat
from colab_llm_chat.errors import ModelLoading
from colab_llm_chat.protocol.messages import ChatRequest, Message, PromptTokens
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import Lent, ScriptedChat

USER = {"role": "user", "content": "hi"}


class AskedChat(ScriptedChat):
    """Keeps what it is asked to tokenize."""

    def tokenize(self, request: ChatRequest) -> PromptTokens:
        self.requests.append(request)
        return super().tokenize(request)


def make_client(chat: ScriptedChat) -> FlaskClient:
    return create_app(Settings(), chat).test_client()


def asked(**fields: Any) -> ChatRequest:
    chat = AskedChat()
    response = make_client(chat).post("/tokenize", json=fields)
    assert response.status_code == 200, response.text
    return chat.requests[0]


@pytest.mark.parametrize("address", ["/tokenize", "/v1/tokenize"])
def test_the_reply_has_the_tokens_their_count_and_the_window(address: str) -> None:
    response = make_client(ScriptedChat()).post(address, json={"prompt": "abc", "return_token_strs": True})
    assert response.get_json() == {
        "count": 3,
        "max_model_len": 64,
        "tokens": [0, 1, 2],
        "token_strs": ["0", "1", "2"],
        "prompt": "abc",
        "dropped_messages": 0,
    }


def test_without_being_asked_it_tells_no_pieces() -> None:
    assert "token_strs" not in make_client(ScriptedChat()).post("/tokenize", json={"prompt": "abc"}).get_json()


@pytest.mark.parametrize("name", ["prompt", "content"])
def test_a_prompt_is_tokenized_as_it_is(name: str) -> None:
    request = asked(**{name: "hi"})
    assert (request.raw, request.messages) == (True, (Message("user", "hi"),))


def test_a_raw_message_and_the_reply_to_carry_on_are_tokenized_without_template() -> None:
    messages = [USER, {"role": "assistant", "content": "Hel"}]
    request = asked(messages=messages, raw=True, continue_final_message=True)
    assert (request.raw, request.continue_final, len(request.messages)) == (True, True, 2)


def test_messages_are_read_as_a_chat_completion_reads_them() -> None:
    tool = {"type": "function", "function": {"name": "weather"}}
    request = asked(
        messages=[USER, {"role": "assistant", "content": "Hel"}],
        tools=[tool],
        chat_template_kwargs={"enable_thinking": False},
        continue_final_message=True,
        add_generation_prompt=False,
    )
    assert (request.raw, request.continue_final, request.generation_prompt) == (False, True, False)
    assert (request.messages[-1], request.template_kwargs) == (Message("assistant", "Hel"), {"enable_thinking": False})
    assert request.tool_use is not None


@pytest.mark.parametrize("form", [{"prompt": "hi"}, {"messages": [USER]}])
def test_the_prompt_is_told_whole_unless_it_is_to_fit_as_a_replys_would(form: dict[str, Any]) -> None:
    assert asked(**form).truncation == "disabled"
    assert asked(**form, truncation="auto").truncation == "auto"


def test_the_demo_models_prompt_fits_when_asked_to_and_tells_what_it_left_out(demo_chat: Chat) -> None:
    client = create_app(Settings(), Lent(demo_chat)).test_client()
    window = client.post("/tokenize", json={"prompt": "a"}).get_json()["max_model_len"]
    turn = [{"role": "user", "content": "おはよう" * 40}, {"role": "assistant", "content": "ニャー" * 40}]
    body = {"messages": [*turn * (window // 100), USER]}
    whole = client.post("/tokenize", json=body).get_json()
    fitted = client.post("/tokenize", json={**body, "truncation": "auto"}).get_json()
    assert whole["count"] > window > fitted["count"]
    assert whole["dropped_messages"] == 0 < fitted["dropped_messages"] < len(body["messages"])
    assert whole["prompt"].endswith(fitted["prompt"][-100:])
    reply = client.post("/chat", json={"message": "hi", "conversationHistory": body["messages"][:-1]}).get_json()
    assert reply["usage"]["prompt_tokens"] == fitted["count"]
    assert reply["dropped_messages"] == fitted["dropped_messages"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "messages": [USER]}, "messages"),
        ({"prompt": "a", "content": "b"}, "content"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "cat", "content": "a"}]}, "messages.0.role"),
        ({"messages": [USER], "top_p": 7}, "top_p"),
        ({"prompt": "a" * 100_001}, "prompt"),
        ({"prompt": "a", "truncation": "left"}, "truncation"),
        ({"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_name_of_its_field(fields: dict[str, Any], param: str) -> None:
    response = make_client(ScriptedChat()).post("/tokenize", json=fields)
    assert (response.status_code, response.get_json()["error"]["param"]) == (400, param)


def test_while_the_model_loads_it_says_when_to_ask_again() -> None:
    class Loading(ScriptedChat):
        def tokenize(self, request: ChatRequest) -> PromptTokens:
            raise ModelLoading("The model is still loading.", retry_after=10)

    response = make_client(Loading()).post("/tokenize", json={"prompt": "a"})
    assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
