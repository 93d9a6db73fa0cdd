"""POST /chat: one reply of the pipeline as JSON or as a stream of events. Knows no tokens and no model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from flask import Blueprint, Response, current_app, request

from ..errors import ChatError
from ..protocol import simple, sse
from ..protocol.messages import Delta, ReplyEnd
from .live_replies import LiveReply, stopping
from .render import json_body, json_response, request_id, unexpected

if TYPE_CHECKING:
    from .app import ChatApp

logger = logging.getLogger("colab_llm_chat")
chat_routes = Blueprint("chat", __name__)

EVENTS = "text/event-stream"
DROPPED_MESSAGES = "x-dropped-messages"


@chat_routes.post("/chat")
def chat() -> Response:
    app = cast("ChatApp", current_app)
    parsed = simple.parse_chat(json_body(request), app.settings)
    reply = app.live.watch(app.chat.stream(parsed.chat), request.environ)
    streamed = parsed.stream if parsed.stream is not None else _accepts_events()
    if not streamed:
        return _json_reply(parsed, reply, request_id())
    response = Response(_events(parsed, reply, request_id()), mimetype=EVENTS)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    # Headers travel before a model that still loads can tell; the stream's end says it in any case.
    if reply.dropped_messages is not None:
        response.headers[DROPPED_MESSAGES] = str(reply.dropped_messages)
    # A generator that never started runs no `finally`; the response is closed in any case.
    response.call_on_close(reply.close)
    return response


def _accepts_events() -> bool:
    """Whether the Accept header names events and likes JSON no better. `*/*` is what tools say that expect JSON."""
    accepted = request.accept_mimetypes
    named = [quality for kind, quality in accepted if kind.partition(";")[0].strip().lower() == EVENTS]
    return max(named, default=0) > 0 and max(named) >= accepted.quality("application/json")


class _Transcript:
    """The text of a reply so far and, at last, its end."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.end: ReplyEnd | None = None

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def follow(self, reply: LiveReply) -> Iterator[Delta]:
        """The reply's deltas, written down; one that stops without an end was cancelled."""
        for delta in reply:
            self._pieces.append(delta.text)
            self.end = delta.end
            yield delta
        if self.end is None or self.end.finish_reason == "cancelled":
            raise stopping()

    def fields(self, parsed: simple.SimpleRequest) -> dict[str, Any]:
        return simple.reply_fields(parsed, self.text, self.end) if self.end else {}


@contextmanager
def _told(reply: LiveReply, request_id: str) -> Iterator[_Transcript]:
    """A transcript for one reply; at the end, however it comes, the reply is closed and logged in one line."""
    transcript = _Transcript()
    outcome = "interrupted"
    try:
        yield transcript
    except ChatError as error:
        outcome = "interrupted" if reply.cancelled else error.code
        raise
    finally:
        reply.close()
        _log(request_id, outcome, transcript.end)


def _json_reply(parsed: simple.SimpleRequest, reply: LiveReply, request_id: str) -> Response:
    with _told(reply, request_id) as transcript:
        for _ in transcript.follow(reply):
            continue
    fields = transcript.fields(parsed)
    response = json_response(fields)
    response.headers[DROPPED_MESSAGES] = str(fields["dropped_messages"])
    return response


def _events(parsed: simple.SimpleRequest, reply: LiveReply, request_id: str) -> Iterator[bytes]:
    """A comment at once so that the headers travel, then the deltas, the end or an error, and [DONE]."""
    try:
        with _told(reply, request_id) as transcript:
            yield sse.OPEN
            for delta in transcript.follow(reply):
                if delta.text:
                    yield sse.event({"delta": delta.text})
                elif delta.end is None:
                    yield sse.PING
            yield sse.event({"done": True, **transcript.fields(parsed)})
    except ChatError as error:
        yield sse.event(simple.error_fields(error))
    except Exception:
        logger.exception("request %s failed", request_id)
        yield sse.event(simple.error_fields(unexpected(request_id)))
    yield sse.DONE


def _log(request_id: str, outcome: str, end: ReplyEnd | None) -> None:
    if end is None:
        logger.info("reply %s: %s", request_id, outcome)
        return
    usage = end.usage
    logger.info(
        "reply %s: %s, %d prompt + %d completion tokens, %.2f s, %.1f tokens/s",
        request_id,
        end.finish_reason,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.seconds,
        usage.tokens_per_second,
    )
