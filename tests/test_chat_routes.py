"""POST /chat through the whole app: JSON replies, streams, and how each of them ends."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from colab_llm_chat.errors import EngineFailed
from colab_llm_chat.protocol.messages import Delta, Message, ReplyEnd, Status
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat, events_of, reply_end


def make_client(chat: ScriptedChat, **settings: Any) -> FlaskClient:
    return create_app(Settings(**settings), chat).test_client()


def streamed(chat: ScriptedChat, **fields: Any) -> list[Any]:
    response = make_client(chat).post("/chat", json={"message": "hi", "stream": True, **fields})
    assert response.status_code == 200
    return events_of(response.text)


def test_a_json_reply_joins_the_deltas() -> None:
    chat = ScriptedChat(steps=["ﾆｬ", Delta(), "ｰﾝ"], end=reply_end(dropped_messages=4))
    response = make_client(chat).post("/chat", json={"message": "hi", "conversationId": "c"})
    body = response.get_json()
    assert (body["success"], body["response"], body["conversationId"]) == (True, "ﾆｬｰﾝ", "c")
    assert response.headers["x-dropped-messages"] == "4"
    assert "ﾆｬｰﾝ".encode() in response.data


def test_the_pipeline_gets_the_parsed_request() -> None:
    chat = ScriptedChat()
    make_client(chat, system="Be a cat.").post("/chat", json={"message": "hi", "top_k": 3})
    assert chat.requests[0].messages == (Message("system", "Be a cat."), Message("user", "hi"))
    assert chat.requests[0].sampling.top_k == 3


def test_a_stream_is_deltas_then_the_end_then_done() -> None:
    events = streamed(ScriptedChat(steps=["ﾆｬ", "ｰﾝ"]), messageId=5)
    assert events[:2] == [{"delta": "ﾆｬ"}, {"delta": "ｰﾝ"}]
    assert (events[2]["done"], events[2]["response"], events[2]["messageId"]) == (True, "ﾆｬｰﾝ", 5)
    assert events[3:] == ["[DONE]"]


def test_the_end_of_a_stream_says_what_the_json_reply_says() -> None:
    chat = ScriptedChat()
    *_, last, _ = streamed(chat)
    assert last == {"done": True, **make_client(chat).post("/chat", json={"message": "hi"}).get_json()}


def test_a_text_that_comes_with_the_end_is_told_too() -> None:
    chat = ScriptedChat(steps=["Hel", Delta("lo", reply_end())])
    assert streamed(chat)[1] == {"delta": "lo"}
    assert make_client(chat).post("/chat", json={"message": "hi"}).get_json()["response"] == "Hello"


def test_a_stream_has_the_headers_that_keep_proxies_from_holding_it_back() -> None:
    response = make_client(ScriptedChat()).post("/chat", json={"message": "hi", "stream": True})
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.text.startswith(": open\n\n")


@pytest.mark.parametrize(("state", "told"), [("ok", "4"), ("loading", None)])
def test_a_stream_tells_the_dropped_messages_in_front_if_they_are_known(state: Any, told: str | None) -> None:
    chat = ScriptedChat(end=reply_end(dropped_messages=4), state=Status(state=state, model_id="catbot"))
    response = make_client(chat).post("/chat", json={"message": "hi", "stream": True})
    assert response.headers.get("x-dropped-messages") == told
    assert events_of(response.text)[-2]["dropped_messages"] == 4  # type: ignore[index]


def test_a_sign_of_life_becomes_a_comment() -> None:
    response = make_client(ScriptedChat(steps=[Delta(), "a"])).post("/chat", json={"message": "hi", "stream": True})
    assert response.text.startswith(': open\n\n: ping\n\ndata: {"delta": "a"}\n\n')


@pytest.mark.parametrize(
    ("accept", "stream", "streams"),
    [
        ("text/event-stream", None, True),
        ("text/event-stream, application/json;q=0.5", None, True),
        ("text/event-stream", False, False),
        ("text/event-stream;q=0", None, False),
        ("application/json, text/event-stream;q=0.5", None, False),
        ("application/json, text/event-stream", None, True),
        ("text/event-stream, */*", None, True),
        ("text/event-stream;q=0.5, */*", None, False),
        ("Text/Event-Stream; charset=utf-8", None, True),
        ("text/*", None, False),
        ("", None, False),
        ("*/*", None, False),
        ("application/json", True, True),
    ],
)
def test_the_accept_header_asks_for_a_stream_where_the_body_does_not_say(
    accept: str, stream: bool | None, streams: bool
) -> None:
    body = {"message": "hi", "stream": stream}
    response = make_client(ScriptedChat()).post("/chat", json=body, headers={"Accept": accept})
    assert (response.mimetype == "text/event-stream") is streams


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.api+json", "Application/JSON"])
def test_every_name_of_json_is_taken(kind: str) -> None:
    response = make_client(ScriptedChat()).post("/chat", data=b'{"message": "hi"}', content_type=kind)
    assert response.status_code == 200


def test_an_error_in_a_stream_that_has_begun_is_told_in_it() -> None:
    error = EngineFailed("The engine died.")
    events = streamed(ScriptedChat(steps=["a", error]))
    assert events == [
        {"delta": "a"},
        {"success": False, "message": "The engine died.", "error": error.to_dict()},
        "[DONE]",
    ]


def test_a_fault_of_ours_in_a_stream_is_told_without_its_detail(caplog: pytest.LogCaptureFixture) -> None:
    events = streamed(ScriptedChat(steps=["a", ValueError("inner detail")]))
    assert events[1]["error"]["code"] == "internal_error"
    assert "inner detail" not in json.dumps(events)
    assert "inner detail" in caplog.text
    assert events[2] == "[DONE]"


@pytest.mark.parametrize("end", [None, reply_end("cancelled")])
def test_a_reply_that_was_cut_off_is_an_error(end: ReplyEnd | None) -> None:
    chat = ScriptedChat(steps=["a"], end=end)
    assert make_client(chat).post("/chat", json={"message": "hi"}).status_code == 503
    first, error, last = streamed(chat)
    assert (first, error["error"]["code"], last) == ({"delta": "a"}, "server_busy", "[DONE]")


def test_closing_a_stream_cancels_its_reply() -> None:
    gate = threading.Event()
    chat = ScriptedChat(steps=["a", gate])
    response = make_client(chat).post("/chat", json={"message": "hi", "stream": True}, buffered=False)
    chunks = iter(response.response)
    assert [next(chunks), next(chunks)] == [b": open\n\n", b'data: {"delta": "a"}\n\n']
    assert not chat.replies[0].cancelled.is_set()
    response.close()
    assert chat.replies[0].cancelled.is_set()


def test_a_stream_that_is_closed_before_it_began_cancels_its_reply() -> None:
    app = create_app(Settings(), chat := ScriptedChat())
    with app.test_request_context("/chat", method="POST", json={"message": "hi", "stream": True}):
        response = app.full_dispatch_request()
    response.close()
    assert chat.replies[0].cancelled.is_set()
    assert app.live.count == 0


@pytest.mark.parametrize("stream", [True, False])
def test_no_reply_stays_registered(stream: bool) -> None:
    app = create_app(Settings(), ScriptedChat(steps=["a", EngineFailed("Died.")]))
    assert app.test_client().post("/chat", json={"message": "hi", "stream": stream}).text
    assert app.live.count == 0


@pytest.mark.parametrize("stream", [True, False])
def test_each_reply_is_one_line_of_log_without_its_text(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    client = make_client(ScriptedChat(steps=["private reply"]))
    body = {"message": "private question", "stream": stream}
    with caplog.at_level(logging.INFO, "colab_llm_chat"):
        assert client.post("/chat", json=body, headers={"x-request-id": "r-1"}).text
    assert caplog.messages == ["reply r-1: stop, 7 prompt + 3 completion tokens, 0.50 s, 6.0 tokens/s"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_failed_reply_is_one_line_of_log(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    client = make_client(ScriptedChat(steps=["a", EngineFailed("Died.")]))
    with caplog.at_level(logging.INFO, "colab_llm_chat"):
        body = {"message": "hi", "stream": stream}
        assert client.post("/chat", json=body, headers={"x-request-id": "r-1"}).text
    assert caplog.messages == ["reply r-1: engine_failed"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ["message", "conversationHistory", "system", "stop", "seed", "top_p", "continue", "stream", "messageId"]
BODIES = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), JSON_VALUES, max_size=6) | JSON_VALUES


@given(BODIES)
def test_no_body_is_a_fault_of_the_server(body: Any) -> None:
    response = make_client(ScriptedChat()).post(
        "/chat", data=json.dumps(body).encode(), content_type="application/json"
    )
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        fields = response.get_json()
        assert (fields["success"], fields["message"]) == (False, fields["error"]["message"])
