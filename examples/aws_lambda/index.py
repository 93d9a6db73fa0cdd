"""AWS Lambda handler: takes a chat app's message from API Gateway, asks a colab-llm-chat server, hands its reply back.

Standard library only, Python 3.10 or newer; README.md tells which environment variables it reads. Knows no model. The
log gets a line for each call, never the access key, a message or a reply.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Content-Type,X-Amz-Date,Authorization,X-Api-Key,X-Amz-Security-Token",
    "Access-Control-Allow-Methods": "OPTIONS,POST",
}
DEFAULT_TIMEOUT_SECONDS = 25.0
# What the function keeps of its own time to hand the answer back.
SECONDS_BEFORE_END = 2.0
# What the server leaves of our time for the way there and back: a fifth, at most this.
SECONDS_FOR_THE_WAY = 2.0
# A function may return 6 MB, and its reply is JSON within JSON.
MAX_REPLY_BYTES = 5 * 2**20
KEPT = ("success", "response", "conversationHistory", "truncated", "finish_reason", "conversationId", "messageId")
ADVICE = {
    401: "Set CHAT_ACCESS_KEY of this function to the key that the server printed when it started.",
    403: "Set CHAT_ENDPOINT of this function to the public address that the server printed.",
    404: "Set CHAT_ENDPOINT of this function to the server's address, with or without /chat at its end.",
    429: "The server is busy: send the message again in a few seconds.",
    502: "See whether the server still runs, and whether CHAT_ENDPOINT of this function is its present address.",
    503: "Send the message again in a few seconds; the server's own log tells more.",
}


class LambdaContext(Protocol):
    """What is used of the object that Lambda hands over."""

    def get_remaining_time_in_millis(self) -> int: ...


class ChatFailed(Exception):
    """No reply: the HTTP status, the sentence for the person, and what of it may stand in the log."""

    def __init__(self, status: int, sentence: str, *, logged: str | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.logged = sentence if logged is None else logged


@dataclass(frozen=True)
class Endpoint:
    """Where the server is, the key that opens it, and how long a reply may take."""

    secure: bool
    host: str
    port: int | None
    path: str
    access_key: str
    timeout_seconds: float

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> Endpoint:
        """Raises ChatFailed for a variable that is missing or wrong; its value is not repeated, it may hold a key."""
        url = environment.get("CHAT_ENDPOINT", "").strip()
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host:
            problem = "is no address" if url else "is not set"
            raise ChatFailed(500, f"CHAT_ENDPOINT of this function {problem}; set it to the server's https:// address.")
        return Endpoint(
            secure=parts.scheme == "https",
            host=host,
            port=port,
            path=parts.path.rstrip("/").removesuffix("/chat").rstrip("/") + "/chat",
            access_key=_access_key(environment.get("CHAT_ACCESS_KEY", "")),
            timeout_seconds=_timeout(environment.get("CHAT_TIMEOUT_SECONDS", "")),
        )

    def headers(self) -> dict[str, str | bytes]:
        # Any value of the last one keeps ngrok from answering with its own page.
        headers: dict[str, str | bytes] = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "ngrok-skip-browser-warning": "true",
        }
        if self.access_key:
            headers["Authorization"] = b"Bearer " + self.access_key.encode()
        return headers

    def connect(self, seconds: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=seconds)

    def without_key(self, text: str) -> str:
        return text.replace(self.access_key, "…") if self.access_key else text


@dataclass(frozen=True)
class Answer:
    """What came back from the endpoint, unread."""

    status: int
    ngrok_error: str
    body: bytes


def handler(event: dict[str, Any], context: LambdaContext | None = None) -> dict[str, Any]:
    """Answer one proxy event of API Gateway (REST API or HTTP API) or of a function URL."""
    if _method(event) == "OPTIONS":
        return {"statusCode": 204, "headers": dict(CORS_HEADERS), "body": "", "isBase64Encoded": False}
    began = time.monotonic()
    try:
        endpoint = Endpoint.from_environment(os.environ)
        reply = ask(endpoint, read_body(event), seconds_for(endpoint, context))
        status, logged = 200, "truncated" if reply.get("truncated") else "complete"
    except ChatFailed as failure:
        status, logged = failure.status, failure.logged
        reply = {"success": False, "message": failure.sentence, "error": failure.sentence}
    print(f"chat: {status} after {time.monotonic() - began:.1f} s: {logged}")
    headers = {"Content-Type": "application/json; charset=utf-8", **CORS_HEADERS}
    body = json.dumps(reply, ensure_ascii=False)
    return {"statusCode": status, "headers": headers, "body": body, "isBase64Encoded": False}


lambda_handler = handler


def read_body(event: dict[str, Any]) -> dict[str, Any]:
    """The fields that the browser sent; raises ChatFailed when they cannot be a request to /chat."""
    body = event.get("body")
    try:
        # A body that is not text fails in either function.
        fields = json.loads(base64.b64decode(body or "") if event.get("isBase64Encoded") else body or "")
    except (ValueError, TypeError, RecursionError):
        raise ChatFailed(400, "The body of the request is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise ChatFailed(400, "The body of the request must be a JSON object with the field `message`.")
    message = fields.get("message")
    if fields.get("continue") is not True and not (isinstance(message, str) and message.strip()):
        raise ChatFailed(400, "The field `message` is missing or empty; send what the user says in it.")
    return fields


def seconds_for(endpoint: Endpoint, context: LambdaContext | None) -> float:
    """How long the call may take: the setting, but never up to the end of this function's own time."""
    if context is None:
        return endpoint.timeout_seconds
    left = context.get_remaining_time_in_millis() / 1000 - SECONDS_BEFORE_END
    if left <= 0:
        raise ChatFailed(504, "This function has no time left to ask; raise its own timeout to 30 seconds.")
    return min(endpoint.timeout_seconds, left)


def ask(endpoint: Endpoint, fields: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The server's reply to these fields of /chat, within `seconds`; raises ChatFailed."""
    deadline_ms = max(1, int(1000 * (seconds - min(SECONDS_FOR_THE_WAY, seconds / 5))))
    asked = fields.get("deadline_ms")
    if type(asked) is int and asked > 0:
        deadline_ms = min(deadline_ms, asked)
    request = json.dumps({**fields, "stream": False, "deadline_ms": deadline_ms}).encode()
    answer = within(seconds, endpoint, request)
    reply = _parsed(answer)
    if answer.status != 200 or reply.get("success") is False:
        raise _told_by_server(endpoint, answer.status, reply)
    if not isinstance(reply.get("response"), str) or not isinstance(reply.get("conversationHistory"), list):
        raise ChatFailed(502, f"What answers at CHAT_ENDPOINT is not a chat server. {ADVICE[404]}")
    return {name: reply[name] for name in KEPT if name in reply}


def within(seconds: float, endpoint: Endpoint, request: bytes) -> Answer:
    """`fetch` in a thread that is left behind when the time is over: no socket knows a limit for a whole exchange."""
    outcomes: queue.SimpleQueue[Answer | ChatFailed] = queue.SimpleQueue()

    def run() -> None:
        outcome: Answer | ChatFailed = ChatFailed(500, "The request failed unexpectedly; see this function's log.")
        try:
            outcome = fetch(endpoint, request, seconds)
        except ChatFailed as failure:
            outcome = failure
        finally:
            outcomes.put(outcome)

    threading.Thread(target=run, name="chat-request", daemon=True).start()
    try:
        outcome = outcomes.get(timeout=seconds)
    except queue.Empty:
        raise _late(seconds) from None
    if isinstance(outcome, ChatFailed):
        raise outcome
    return outcome


def fetch(endpoint: Endpoint, request: bytes, seconds: float) -> Answer:
    """POST the request. Redirects are not followed: they could take the access key elsewhere."""
    until = time.monotonic() + seconds
    connection = endpoint.connect(seconds)
    try:
        connection.request("POST", endpoint.path, request, endpoint.headers())
        with connection.getresponse() as response:
            body = _read(response, until)
        ngrok_error = re.match(r"ERR_NGROK_\d+", response.headers.get("ngrok-error-code", ""))
        return Answer(response.status, ngrok_error[0] if ngrok_error else "", body)
    except TimeoutError:
        raise _late(seconds) from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = _reason(error)
        sentence = f"The chat server cannot be reached ({reason}). {ADVICE[502]}"
        # The address is for the log only: who uses the app need not know it.
        raise ChatFailed(502, sentence, logged=f"{endpoint.host}: {reason}") from None
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, until: float) -> bytes:
    body = bytearray()
    while piece := response.read1(2**16):
        body += piece
        if time.monotonic() > until:
            raise TimeoutError
        if len(body) > MAX_REPLY_BYTES:
            raise ChatFailed(502, "The reply is larger than a function may return; start a new conversation.")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(body)


def _parsed(answer: Answer) -> dict[str, Any]:
    """The JSON object in an answer; anything else comes from a tunnel, a proxy, or another program."""
    try:
        reply = json.loads(answer.body)
    except (ValueError, RecursionError):
        reply = None
    if isinstance(reply, dict) and not answer.ngrok_error:
        return reply
    came = f"ngrok's error {answer.ngrok_error}" if answer.ngrok_error else f"Status {answer.status} without JSON"
    raise ChatFailed(502, f"{came} came instead of the chat server's reply. {ADVICE[502]}")


def _told_by_server(endpoint: Endpoint, status: int, reply: dict[str, Any]) -> ChatFailed:
    """The server's own sentence and what to do; the log gets its code only, a sentence may quote the message."""
    error = reply.get("error")
    error = error if isinstance(error, dict) else {}
    told = [reply.get("message"), ADVICE.get(status) or error.get("hint")]
    sentence = " ".join(text for text in told if isinstance(text, str) and text)
    code = error.get("code")
    logged = code if isinstance(code, str) and re.fullmatch(r"\w{1,40}", code) else "the server refused"
    return ChatFailed(
        status if 400 <= status <= 599 else 502,
        endpoint.without_key(sentence) or f"The chat server answered with status {status}.",
        logged=endpoint.without_key(logged),
    )


def _late(seconds: float) -> ChatFailed:
    return ChatFailed(
        504, f"The chat server did not answer within {seconds:.3g} seconds. Send the message again, or a shorter one."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host"
    return "connection refused" if isinstance(error, ConnectionRefusedError) else type(error).__name__


def _access_key(value: str) -> str:
    key = value.strip()
    if not key.isprintable():
        raise ChatFailed(500, "CHAT_ACCESS_KEY of this function holds a line break or control character.")
    return key


def _timeout(value: str) -> float:
    try:
        seconds = float(value.strip() or DEFAULT_TIMEOUT_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 900:
        raise ChatFailed(500, "CHAT_TIMEOUT_SECONDS of this function must be a number above 0, at most 900.")
    return seconds


def _method(event: dict[str, Any]) -> str:
    """A REST API says it in front; an HTTP API or function URL deeper. A test event may not say it at all."""
    of_http_api = (event.get("requestContext") or {}).get("http") or {}
    return str(event.get("httpMethod") or of_http_api.get("method") or "POST").upper()
