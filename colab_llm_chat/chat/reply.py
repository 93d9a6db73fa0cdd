"""One running reply of the local pipeline: prompt, generation, text, and every way in which it ends.

Knows no HTTP and no model's files; what it needs of a loaded model comes as `Ready`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ..engine.reports import Progress
from ..errors import InvalidRequest, ModelLoading
from ..protocol.messages import ChatRequest, Delta, FinishReason, ReplyEnd, Task, Usage
from ..settings import Settings
from ..text.deltas import ReplyText
from ..text.prompts import Prompt
from ..text.reply import ReplyParser
from ..text.sentences import SentenceCutter
from .client import EngineClient, Generation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Share of a deadline after which a reply ends at its next sentence, and seconds kept for the way back.
SOFT_SHARE = 0.75
DEADLINE_MARGIN = 0.1
# Between two tellings of the usage of a reply that goes on.
USAGE_SECONDS = 0.25


class Prompts(Protocol):
    """Requests to prompts, for one tokenizer: PromptEncoder, or SourceEncoder for encoder-decoder models.

    `end_ids` are tokens that end a reply beside the model's own; `form` is what conversations are written as.
    """

    end_ids: frozenset[int]

    @property
    def task(self) -> Task: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def form(self) -> str: ...
    def encode(self, request: ChatRequest, *, context_length: int) -> Prompt: ...
    def parser(self, request: ChatRequest, prompt: Prompt) -> ReplyParser: ...


@dataclass(frozen=True, slots=True)
class Ready:
    """A loaded model as a reply needs it."""

    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    engine: EngineClient
    context_length: int
    eos_token_ids: list[int]


class Source(Protocol):
    """What a reply asks of the Chat that it belongs to."""

    settings: Settings
    changed: threading.Condition

    def ready(self) -> Ready | None: ...
    def forget(self, reply: LocalReply) -> None: ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A reply that the engine works on."""

    prompt: Prompt
    generation: Generation
    text: ReplyText
    context_length: int


class LocalReply:
    """One running reply: iterate its deltas from one thread, cancel it from any."""

    def __init__(self, chat: Source, request: ChatRequest) -> None:
        self._chat = chat
        self._request = request
        self.background = request.background
        self._began = time.monotonic()
        self._cancelled = False
        self._first_token: float | None = None
        self._usage_due = self._began if request.running_usage else float("inf")
        self._deadline = Deadline(self._began, request.deadline_ms)
        self._begun: Begun | None = None
        self._deltas = self._run()

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        goes_on = False
        try:
            delta = next(self._deltas)
            goes_on = delta.end is None
            return delta
        finally:
            # Not in the generator: the garbage collector ends one wherever it is, also in a thread that holds a lock.
            if not goes_on:
                self.cancel()

    @property
    def dropped_messages(self) -> int | None:
        """How many of the oldest messages were left out; None while the prompt is not made yet."""
        return None if self._begun is None else self._begun.prompt.dropped_messages

    def cancel(self) -> None:
        """End the reply: its row is freed within one engine step, a waiting reader is released."""
        with self._chat.changed:
            self._cancelled = True
            begun = self._begun
            self._chat.changed.notify_all()
        if begun is not None:
            begun.generation.cancel()
        self._chat.forget(self)

    def try_begin(self) -> bool:
        """Encode the prompt and submit it, unless the model is still loading."""
        ready = self._chat.ready()
        if ready is None:
            return False
        known = ready.engine.status.facts["vocab_size"]
        if max(self._request.prompt_ids, default=0) >= known:
            raise InvalidRequest(
                f"`prompt` has the token id {max(self._request.prompt_ids)}, but the model's ids end at {known - 1}.",
                param=self._request.asked_in,
            )
        prompt = ready.prompts.encode(self._request, context_length=ready.context_length)
        request = self._request
        wanted = request.rules.top_logprobs is not None
        text = ReplyText(ready.tokenizer, prompt, ready.prompts.parser(request, prompt), logprobs=wanted)
        drawn: dict[str, float] = {"temperature": 0.0} if prompt.greedy else {}
        generation = ready.engine.submit(
            list(prompt.prompt_ids),
            request.sampling.model_copy(update={"max_new_tokens": prompt.max_new_tokens, **drawn}),
            eos_token_ids=ready.eos_token_ids,
            rules=request.rules.model_copy(update={"grammar": prompt.grammar}),
            background=request.background,
            source_ids=prompt.source_ids,
        )
        with self._chat.changed:
            self._begun = Begun(prompt, generation, text, ready.context_length)
        if self._cancelled:
            generation.cancel()
        return True

    def _run(self) -> Iterator[Delta]:
        yield from self._wait_for_model()
        if self._begun is not None:
            yield from self._generate(self._begun)

    def _wait_for_model(self) -> Iterator[Delta]:
        settings = self._chat.settings
        until = self._began + settings.load_wait_seconds
        silent_since = time.monotonic()
        while self._begun is None and not self._cancelled and not self.try_begin():
            left = min(until - time.monotonic(), self._deadline.left())
            if left <= 0:
                raise ModelLoading("The model is still loading.", retry_after=10)
            with self._chat.changed:
                # Asked again under the lock: what became true since `try_begin` wakes nobody any more.
                if not self._cancelled and self._chat.ready() is None:
                    self._chat.changed.wait(min(left, settings.ping_seconds))
            # By the clock: news of the loading wakes this thread far more often.
            if time.monotonic() - silent_since >= settings.ping_seconds:
                silent_since = time.monotonic()
                yield Delta()

    def _generate(self, begun: Begun) -> Iterator[Delta]:
        cutter = SentenceCutter()
        while True:
            silence = min(self._chat.settings.ping_seconds, self._deadline.left())
            progress = None if self._deadline.over() else begun.generation.take(silence)
            if progress is None and not self._deadline.over():
                yield Delta()
                continue
            if progress is not None and progress.end == "cancelled":
                return
            if progress is not None and progress.error is not None:
                raise progress.error
            if self._first_token is None and progress is not None and progress.token_ids:
                self._first_token = time.monotonic() - self._began
            delta, reason = self._advance(progress, begun.text, cutter)
            if reason is not None:
                yield replace(delta, end=self._end(reason, begun))
                return
            if not delta.is_ping:
                yield self._with_usage(delta, begun)

    def _advance(
        self, progress: Progress | None, text: ReplyText, cutter: SentenceCutter
    ) -> tuple[Delta, FinishReason | None]:
        """What one progress brings, and why the reply ends with it if it does."""
        if progress is None:
            delta = text.flush()
            return replace(delta, text=cutter.feed(delta.text, soft=True) + cutter.cut()), "deadline"
        soft = self._deadline.soft() and progress.end is None
        delta = text.flush() if progress.end else text.feed(progress)
        delta = replace(delta, text=cutter.feed(delta.text, soft=soft))
        if text.stopped:
            return replace(delta, text=delta.text + cutter.flush()), "stop"
        if progress.end is not None:
            return delta, "length" if progress.end == "length" else "stop"
        return delta, "deadline" if soft and cutter.at_sentence_end else None

    def _with_usage(self, delta: Delta, begun: Begun) -> Delta:
        if time.monotonic() < self._usage_due:
            return delta
        self._usage_due = time.monotonic() + USAGE_SECONDS
        return replace(delta, usage=self._usage(begun))

    def _usage(self, begun: Begun) -> Usage:
        """Of the reply so far."""
        seconds = time.monotonic() - self._began
        tokens = begun.text.tokens
        return Usage(
            prompt_tokens=len(begun.prompt.source_ids or begun.prompt.prompt_ids),
            completion_tokens=tokens,
            seconds=round(seconds, 3),
            tokens_per_second=round(tokens / seconds, 1) if seconds > 0 else 0.0,
            context_length=begun.context_length,
            first_token_seconds=None if self._first_token is None else round(self._first_token, 3),
            cached_tokens=begun.generation.cached_tokens,
            reasoning_tokens=begun.text.reasoning_tokens,
        )

    def _end(self, reason: FinishReason, begun: Begun) -> ReplyEnd:
        called = reason == "stop" and begun.text.called
        prompt = begun.prompt
        reason = "tool_calls" if called else reason
        return ReplyEnd(
            finish_reason=reason,
            usage=self._usage(begun),
            dropped_messages=prompt.dropped_messages,
            notes=prompt.notes,
        )


class Deadline:
    """A time limit of `deadline_ms` from `began`: soft near its end, over a little before it."""

    def __init__(self, began: float, deadline_ms: int | None) -> None:
        span = float("inf") if deadline_ms is None else deadline_ms / 1000
        self._soft = began + SOFT_SHARE * span
        self._hard = began + max(span - DEADLINE_MARGIN, 0.5 * span)

    def left(self) -> float:
        return max(0.0, self._hard - time.monotonic())

    def soft(self) -> bool:
        return time.monotonic() >= self._soft

    def over(self) -> bool:
        return time.monotonic() >= self._hard
