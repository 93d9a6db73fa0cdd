"""Access: the key and its ways in, the cookie, Host, Origin, CORS and proxies."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import ChatApp, create_app
from tests.chat_services import ScriptedChat

KEY = "kéy-of-the-house"
TUNNEL = "abc.ngrok-free.app"


def make_app(**settings: Any) -> ChatApp:
    return create_app(Settings(**settings), ScriptedChat())


def say(client: FlaskClient, **headers: str) -> TestResponse:
    return client.post("/chat", json={"message": "hi"}, headers=headers)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": "Bearer " + key.encode().decode("latin-1")}


def signed_in(app: ChatApp, key: str = KEY) -> FlaskClient:
    client = app.test_client()
    assert client.post("/session", json={"key": key}).status_code == 204
    return client


def test_on_loopback_alone_no_key_is_asked_for() -> None:
    app = make_app()
    assert app.access_key is None
    assert say(app.test_client()).status_code == 200
    assert say(app.test_client(), Authorization="Bearer whatever").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8", "LOCALHOST"])
def test_loopback_has_many_names(host: str) -> None:
    assert make_app(host=host).access_key is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "mybox"])
def test_beyond_loopback_a_long_key_is_made(host: str) -> None:
    first, second = make_app(host=host).access_key, make_app(host=host).access_key
    assert first != second
    assert len(first or "") >= 22


def test_a_tunnel_makes_the_key_required_as_long_as_it_is_open() -> None:
    app = make_app()
    app.add_public_host(f"https://{TUNNEL}/")
    assert say(app.test_client(), Host=TUNNEL).status_code == 401
    assert say(app.test_client(), Host=TUNNEL, **bearer(app.access_key or "")).status_code == 200
    app.access.remove_public_host(TUNNEL)
    assert app.access_key is None
    assert say(app.test_client(), Host=TUNNEL).status_code == 403


def test_an_empty_key_opens_the_server_by_hand() -> None:
    app = make_app(access_key="", host="0.0.0.0")
    assert app.access_key is None
    assert say(app.test_client()).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (bearer(KEY), 200),
        ({"Authorization": "bearer  " + KEY.encode().decode("latin-1")}, 200),
        (bearer(KEY + "x"), 401),
        (bearer(""), 401),
        ({"Authorization": KEY.encode().decode("latin-1")}, 401),
        ({"Authorization": "Basic abc"}, 401),
        ({"Authorization": "Bearer \xff\xfe"}, 401),
        ({}, 401),
    ],
)
def test_only_the_right_bearer_key_opens(headers: dict[str, str], status: int) -> None:
    assert say(make_app(access_key=KEY).test_client(), **headers).status_code == status


@pytest.mark.parametrize("path", ["/", "/health"])
def test_some_routes_need_no_key(path: str) -> None:
    assert make_app(access_key=KEY).test_client().get(path).status_code == 200


def test_the_key_is_traded_for_a_cookie_that_does_not_contain_it() -> None:
    app = make_app(access_key=KEY, port=5123)
    cookie = app.test_client().post("/session", json={"key": KEY}).headers["Set-Cookie"]
    assert cookie.startswith("colab_llm_chat_5123=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert KEY not in cookie


@pytest.mark.parametrize("key", ["", "wrong", "\ud800"])
def test_a_wrong_key_gets_no_cookie(key: str) -> None:
    response = make_app(access_key=KEY).test_client().post("/session", json={"key": key})
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers


@pytest.mark.parametrize("body", [{}, {"key": None}, {"key": 5}, {"key": [KEY]}])
def test_a_key_that_is_no_string_is_400(body: dict[str, Any]) -> None:
    assert make_app(access_key=KEY).test_client().post("/session", json=body).status_code == 400


def test_without_a_required_key_signing_in_is_a_no_op() -> None:
    response = make_app().test_client().post("/session", json={"key": "any"})
    assert (response.status_code, "Set-Cookie" in response.headers) == (204, False)


def test_the_cookie_reads_anything_and_writes_from_its_own_page_only() -> None:
    client = signed_in(make_app(access_key=KEY))
    assert client.get("/health").get_json()["model"] == "catbot"
    assert say(client, Origin="http://localhost").status_code == 200
    assert say(client).status_code == 403
    assert say(client, Origin="https://evil.example").status_code == 403
    assert say(client, Origin="null").status_code == 403


def test_a_cookie_of_another_key_opens_nothing() -> None:
    old, new = make_app(access_key=KEY), make_app(access_key="another")
    client = new.test_client()
    client.set_cookie(old.access.cookie_name, old.access.cookie_value)
    assert say(client, Origin="http://localhost").status_code == 401


def test_signing_out_takes_the_cookie_away() -> None:
    client = signed_in(make_app(access_key=KEY))
    assert client.delete("/session", headers={"Origin": "http://localhost"}).status_code == 204
    assert say(client, Origin="http://localhost").status_code == 401


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost:9"}, {"Origin": "https://evil.example"}])
def test_only_the_servers_own_page_signs_out(headers: dict[str, str]) -> None:
    client = signed_in(make_app(access_key=KEY))
    response = client.delete("/session", headers=headers)
    assert (response.status_code, "Set-Cookie" in response.headers) == (403, False)
    assert say(client, Origin="http://localhost").status_code == 200


@pytest.mark.parametrize("headers", [{}, bearer(KEY)])
def test_who_is_not_signed_in_by_cookie_may_sign_out(headers: dict[str, str]) -> None:
    assert make_app(access_key=KEY).test_client().delete("/session", headers=headers).status_code == 204


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_another_sites_page_may_not_sign_in(origin: str) -> None:
    client = make_app(access_key=KEY).test_client()
    assert client.post("/session", json={"key": KEY}, headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:5000",
        "LOCALHOST.",
        "127.0.0.1:5000",
        "[::1]:5000",
        "host.docker.internal:5000",
        "4qwd-496ff2e9c6d22116-5000-colab.googleusercontent.com",
        "5000-gpu-t4-s-abc.us-west4-0.prod.colab.dev",
        "chat.home",
        "CHAT.home:8080",
        "other.home",
    ],
)
def test_own_host_names_are_answered(host: str) -> None:
    app = make_app(allowed_hosts="chat.home, other.home:80")
    assert say(app.test_client(), Host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:127",
        "evil@localhost",
        "localhost:port",
        "-colab.googleusercontent.com.evil.example",
        "x.googleusercontent.com",
        "192.168.1.5",
        "0.0.0.0",
        "a b",
        "localhost/",
    ],
)
def test_foreign_host_names_are_refused(host: str) -> None:
    response = make_app().test_client().get("/", headers={"Host": host})
    assert (response.status_code, response.get_json()["error"]["code"]) == (403, "origin_refused")


def test_bound_to_every_address_it_answers_to_address_literals_and_the_machines_name() -> None:
    client = make_app(host="0.0.0.0").test_client()
    for host in ("192.168.1.5:5000", "[fe80::1]:5000", socket.gethostname()):
        assert client.get("/", headers={"Host": host}).status_code == 200, host
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403


def test_without_a_key_foreign_origins_are_refused_and_no_cors_header_is_sent() -> None:
    client = make_app().test_client()
    for origin in ("https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1", "garbage", ""):
        response = say(client, Origin=origin)
        assert response.status_code == 403, origin
        assert "Access-Control-Allow-Origin" not in response.headers
    assert client.options("/chat", headers={"Origin": "https://evil.example"}).status_code == 403


COLAB = "4qwd-496ff2e9c6d22116-5000-colab.googleusercontent.com"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost", "http://localhost", 200),
        ("localhost", "http://localhost:80", 200),
        ("localhost:7745", "http://localhost:7745", 200),
        ("localhost:7745", "https://localhost:7745", 403),
        ("localhost", "https://localhost", 403),
        ("127.0.0.1:7745", "https://127.0.0.1:7745", 403),
        (COLAB, f"https://{COLAB}", 200),
        (COLAB, f"https://{COLAB}:8443", 403),
        (COLAB, f"http://{COLAB}", 200),
        (COLAB, f"ftp://{COLAB}", 403),
    ],
)
def test_a_page_is_the_servers_own_by_its_whole_address(host: str, origin: str, status: int) -> None:
    assert say(make_app().test_client(), Host=host, Origin=origin).status_code == status


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("my.box:7745", "http://my.box:7745", 200),
        ("my.box:7745", "https://my.box:7745", 200),
        ("my.box:7745", "http://my.box:9999", 403),
        ("my.box:7745", "http://my.box:8443", 403),
        ("my.box:7745", "https://my.box", 200),
        ("localhost", "https://my.box", 200),
        ("localhost", "http://my.box", 200),
        ("localhost", "https://my.box:80", 403),
        ("localhost", "https://tls.box:8443", 200),
        ("localhost", "https://tls.box", 200),
        ("localhost", "https://tls.box:9999", 403),
        ("localhost", "https://other.box", 403),
    ],
)
def test_a_registered_name_is_own_at_the_ports_of_its_proxy_only(host: str, origin: str, status: int) -> None:
    app = make_app(access_key=KEY, allowed_hosts="my.box, tls.box:8443")
    client = app.test_client()
    client.set_cookie(app.access.cookie_name, app.access.cookie_value, domain=host.partition(":")[0])
    assert say(client, Host=host, Origin=origin).status_code == status


def test_a_tunnels_page_writes_by_its_cookie() -> None:
    app = make_app()
    app.add_public_host(f"https://{TUNNEL}")
    client = app.test_client()
    client.set_cookie(app.access.cookie_name, app.access.cookie_value, domain=TUNNEL)
    for headers in ({}, {"X-Forwarded-Proto": "https"}):
        assert say(client, Host=TUNNEL, Origin=f"https://{TUNNEL}", **headers).status_code == 200
        assert say(client, Host=TUNNEL, Origin=f"https://{TUNNEL}:8443", **headers).status_code == 403


def test_https_on_loopback_is_own_where_a_trusted_proxy_says_so() -> None:
    app = make_app(access_key=KEY)
    app.add_public_host(TUNNEL)
    headers = {"Origin": "https://localhost", "X-Forwarded-Proto": "https"}
    assert say(signed_in(app), **headers).status_code == 200


def test_another_notebooks_page_is_foreign() -> None:
    origin = "https://other-5000-colab.googleusercontent.com"
    assert say(make_app().test_client(), Origin=origin).status_code == 403


def test_with_a_key_any_page_may_call_chat_by_bearer_but_without_credentials() -> None:
    client = make_app(access_key=KEY).test_client()
    response = say(client, Origin="https://other.example", **bearer(KEY))
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert "x-request-id" in response.headers["Access-Control-Expose-Headers"]


def test_a_refused_key_is_readable_for_the_calling_page() -> None:
    response = say(make_app(access_key=KEY).test_client(), Origin="https://other.example")
    assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (401, "*")


def test_a_preflight_needs_no_key() -> None:
    asked = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    response = make_app(access_key=KEY).test_client().options("/chat", headers=asked)
    assert response.status_code == 204
    assert response.headers["Access-Control-Allow-Methods"] == "GET, POST, OPTIONS"
    allowed = response.headers["Access-Control-Allow-Headers"]
    assert allowed == "Authorization, Content-Type, ngrok-skip-browser-warning"


OPENAI_PATHS = ["/v1/chat/completions", "/v1/models/a/b", "/v1/nothing", "/chat/completions", "/models", "/models/a/b"]
OPENAI_PATHS += ["/completions", "/responses", "/tokenize"]


@pytest.mark.parametrize("path", OPENAI_PATHS)
def test_with_a_key_any_page_may_call_the_openai_door_with_headers_of_its_clients(path: str) -> None:
    asked = {"Origin": "https://other.example", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    response = make_app(access_key=KEY).test_client().options(path, headers=asked)
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert {"Authorization", "*"} <= set(response.headers["Access-Control-Allow-Headers"].split(", "))
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("path", OPENAI_PATHS)
def test_without_a_key_no_other_page_may_call_the_openai_door(path: str) -> None:
    response = make_app().test_client().options(path, headers={"Origin": "https://other.example"})
    assert response.status_code == 403
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/nothing", "/openapi.json"])
def test_the_openai_door_needs_the_key(path: str) -> None:
    client = make_app(access_key=KEY).test_client()
    assert client.get(path).status_code == 401
    assert client.get(path, headers=bearer(KEY)).status_code in (200, 404)


def test_the_page_and_the_session_have_no_cors() -> None:
    client = make_app(access_key=KEY).test_client()
    for path in ("/", "/session", "/health"):
        assert "Access-Control-Allow-Origin" not in client.options(path).headers


def test_behind_a_registered_tunnel_https_is_seen_and_the_cookie_secure() -> None:
    app = make_app()
    app.add_public_host(TUNNEL)
    headers = {"Host": TUNNEL, "X-Forwarded-Proto": "http, https"}
    response = app.test_client().post("/session", json={"key": app.access_key}, headers=headers)
    assert "Secure" in response.headers["Set-Cookie"]


def test_on_a_page_by_https_the_cookie_is_secure_whatever_the_proxy_says() -> None:
    app = make_app(access_key=KEY, allowed_hosts="localhost")
    response = app.test_client().post("/session", json={"key": KEY}, headers={"Origin": "https://localhost"})
    assert "Secure" in response.headers["Set-Cookie"]


@pytest.mark.parametrize(("registered", "peer"), [(False, "127.0.0.1"), (True, "192.168.1.9")])
def test_forwarding_headers_of_strangers_are_not_believed(registered: bool, peer: str) -> None:
    app = make_app(access_key=KEY)
    if registered:
        app.add_public_host(TUNNEL)
    response = app.test_client().post(
        "/session",
        json={"key": KEY},
        headers={"X-Forwarded-Proto": "https"},
        environ_overrides={"REMOTE_ADDR": peer},
    )
    assert "Secure" not in response.headers["Set-Cookie"]


def test_a_forwarded_host_does_not_pass_the_host_check() -> None:
    app = make_app()
    app.add_public_host(TUNNEL)
    headers = {"Host": "evil.example", "X-Forwarded-Host": TUNNEL, **bearer(app.access_key or "")}
    assert say(app.test_client(), **headers).status_code == 403


HEADERS = ["Host", "Origin", "Authorization", "Cookie", "X-Forwarded-For", "X-Forwarded-Proto", "Accept"]
VALUES = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=30)


@given(st.dictionaries(st.sampled_from(HEADERS), VALUES))
def test_no_header_is_a_fault_of_the_server_or_a_way_in(headers: dict[str, str]) -> None:
    app = make_app(access_key=KEY)
    app.add_public_host(TUNNEL)
    assert say(app.test_client(), **headers).status_code in (401, 403)
