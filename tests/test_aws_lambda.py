"""The Lambda example: events of API Gateway against running servers, and whatever may answer in a server's place."""

from __future__ import annotations

import ast
import base64
import contextlib
import json
import re
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from colab_llm_chat.chat import Chat
from colab_llm_chat.errors import ChatError, EngineFailed, ModelLoading, OutOfMemory, QueueFull
from colab_llm_chat.protocol.messages import Message
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from examples.aws_lambda import index
from tests.chat_services import Lent, ScriptedChat, serving, wait_until
from tests.tiny_models import tiny_model
from tests.tokenizers_made_here import CHATML, byte_level

SOURCE = Path(index.__file__)
READMES = [(SOURCE.parent / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md")]
KEY = "opens-sesame-4711-鍵"
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Content-Type,X-Amz-Date,Authorization,X-Api-Key,X-Amz-Security-Token",
    "Access-Control-Allow-Methods": "OPTIONS,POST",
}
JSON_HEADERS = {"Content-Type": "application/json; charset=utf-8", **CORS}


@dataclass
class Context:
    """Of Lambda's context, what the handler uses."""

    milliseconds: int = 30_000

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


def rest_event(body: object, **fields: Any) -> dict[str, Any]:
    """What a REST API with a Cognito authorizer sends: payload format 1.0."""
    return {
        "resource": "/chat",
        "path": "/chat",
        "httpMethod": "POST",
        "headers": {"Authorization": "a signed-in person's token", "content-type": "application/json"},
        "multiValueHeaders": {"content-type": ["application/json"]},
        "queryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {"authorizer": {"claims": {"email": "a@example.com"}}, "httpMethod": "POST", "stage": "prod"},
        "body": body if body is None or isinstance(body, str) else json.dumps(body),
        "isBase64Encoded": False,
        **fields,
    }


def http_event(body: object, *, method: str = "POST") -> dict[str, Any]:
    """What an HTTP API sends: payload format 2.0, here with an encoded body."""
    return {
        "version": "2.0",
        "routeKey": f"{method} /chat",
        "rawPath": "/chat",
        "rawQueryString": "",
        "headers": {"content-type": "application/json"},
        "requestContext": {"http": {"method": method, "path": "/chat", "protocol": "HTTP/1.1"}, "stage": "$default"},
        "body": base64.b64encode(json.dumps(body, ensure_ascii=False).encode()).decode(),
        "isBase64Encoded": True,
    }


def call(event: dict[str, Any], milliseconds: int = 30_000) -> tuple[int, dict[str, Any]]:
    """Status and parsed body of what the handler returns, which must be what API Gateway takes."""
    answer = index.handler(event, Context(milliseconds))
    assert set(answer) == {"statusCode", "headers", "body", "isBase64Encoded"}
    assert answer["headers"] == JSON_HEADERS
    return answer["statusCode"], json.loads(answer["body"])


def failure(event: dict[str, Any], milliseconds: int = 30_000) -> tuple[int, str]:
    """Status and sentence of a call that must fail."""
    status, body = call(event, milliseconds)
    assert body == {"success": False, "message": body["message"], "error": body["message"]}
    return status, body["message"]


@pytest.fixture(autouse=True)
def only_these_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHAT_ACCESS_KEY", "CHAT_TIMEOUT_SECONDS", "CHAT_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Start a server over a pipeline and point the function at it."""
    with contextlib.ExitStack() as servers:

        def start(chat: Any, **settings: Any) -> None:
            app = servers.enter_context(serving(create_app(Settings(**settings), chat)))
            monkeypatch.setenv("CHAT_ENDPOINT", f"http://127.0.0.1:{app.bound_port}")

        yield start


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[socketserver.BaseRequestHandler]], None]]:
    """Something else that listens where the server is expected."""
    with contextlib.ExitStack() as servers:

        def start(kind: type[socketserver.BaseRequestHandler]) -> None:
            server = servers.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), kind))
            servers.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            monkeypatch.setenv("CHAT_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")

        yield start


def answering(body: bytes, *, status: int = 200, **headers: str) -> Any:
    """A program that gives every POST this answer, and keeps the headers that it was sent."""

    class Answering(BaseHTTPRequestHandler):
        seen: ClassVar[list[Mapping[str, str]]] = []

        def do_POST(self) -> None:
            self.seen.append(self.headers)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Answering


@pytest.mark.parametrize("make_event", [rest_event, http_event])
@pytest.mark.parametrize("history", [{}, {"conversationHistory": None}, {"conversationHistory": []}])
def test_a_message_comes_back_as_a_reply_and_a_history(
    serve: Callable[..., None], make_event: Callable[..., dict[str, Any]], history: dict[str, Any]
) -> None:
    serve(ScriptedChat(steps=["ﾆｬ", "ｰﾝ"]))
    status, body = call(make_event({"message": "こんにちは、猫さん", **history}))
    assert (status, body["success"], body["response"], body["truncated"]) == (200, True, "ﾆｬｰﾝ", False)
    assert body["conversationHistory"] == [
        {"role": "user", "content": "こんにちは、猫さん"},
        {"role": "assistant", "content": "ﾆｬｰﾝ"},
    ]


def test_the_history_reaches_the_model_and_grows(serve: Callable[..., None]) -> None:
    chat = ScriptedChat(steps=["c"])
    serve(chat)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    _, body = call(rest_event({"message": "と", "conversationHistory": turns}))
    assert chat.requests[0].messages == (Message("user", "a"), Message("assistant", "b"), Message("user", "と"))
    assert len(body["conversationHistory"]) == 4


def test_both_names_are_the_same_handler() -> None:
    assert index.handler is index.lambda_handler


@pytest.mark.parametrize("event", [rest_event(None, httpMethod="OPTIONS"), http_event({}, method="OPTIONS")])
def test_a_preflight_is_answered_without_asking_anybody(event: dict[str, Any]) -> None:
    assert index.handler(event, Context()) == {
        "statusCode": 204,
        "headers": CORS,
        "body": "",
        "isBase64Encoded": False,
    }


@pytest.mark.parametrize(
    "event", [{"body": '{"message": "hi"}'}, {"body": '{"message": "hi"}', "requestContext": None}]
)
def test_a_bare_test_event_of_the_console_will_do(serve: Callable[..., None], event: dict[str, Any]) -> None:
    serve(ScriptedChat())
    assert index.handler(event)["statusCode"] == 200


@pytest.mark.parametrize("ending", ["", "/", "/chat", "/chat/", "  \n", "/#key=KEY"])
def test_the_endpoint_may_be_written_in_any_of_these_ways(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    serve(ScriptedChat())
    monkeypatch.setenv("CHAT_ENDPOINT", " " + index.os.environ["CHAT_ENDPOINT"] + ending)
    assert call(rest_event({"message": "hi"}))[0] == 200


@pytest.mark.parametrize(
    "endpoint", ["", "  ", "name.ngrok-free.app", "ftp://x", "https://", "https://[", "http://x:y"]
)
def test_an_endpoint_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("CHAT_ENDPOINT", endpoint)
    status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, sentence.startswith("CHAT_ENDPOINT of this function")) == (500, True)


@pytest.mark.parametrize(("server_key", "sent"), [(KEY, KEY), (KEY, f" {KEY}\n"), (None, KEY), (None, "")])
def test_the_key_opens_the_server_and_a_server_without_one_takes_any(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, server_key: str | None, sent: str
) -> None:
    serve(ScriptedChat(), access_key=server_key)
    monkeypatch.setenv("CHAT_ACCESS_KEY", sent)
    assert call(rest_event({"message": "hi"}))[0] == 200


@pytest.mark.parametrize("sent", ["", "a-wrong-key"])
def test_a_wrong_key_is_told_with_what_to_do(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    serve(ScriptedChat(), access_key=KEY)
    monkeypatch.setenv("CHAT_ACCESS_KEY", sent)
    status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, sentence) == (401, "The access key is missing or wrong. " + index.ADVICE[401])


@pytest.mark.parametrize("key", ["a\nb", "a\x00b"])
def test_a_key_that_no_header_can_carry_is_told_without_it(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    serve(ScriptedChat())
    monkeypatch.setattr(index.os, "environ", {**index.os.environ, "CHAT_ACCESS_KEY": key})
    status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, "CHAT_ACCESS_KEY" in sentence, key in sentence) == (500, True, False)


@pytest.mark.parametrize("body", [None, "", "{", "nonsense", "[1]", '"text"', "null", "[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(serve: Callable[..., None], body: str | None) -> None:
    serve(ScriptedChat())
    status, sentence = failure(rest_event(body))
    assert (status, "body of the request" in sentence) == (400, True)


def test_a_body_that_is_not_the_base64_it_claims_to_be_is_refused(serve: Callable[..., None]) -> None:
    serve(ScriptedChat())
    for body in ("a", "gICA"):
        assert failure(rest_event(body, isBase64Encoded=True))[0] == 400


@pytest.mark.parametrize("message", [None, "", " \n", 5, ["hi"]])
def test_a_missing_message_is_refused(serve: Callable[..., None], message: object) -> None:
    serve(ScriptedChat())
    status, sentence = failure(rest_event({"message": message}))
    assert (status, "`message`" in sentence) == (400, True)


@pytest.mark.parametrize(
    "error",
    [
        QueueFull("112 requests are waiting."),
        ModelLoading("Still loading."),
        EngineFailed("The engine died."),
        OutOfMemory("Out of memory."),
    ],
)
def test_the_servers_refusal_comes_through_with_its_sentence(serve: Callable[..., None], error: ChatError) -> None:
    serve(ScriptedChat(refuses_with=error))
    expected = f"{error.message} {index.ADVICE[error.status]}"
    assert failure(rest_event({"message": "hi"})) == (error.status, expected)


def test_a_request_that_the_server_refuses_comes_through(serve: Callable[..., None]) -> None:
    serve(ScriptedChat())
    status, sentence = failure(rest_event({"message": "hi", "temperature": -1}))
    assert (status, "temperature" in sentence) == (400, True)


def test_other_fields_of_chat_pass_and_a_stream_does_not(serve: Callable[..., None]) -> None:
    chat = ScriptedChat()
    serve(chat)
    status, body = call(rest_event({"message": "hi", "top_k": 3, "stream": True, "conversationId": "c"}))
    assert (status, body["conversationId"], chat.requests[0].sampling.top_k) == (200, "c", 3)


@pytest.mark.parametrize(
    ("setting", "milliseconds", "deadline_ms"),
    [("", 30_000, 23_000), ("5", 30_000, 4_000), ("25", 12_000, 8_000), ("25", 2_500, 400), ("800", 900_000, 798_000)],
)
def test_the_deadline_lies_below_the_setting_and_below_the_functions_own_end(
    serve: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    milliseconds: int,
    deadline_ms: int,
) -> None:
    chat = ScriptedChat()
    serve(chat)
    monkeypatch.setenv("CHAT_TIMEOUT_SECONDS", setting)
    call(rest_event({"message": "hi"}), milliseconds)
    call(rest_event({"message": "hi", "deadline_ms": 300}), milliseconds)
    call(rest_event({"message": "hi", "deadline_ms": "soon"}), milliseconds)
    assert [request.deadline_ms for request in chat.requests] == [deadline_ms, 300, deadline_ms]


def test_a_function_without_time_says_so_at_once(serve: Callable[..., None]) -> None:
    serve(ScriptedChat())
    status, sentence = failure(rest_event({"message": "hi"}), 2_000)
    assert (status, "30 seconds" in sentence) == (504, True)


@pytest.mark.parametrize("setting", ["soon", "0", "-3", "nan", "inf", "1e9"])
def test_a_timeout_that_is_none_is_told(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    serve(ScriptedChat())
    monkeypatch.setenv("CHAT_TIMEOUT_SECONDS", setting)
    status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, "CHAT_TIMEOUT_SECONDS" in sentence) == (500, True)


def test_a_server_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("CHAT_ENDPOINT", f"http://127.0.0.1:{port}")
    sentence = f"The chat server cannot be reached (connection refused). {index.ADVICE[502]}"
    assert failure(rest_event({"message": "hi"})) == (502, sentence)


@pytest.mark.parametrize("endpoint", ["https://name.invalid", f"http://{'a' * 70}.example", "http://127.0.0.1:9/a b"])
def test_an_address_that_leads_nowhere_is_told(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("CHAT_ENDPOINT", endpoint)
    status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, "cannot be reached" in sentence, index.ADVICE[502] in sentence) == (502, True, True)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("CHAT_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("CHAT_TIMEOUT_SECONDS", "0.3")
        status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, "within 0.3 seconds" in sentence) == (504, True)


def trickling(start: bytes, ended: threading.Event) -> type[BaseHTTPRequestHandler]:
    """Sends an answer a byte at a time, so that no single read takes long."""

    class Trickling(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.wfile.write(start)
            with contextlib.suppress(OSError):
                while not ended.wait(0.02):
                    self.wfile.write(b" ")

        def log_message(self, *_: object) -> None:
            pass

    return Trickling


@pytest.mark.parametrize("start", [b"HTTP/1.0 200 OK\r\nX-Slow: ", b"HTTP/1.0 200 OK\r\n\r\n{"])
def test_an_answer_that_trickles_in_is_given_up(
    listening: Callable[..., None], monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    ended = threading.Event()
    listening(trickling(start, ended))
    monkeypatch.setenv("CHAT_TIMEOUT_SECONDS", "0.3")
    assert failure(rest_event({"message": "hi"}))[0] == 504
    ended.set()
    wait_until(lambda: not any(thread.name == "chat-request" for thread in threading.enumerate()))


@pytest.mark.parametrize(
    ("status", "headers", "named"),
    [
        (200, {"ngrok_error_code": "ERR_NGROK_6024"}, "ERR_NGROK_6024"),
        (404, {"ngrok_error_code": "ERR_NGROK_3200"}, "ERR_NGROK_3200"),
        (200, {}, "200"),
        (530, {}, "530"),
        (307, {"Location": "https://elsewhere.example/"}, "307"),
    ],
)
def test_a_page_in_place_of_a_reply_is_told(
    listening: Callable[..., None], status: int, headers: dict[str, str], named: str
) -> None:
    listening(
        answering(b"<!DOCTYPE html><p>You are about to visit", status=status, Content_Type="text/html", **headers)
    )
    told, sentence = failure(rest_event({"message": "hi"}))
    assert (told, named in sentence, "CHAT_ENDPOINT" in sentence) == (502, True, True)


def test_an_ngrok_error_told_as_json_is_no_reply_either(listening: Callable[..., None]) -> None:
    listening(answering(b'{"msg": "offline"}', status=404, ngrok_error_code="ERR_NGROK_3200 (x)"))
    status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, "ERR_NGROK_3200 came" in sentence) == (502, True)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"result": "hi"}', "not a chat server"),
        (b'{"success": false}', "status 200"),
        (b"[]", "Status 200 without JSON"),
        (b"[" * 100_000, "without JSON"),
        (b"\xff", "without JSON"),
        (b"", "without JSON"),
    ],
)
def test_json_that_is_no_reply_is_told(listening: Callable[..., None], body: bytes, told: str) -> None:
    listening(answering(body))
    status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, told in sentence) == (502, True)


def test_a_reply_that_breaks_off_is_told(listening: Callable[..., None]) -> None:
    listening(answering(b'{"success": true', Content_Length="1000"))
    assert failure(rest_event({"message": "hi"}))[0] == 502


def test_a_huge_reply_comes_whole_and_one_beyond_what_a_function_returns_is_refused(
    serve: Callable[..., None], listening: Callable[..., None]
) -> None:
    serve(ScriptedChat(steps=["猫" * 200_000]))
    assert call(rest_event({"message": "hi"}))[1]["response"] == "猫" * 200_000
    listening(answering(b" " * 6 * 2**20))
    status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, "larger" in sentence) == (502, True)


def test_what_is_sent_skips_ngroks_page_and_keeps_the_persons_own_token(
    listening: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = answering(b"{}")
    listening(program)
    monkeypatch.setenv("CHAT_ACCESS_KEY", "the-key")
    call(rest_event({"message": "hi"}))
    [seen] = program.seen
    assert seen["ngrok-skip-browser-warning"] == "true"
    assert (seen["Authorization"], seen["Content-Type"]) == ("Bearer the-key", "application/json")


def test_neither_key_nor_message_nor_reply_is_ever_logged(
    serve: Callable[..., None],
    listening: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CHAT_ACCESS_KEY", KEY)
    serve(ScriptedChat(steps=["geheim"]), access_key=KEY)
    call(rest_event({"message": "vertraulich"}))
    failure(rest_event({"message": "vertraulich", "temperature": "vertraulich"}))
    echo = json.dumps({"success": False, "message": f"no {KEY}", "error": {"code": KEY, "hint": f"not {KEY}"}})
    listening(answering(echo.encode(), status=401))
    assert failure(rest_event({"message": "vertraulich"})) == (401, "no … " + index.ADVICE[401])
    listening(answering(echo.encode(), status=418))
    assert failure(rest_event({"message": "vertraulich"})) == (418, "no … not …")
    logged = [line for line in capfd.readouterr().out.splitlines() if line.startswith("chat: ")]
    assert [line.split()[1] for line in logged] == ["200", "400", "401", "418"]
    assert not any(secret in "".join(logged) for secret in (KEY, "vertraulich", "geheim"))


def test_the_handler_runs_on_the_standard_library_alone_and_on_the_apps_python() -> None:
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 10))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import index; print(index.lambda_handler({}, None)['statusCode'])"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(SOURCE.parent)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "500"


@pytest.mark.parametrize("readme", READMES)
def test_a_readme_names_the_variables_that_are_read_and_quotes_what_is_said(readme: str) -> None:
    source = SOURCE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", readme, re.MULTILINE)
    read = set(re.findall(r'environment\.get\("(\w+)"', source))
    assert {name.strip("`") for name, _ in rows if name.startswith("`CHAT_") and name.endswith("`")} == read
    assert dict(rows)["`CHAT_TIMEOUT_SECONDS`"] == f"`{index.DEFAULT_TIMEOUT_SECONDS:g}`"
    ours = ("CHAT_ENDPOINT of", "The chat server", "This function", "without JSON")
    quoted = [text for text in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", readme) if text.startswith(ours)]
    assert len(quoted) == 5
    spoken = re.sub(r"\{problem\}", "is not set", source)
    assert not [text for text in quoted if text.removesuffix(" came instead") not in spoken]


def test_both_readmes_give_the_same_commands() -> None:
    english, japanese = (
        re.findall(r"^```sh\n(?:cd|cp|export|FUNC|CHAT|aws).*?^```", text, re.MULTILINE | re.DOTALL) for text in READMES
    )
    assert english == japanese
    assert len(english) == 7


@pytest.mark.parametrize("readme", READMES)
def test_the_readmes_test_event_works(serve: Callable[..., None], readme: str) -> None:
    serve(ScriptedChat())
    event = re.findall(r"^```json\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[0]
    assert call(json.loads(event))[0] == 200


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model whose replies have no end and take far longer than the functions below may wait."""
    folder = tmp_path_factory.mktemp("slow")
    shape = {"num_hidden_layers": 24, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    model = tiny_model("llama", scale=4.0, eos_token_id=None, max_position_embeddings=8192, **shape)
    tokenizer = byte_level(CHATML)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    # It says nothing but letters, whatever the machine rounds: no id without text, and no mark that ends a turn. All
    # other logits are 0, and those of a and b, whose weights are opposite, are never both below.
    weight = model.get_output_embeddings().weight
    a, b, *letters = tokenizer.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz"))
    with torch.no_grad():
        weight[[at for at in range(len(weight)) if at not in {a, b, *letters}]] = 0
        weight[b] = -weight[a]
    model.save_pretrained(folder)
    return folder


def test_a_slow_models_reply_comes_in_time_and_the_next_call_continues_it(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, slow_model: Path
) -> None:
    settings = {"model_id": str(slow_model), "max_new_tokens": 8000, "temperature": 0.0}
    chat = Chat(Settings(**settings))
    serve(chat, **settings)
    wait_until(lambda: chat.status().state == "ok")
    monkeypatch.setenv("CHAT_TIMEOUT_SECONDS", "5")
    status, first = call(rest_event({"message": "Tell me a long story."}))
    assert (status, first["truncated"], first["finish_reason"]) == (200, True, "deadline")
    status, second = call(rest_event({"continue": True, "conversationHistory": first["conversationHistory"]}))
    assert (status, second["truncated"]) == (200, True)
    assert first["response"]
    assert second["response"]
    assert second["conversationHistory"] == [
        {"role": "user", "content": "Tell me a long story."},
        {"role": "assistant", "content": first["response"] + second["response"]},
    ]


def test_a_model_that_is_still_loading_when_the_time_is_over_is_told(
    serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch, slow_model: Path
) -> None:
    serve(Chat(Settings(model_id=str(slow_model))))
    monkeypatch.setenv("CHAT_TIMEOUT_SECONDS", "0.2")
    status, sentence = failure(rest_event({"message": "hi"}))
    assert (status, sentence) == (503, f"The model is still loading. {index.ADVICE[503]}")


def test_the_demo_model_answers_the_app_turn_after_turn(serve: Callable[..., None], demo_chat: Chat) -> None:
    serve(Lent(demo_chat))
    _, first = call(rest_event({"message": "おはよう"}))
    # The app's page sends back only role and content of what it shows.
    _, second = call(http_event({"message": "お手", "conversationHistory": first["conversationHistory"]}))
    assert first["response"]
    assert second["response"]
    assert [turn["role"] for turn in second["conversationHistory"]] == ["user", "assistant"] * 2
