"""A scripted pipeline for the tests of the doors: real deltas, real threads, no model."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from colab_llm_chat.chat import Chat
from colab_llm_chat.errors import ChatError
from colab_llm_chat.protocol.messages import (
    ChatRequest,
    Delta,
    FinishReason,
    PromptTokens,
    Reply,
    ReplyEnd,
    Status,
    Usage,
)
from colab_llm_chat.protocol.stats import Stats
from colab_llm_chat.web.app import ChatApp

Step = str | Exception | threading.Event | Delta


def reply_end(
    finish_reason: FinishReason = "stop", *, dropped_messages: int = 0, notes: tuple[str, ...] = ()
) -> ReplyEnd:
    counts = {"prompt_tokens": 7, "completion_tokens": 3, "context_length": 64, "cached_tokens": 2}
    usage = Usage(**counts, seconds=0.5, tokens_per_second=6.0, first_token_seconds=0.1)
    return ReplyEnd(finish_reason=finish_reason, usage=usage, dropped_messages=dropped_messages, notes=notes)


class ScriptedReply:
    """Plays steps: a text or delta is given out, an exception is raised, an event is waited for (or a cancel)."""

    def __init__(self, steps: list[Step], end: ReplyEnd | None, *, dropped_messages: int | None = 0) -> None:
        self.dropped_messages = dropped_messages
        self._steps = iter([*steps, Delta(end=end)] if end else steps)
        self._wake = threading.Condition()
        self.waiting = threading.Event()
        self.cancelled = threading.Event()

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        for step in self._steps:
            if isinstance(step, threading.Event):
                self._wait_for(step)
                continue
            if self.cancelled.is_set():
                break
            if isinstance(step, Exception):
                raise step
            return Delta(step) if isinstance(step, str) else step
        raise StopIteration

    def cancel(self) -> None:
        self.cancelled.set()
        with self._wake:
            self._wake.notify_all()

    def _wait_for(self, gate: threading.Event) -> None:
        self.waiting.set()
        with self._wake:
            while not gate.is_set() and not self.cancelled.is_set():
                self._wake.wait(0.01)


@dataclass
class ScriptedChat:
    """Answers every request with the same steps and keeps what it was asked."""

    steps: list[Step] = field(default_factory=lambda: ["Hel", "lo"])
    end: ReplyEnd | None = field(default_factory=reply_end)
    refuses_with: ChatError | None = None
    state: Status = field(default_factory=lambda: Status(state="ok", model_id="catbot", progress=1.0, detail="ready"))
    counted: Stats = field(default_factory=Stats)
    requests: list[ChatRequest] = field(default_factory=list)
    replies: list[ScriptedReply] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def stream(self, request: ChatRequest) -> Reply:
        if self.refuses_with is not None:
            raise self.refuses_with
        known = self.end.dropped_messages if self.end is not None and self.state.state == "ok" else None
        reply = ScriptedReply(self.steps, self.end, dropped_messages=known)
        self.requests.append(request)
        self.replies.append(reply)
        return reply

    def tokenize(self, request: ChatRequest) -> PromptTokens:
        text = "\n".join(message.content for message in request.messages)
        ids = request.prompt_ids or tuple(range(len(text)))
        return PromptTokens(prompt_ids=ids, pieces=tuple(map(str, ids)), text=text, context_length=64)

    def status(self) -> Status:
        return self.state

    def stats(self) -> Stats:
        return self.counted

    def start(self) -> None:
        self.closed.clear()

    def close(self) -> None:
        self.closed.set()


class Lent:
    """A pipeline that a server may use but not end."""

    def __init__(self, chat: Chat) -> None:
        self.stream, self.status, self.tokenize, self.start = chat.stream, chat.status, chat.tokenize, chat.start
        self.stats = chat.stats

    def close(self) -> None:
        """The next server goes on with it."""


def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait for something that another thread makes true; fail when it never does."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        threading.Event().wait(0.01)


@contextlib.contextmanager
def serving(app: ChatApp) -> Iterator[ChatApp]:
    """The app on a free port of a real server, in a thread, ended at the end."""
    ready = threading.Event()
    thread = threading.Thread(target=app.run, kwargs={"port": 0, "on_ready": lambda _: ready.set()})
    thread.start()
    try:
        assert ready.wait(30)
        yield app
    finally:
        app.shutdown()
        thread.join()


def events_of(body: str) -> list[object]:
    """The data of each event in an event stream, parsed, `[DONE]` as it is; comments left out."""
    data = [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in data]
