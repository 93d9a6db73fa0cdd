"""The app as a whole: page, health, headers, and one shape for every error."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from colab_llm_chat.errors import ChatError, EngineFailed, ModelGated, ModelLoading, OutOfMemory, QueueFull
from colab_llm_chat.protocol.messages import Status
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import ChatApp, create_app
from tests.chat_services import ScriptedChat

ERROR_FIELDS = {"message", "type", "param", "code", "hint"}


def make_app(chat: ScriptedChat | None = None, **settings: Any) -> ChatApp:
    return create_app(Settings(**settings), chat or ScriptedChat())


def make_client(chat: ScriptedChat | None = None, **settings: Any) -> FlaskClient:
    return make_app(chat, **settings).test_client()


def assert_error(response: TestResponse, status: int, code: str, *, chat: bool = False) -> dict[str, Any]:
    body = response.get_json()
    assert (response.status_code, body["error"]["code"]) == (status, code)
    assert set(body) == ({"success", "message", "error"} if chat else {"error"})
    assert set(body["error"]) == ERROR_FIELDS
    assert body["error"]["message"]
    assert body["error"]["hint"]
    assert response.headers["x-request-id"]
    if chat:
        assert (body["success"], body["message"]) == (False, body["error"]["message"])
    return dict(body["error"])


def test_the_page_is_served_with_its_settings() -> None:
    response = make_client(port=5123).get("/")
    assert response.status_code == 200
    assert response.mimetype == "text/html"
    assert '"modelName": "catbot"' in response.text


def test_of_a_model_folder_the_page_tells_only_the_name() -> None:
    chat = ScriptedChat(state=Status(state="ok", model_id="/home/ann/models/tiger"))
    text = make_client(chat).get("/").text
    assert "/home/ann" not in text
    assert "tiger" in text


def test_every_file_that_the_page_names_is_there() -> None:
    client = make_client()
    page = client.get("/").text
    names = {part.split('"')[0] for part in page.split('"/static/')[1:]}
    assert names
    for name in names:
        with client.get(f"/static/{name}") as response:
            assert response.status_code == 200, name


def test_static_files_may_be_kept_and_asked_for_again() -> None:
    client = make_client()
    with client.get("/static/icon.svg") as first:
        etag = first.headers["ETag"]
        assert first.headers["Cache-Control"] == "no-cache"
    with client.get("/static/icon.svg", headers={"If-None-Match": etag}) as again:
        assert again.status_code == 304


def test_the_icon_is_found_where_browsers_look() -> None:
    with make_client().get("/favicon.ico") as response:
        assert (response.status_code, response.mimetype) == (200, "image/svg+xml")


@pytest.mark.parametrize(("state", "http_status"), [("ok", 200), ("loading", 503), ("failed", 503)])
def test_health_says_the_state(state: Any, http_status: int) -> None:
    error = ModelGated("The model is gated.").to_dict()
    chat = ScriptedChat(state=Status(state=state, model_id="m", progress=0.5, detail="weights", error=error))
    response = make_client(chat).get("/health")
    assert response.status_code == http_status
    kind = {"task": "chat", "languages": []}
    expected = {"status": state, "model": "m", "progress": 0.5, "detail": "weights", "error": error, **kind}
    assert response.get_json() == expected


def test_health_tells_strangers_the_state_only() -> None:
    client = make_client(access_key="secret")
    assert client.get("/health").get_json() == {"status": "ok"}
    known = client.get("/health", headers={"Authorization": "Bearer secret"}).get_json()
    assert known["model"] == "catbot"


def test_every_answer_carries_the_security_headers() -> None:
    client = make_client()
    for response in (client.get("/"), client.get("/health"), client.get("/nowhere"), client.post("/chat")):
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"


def test_the_clients_request_id_is_kept() -> None:
    assert make_client().get("/health", headers={"x-request-id": "my-id.1"}).headers["x-request-id"] == "my-id.1"


@pytest.mark.parametrize("sent", ["", "a" * 65, "a b", "<b>", "é"])
def test_an_odd_request_id_is_replaced(sent: str) -> None:
    given_back = make_client().get("/health", headers={"x-request-id": sent}).headers["x-request-id"]
    assert given_back.startswith("req-")


@pytest.mark.parametrize("path", ["/nowhere", "/chat/", "/x//chat", "/v1/nothing", "/static/nothing.js", "/%FF"])
def test_an_unknown_address_is_404_in_json(path: str) -> None:
    assert_error(make_client().open(path), 404, "route_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/chat", {"POST", "OPTIONS"}),
        ("HEAD", "/health", None),
        ("PUT", "/chat", {"POST", "OPTIONS"}),
        ("DELETE", "/", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/session", {"POST", "DELETE", "OPTIONS"}),
        ("BREW", "/health", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_405_naming_the_right_ones(method: str, path: str, allow: set[str] | None) -> None:
    response = make_client().open(path, method=method)
    if allow is None:
        assert (response.status_code, response.data) == (200, b"")
        return
    assert_error(response, 405, "method_not_allowed", chat=path == "/chat")
    assert set(response.headers["Allow"].split(", ")) == allow


def test_options_names_the_methods_without_a_key() -> None:
    response = make_client(access_key="secret").options("/chat")
    assert (response.status_code, response.data, response.headers["Allow"]) == (204, b"", "OPTIONS, POST")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize("path", ["/chat", "/session"])
def test_another_content_type_is_415(path: str, kind: str | None) -> None:
    response = make_client().post(path, data=b"{}", content_type=kind)
    assert_error(response, 415, "unsupported_media_type", chat=path == "/chat")


@pytest.mark.parametrize("coding", ["gzip", "br, gzip", "deflate"])
@pytest.mark.parametrize("path", ["/chat", "/session"])
def test_an_encoded_body_is_415(path: str, coding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    response = make_client().post(path, data=b"\x1f\x8b", headers=headers)
    error = assert_error(response, 415, "unsupported_media_type", chat=path == "/chat")
    assert "Content-Encoding" in error["message"]
    assert "Content-Encoding" in error["hint"]


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_that_says_that_it_is_not_encoded_is_taken(coding: str) -> None:
    response = make_client().post("/chat", json={"message": "hi"}, headers={"Content-Encoding": coding})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/chat", "/session"])
def test_a_body_over_the_limit_is_413(path: str) -> None:
    response = make_client(max_body_bytes=1024).post(path, json={"message": "a" * 1024})
    assert_error(response, 413, "body_too_large", chat=path == "/chat")


@pytest.mark.parametrize("path", ["/chat", "/session"])
def test_a_body_that_is_no_json_is_400(path: str) -> None:
    response = make_client().post(path, data=b"{", content_type="application/json")
    assert_error(response, 400, "invalid_request", chat=path == "/chat")


def test_a_missing_key_is_401_before_the_body_is_read() -> None:
    client = make_client(access_key="secret")
    response = client.post("/chat", data=b"{", content_type="text/plain")
    assert_error(response, 401, "invalid_api_key", chat=True)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert_error(client.get("/nowhere"), 401, "invalid_api_key")


def test_a_foreign_host_is_403() -> None:
    client = make_client()
    assert_error(client.post("/chat", headers={"Host": "evil.example"}), 403, "origin_refused", chat=True)
    assert_error(client.get("/", headers={"Host": "evil.example"}), 403, "origin_refused")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueueFull("Full.", retry_after=3), 429),
        (ModelLoading("Loading.", retry_after=5), 503),
        (ModelGated("Gated."), 503),
        (OutOfMemory("No memory."), 503),
        (EngineFailed("Died."), 503),
        (ChatError("Odd."), 500),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_the_pipeline_refuses_has_its_own_status(error: ChatError, status: int, stream: bool) -> None:
    client = make_client(ScriptedChat(refuses_with=error))
    response = client.post("/chat", json={"message": "hi", "stream": stream})
    assert_error(response, status, error.code, chat=True)
    assert response.headers.get("Retry-After") == (str(error.retry_after) if error.retry_after else None)
    assert response.headers.get("x-should-retry") == ("false" if isinstance(error, OutOfMemory) else None)


def test_a_fault_of_ours_is_500_with_an_id_that_the_log_has_too(caplog: pytest.LogCaptureFixture) -> None:
    client = make_client(ScriptedChat(steps=[ValueError("inner detail")]))
    with caplog.at_level(logging.ERROR, "colab_llm_chat"):
        response = client.post("/chat", json={"message": "hi"}, headers={"x-request-id": "odd-1"})
    error = assert_error(response, 500, "internal_error", chat=True)
    assert "odd-1" in error["message"]
    assert "inner detail" not in response.text
    assert "odd-1" in caplog.text
    assert "inner detail" in caplog.text


def test_a_fault_outside_the_chat_is_500_too() -> None:
    app = make_app()
    app.add_url_rule("/broken", view_func=lambda: 1 // 0)
    assert_error(app.test_client().get("/broken"), 500, "internal_error")


def test_an_odd_range_of_a_static_file_is_answered_in_json() -> None:
    response = make_client().get("/static/icon.svg", headers={"Range": "bytes=999999999-"})
    assert_error(response, 416, "invalid_request")
    assert response.headers["Content-Range"].startswith("bytes */")


def test_the_web_rooms_load_neither_torch_nor_transformers() -> None:
    code = "import sys, colab_llm_chat.web.app; print({'torch', 'transformers'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "set()\n"
