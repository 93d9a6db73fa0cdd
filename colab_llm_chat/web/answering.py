"""One request's replies as JSON or as a stream of events, for every door. Knows no field of any door."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, cast

from flask import Response, current_app, request

from ..errors import ChatError
from ..protocol import sse
from ..protocol.messages import ChatRequest, Delta, ReplyEnd
from ..protocol.wire import Wire
from .live_replies import LiveReply, stopping
from .render import json_response, request_id, unexpected

if TYPE_CHECKING:
    from .app import ChatApp

logger = logging.getLogger("colab_llm_chat")

EVENTS = "text/event-stream"
DROPPED_MESSAGES = "x-dropped-messages"


def answer(asked: Sequence[ChatRequest], wire: Wire, *, streamed: bool) -> Response:
    """Start a reply for each choice and serve them. Raises ChatError when one cannot be had; none runs then."""
    replies = _started(asked)
    if not streamed:
        return _json_reply(replies, wire, request_id())
    response = Response(_events(replies, wire, request_id()), mimetype=EVENTS)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    # Headers travel before a model that still loads can tell; the stream's end says it in any case.
    if replies[0].dropped_messages is not None:
        response.headers[DROPPED_MESSAGES] = str(replies[0].dropped_messages)
    # A generator that never started runs no `finally`; the response is closed in any case.
    response.call_on_close(lambda: _close(replies))
    return response


def _started(asked: Sequence[ChatRequest]) -> list[LiveReply]:
    app = cast("ChatApp", current_app)
    replies: list[LiveReply] = []
    with contextlib.ExitStack() as undo:
        undo.callback(lambda: _close(replies))
        for one in asked:
            replies.append(app.live.watch(app.chat.stream(one), request.environ))
        undo.pop_all()
    return replies


def _close(replies: Sequence[LiveReply]) -> None:
    for reply in replies:
        reply.close()


def _deltas(replies: Sequence[LiveReply]) -> Iterator[tuple[int, Delta]]:
    """Each choice's deltas as they come. One that stops without an end was cancelled, and all end with it."""
    for choice, delta in _single(replies[0]) if len(replies) == 1 else _together(replies):
        yield choice, delta
        if delta.end is not None and delta.end.finish_reason == "cancelled":
            raise stopping()


def _single(reply: LiveReply) -> Iterator[tuple[int, Delta]]:
    for delta in reply:
        yield 0, delta
        if delta.end is not None:
            return
    raise stopping()


def _together(replies: Sequence[LiveReply]) -> Iterator[tuple[int, Delta]]:
    """A thread for each choice, as a reply is read by one thread; they end when their replies do."""
    queue: SimpleQueue[tuple[int, Delta | Exception]] = SimpleQueue()

    def read(choice: int) -> None:
        with _passed_on(queue, choice):
            for _, delta in _single(replies[choice]):
                queue.put((choice, delta))

    for choice in range(len(replies)):
        threading.Thread(target=read, args=(choice,), name="choice", daemon=True).start()
    left = len(replies)
    while left:
        choice, delta = queue.get()
        if isinstance(delta, Exception):
            raise delta
        left -= delta.end is not None
        yield choice, delta


@contextmanager
def _passed_on(queue: SimpleQueue[tuple[int, Delta | Exception]], choice: int) -> Iterator[None]:
    failure: Exception = stopping()
    ended = False
    try:
        yield
        ended = True
    except ChatError as error:
        failure = error
    finally:
        if not ended:
            queue.put((choice, failure))


@contextmanager
def _told(replies: Sequence[LiveReply], wire: Wire, request_id: str) -> Iterator[None]:
    """At the end, however it comes, the replies are closed and logged in a line each."""
    outcome = "interrupted"
    try:
        yield
    except ChatError as error:
        outcome = "interrupted" if any(reply.cancelled for reply in replies) else error.code
        raise
    finally:
        _close(replies)
        _log(request_id, outcome, wire.ends)


def _json_reply(replies: Sequence[LiveReply], wire: Wire, request_id: str) -> Response:
    with _told(replies, wire, request_id):
        wire.opened()
        for choice, delta in _deltas(replies):
            wire.feed(choice, delta)
        wire.closed()
    response = json_response(wire.body())
    response.headers[DROPPED_MESSAGES] = str(max(end.dropped_messages for end in wire.ends))
    return response


def _events(replies: Sequence[LiveReply], wire: Wire, request_id: str) -> Iterator[bytes]:
    """Something at once so that the headers travel, then the deltas, then the end or an error."""
    try:
        with _told(replies, wire, request_id):
            yield wire.opened()
            for choice, delta in _deltas(replies):
                events = sse.PING if delta.is_ping else wire.feed(choice, delta)
                if events:
                    yield events
            yield wire.closed()
    except ChatError as error:
        yield wire.failed(error)
    except Exception:
        logger.exception("request %s failed", request_id)
        yield wire.failed(unexpected(request_id))


def _log(request_id: str, outcome: str, ends: Sequence[ReplyEnd]) -> None:
    for end in ends:
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
    if not ends:
        logger.info("reply %s: %s", request_id, outcome)
