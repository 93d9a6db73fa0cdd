"""The one pipeline: a ChatRequest in, deltas of text out. Joins prompts, engine and text.

Knows no HTTP. Requests are taken while the model loads; they wait, with a sign of life now and then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .engine.client import EngineClient, Generation, Progress
from .errors import ChatError, LoadError, ModelLoading, QueueFull
from .models.load import load_tokenizer
from .protocol.messages import ChatRequest, Delta, FinishReason, PromptTokens, ReplyEnd, State, Status, Usage
from .settings import Settings
from .text.decode import REPLACEMENT
from .text.prompts import Prompt, PromptEncoder
from .text.sentences import SentenceCutter
from .text.stream import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("colab_llm_chat")

# Share of a deadline after which a reply ends at its next sentence, and seconds kept for the way back.
SOFT_SHARE = 0.75
DEADLINE_MARGIN = 0.1
# Longer than any prompt that a request may bring.
NO_LIMIT = 2**31


class Chat:
    """The pipeline over a local model. `start` returns at once; `status` tells when the model is there.

    After `close` it can be started again: the notebook's last cell is run, interrupted and run again. `on_spawn` gets
    the process id of each worker, also of one that replaces another.
    """

    def __init__(self, settings: Settings, *, on_spawn: Callable[[int], None] = lambda pid: None) -> None:
        self.settings = settings
        self._on_spawn = on_spawn
        self.engine = self._new_engine()
        self._started = False
        self.changed = threading.Condition()
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._prompts: PromptEncoder | None = None
        self._tokenizer_error: ChatError | None = None
        self._tokenizer_asked = False
        self._replies: set[LocalReply] = set()

    def start(self) -> Chat:
        """Start the engine process, which loads the model; no second one while it runs."""
        with self.changed:
            if self._started:
                return self
            self._started = True
        if self.engine.closed:
            self.engine = self._new_engine()
            # The tokenizer outlives the engine; only the weights are loaded again.
            self._tokenizer_asked = self._prompts is not None
            self._tokenizer_error = None
        self.engine.start()
        return self

    def stream(self, request: ChatRequest) -> LocalReply:
        """Start a reply. Raises QueueFull, ContextLengthExceeded, or why the model could not be loaded."""
        reply = LocalReply(self, request)
        with self.changed:
            if len(self._replies) >= self.settings.max_requests:
                raise QueueFull(f"{len(self._replies)} requests are running or waiting already.", retry_after=5)
            self._replies.add(reply)
        with ExitStack() as undo:
            # Whatever goes wrong from here on, the place in the queue is given back.
            undo.callback(reply.cancel)
            reply.try_begin()
            undo.pop_all()
        return reply

    def tokenize(self, request: ChatRequest) -> PromptTokens:
        """The request's prompt, whole, however long. Raises ModelLoading while there is no tokenizer."""
        ready = self.ready()
        if ready is None:
            raise ModelLoading("The model is still loading.", retry_after=10)
        prompt = ready.prompts.encode(replace(request, truncation="disabled"), context_length=NO_LIMIT)
        return PromptTokens(
            prompt_ids=prompt.prompt_ids,
            # An id beyond the vocabulary has no piece.
            pieces=tuple(str(ready.tokenizer.convert_ids_to_tokens(one) or "") for one in prompt.prompt_ids),
            text=prompt.text,
            context_length=ready.context_length,
        )

    def status(self) -> Status:
        """State of model and tokenizer together."""
        engine = self.engine.status
        error = self._tokenizer_error or engine.error
        if error is not None:
            return Status(state="failed", model_id=self.settings.model_id, error=error.to_dict())
        state: State = "ok" if engine.state == "ok" and self._prompts is not None else "loading"
        return Status(state=state, model_id=self.settings.model_id, progress=engine.progress, detail=engine.detail)

    def ready(self) -> Ready | None:
        """What a reply needs to begin, None while the model loads. Raises the error that ended loading."""
        engine = self.engine.status
        error = self._tokenizer_error or engine.error
        if error is not None:
            raise error
        if self._tokenizer is None or self._prompts is None or engine.state != "ok":
            return None
        eos_token_ids = {*engine.facts["eos_token_ids"], self._tokenizer.eos_token_id} - {None}
        return Ready(self._tokenizer, self._prompts, engine.facts["context_length"], sorted(eos_token_ids))

    def close(self) -> None:
        """End every reply, then the engine process; returns when its memory is free."""
        with self.changed:
            replies = list(self._replies)
        for reply in replies:
            reply.cancel()
        self.engine.close()
        self._started = False

    def forget(self, reply: LocalReply) -> None:
        """A reply has ended and frees its place."""
        with self.changed:
            self._replies.discard(reply)

    def _new_engine(self) -> EngineClient:
        return EngineClient(self.settings, on_change=self._engine_changed, on_spawn=self._on_spawn)

    def _engine_changed(self) -> None:
        folder = self.engine.status.folder
        if folder is not None and not self._tokenizer_asked:
            self._tokenizer_asked = True
            threading.Thread(target=self._load_tokenizer, args=(folder,), daemon=True).start()
        with self.changed:
            self.changed.notify_all()

    def _load_tokenizer(self, folder: str) -> None:
        try:
            self._tokenizer = load_tokenizer(folder, trust_remote_code=self.settings.trust_remote_code)
            self._prompts = PromptEncoder(self._tokenizer)
        except ChatError as error:
            self._tokenizer_error = error
        finally:
            if self._prompts is None and self._tokenizer_error is None:
                self._tokenizer_error = LoadError(f"The tokenizer of {self.settings.model_id} cannot be prepared.")
            with self.changed:
                self.changed.notify_all()


@dataclass(frozen=True, slots=True)
class Ready:
    """A loaded model as a reply needs it."""

    tokenizer: PreTrainedTokenizerBase
    prompts: PromptEncoder
    context_length: int
    eos_token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Begun:
    """A reply that the engine works on."""

    prompt: Prompt
    generation: Generation
    text: TextStream


class LocalReply:
    """One running reply: iterate its deltas from one thread, cancel it from any."""

    def __init__(self, chat: Chat, request: ChatRequest) -> None:
        self._chat = chat
        self._request = request
        self._began = time.monotonic()
        self._cancelled = False
        self._deadline = Deadline(self._began, request.deadline_ms)
        self._begun: Begun | None = None
        self._deltas = self._run()

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        return next(self._deltas)

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
        prompt = ready.prompts.encode(self._request, context_length=ready.context_length)
        sampling = self._request.sampling.model_copy(update={"max_new_tokens": prompt.max_new_tokens})
        stop = (*self._request.stop, *prompt.stop)
        text = TextStream(ready.tokenizer, stop=stop, prefix_ids=prompt.prefix_ids, strip_leading=prompt.strip_leading)
        generation = self._chat.engine.submit(list(prompt.prompt_ids), sampling, eos_token_ids=ready.eos_token_ids)
        with self._chat.changed:
            self._begun = Begun(prompt, generation, text)
        if self._cancelled:
            generation.cancel()
        return True

    def _run(self) -> Iterator[Delta]:
        try:
            yield from self._wait_for_model()
            if self._begun is not None:
                yield from self._generate(self._begun)
        finally:
            self.cancel()

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
        tokens = 0
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
            piece, reason = self._advance(progress, begun.text, cutter)
            tokens += len(progress.token_ids) if progress is not None else 0
            if reason is not None:
                yield Delta(piece, self._end(reason, begun.prompt, tokens))
                return
            if piece:
                yield Delta(piece)

    def _advance(
        self, progress: Progress | None, text: TextStream, cutter: SentenceCutter
    ) -> tuple[str, FinishReason | None]:
        """The text that one progress brings, and why the reply ends with it if it does."""
        if progress is None:
            return cutter.feed(_whole(text.flush()), soft=True) + cutter.cut(), "deadline"
        if progress.end == "length":
            piece = cutter.feed(_whole(text.flush()), soft=False)
            return piece, "stop" if text.stopped else "length"
        if progress.end == "stop":
            return cutter.feed(text.flush(), soft=False), "stop"
        soft = self._deadline.soft()
        piece = cutter.feed(text.feed(progress.token_ids), soft=soft)
        if text.stopped:
            return piece + cutter.flush(), "stop"
        if soft and cutter.at_sentence_end:
            return piece, "deadline"
        return piece, None

    def _end(self, reason: FinishReason, prompt: Prompt, tokens: int) -> ReplyEnd:
        seconds = time.monotonic() - self._began
        usage = Usage(
            prompt_tokens=len(prompt.prompt_ids),
            completion_tokens=tokens,
            seconds=round(seconds, 3),
            tokens_per_second=round(tokens / seconds, 1) if seconds > 0 else 0.0,
        )
        return ReplyEnd(finish_reason=reason, usage=usage, dropped_messages=prompt.dropped_messages)


def _whole(text: str) -> str:
    """Without a last character of which only the first bytes were made: `continue` makes it anew."""
    return text.rstrip(REPLACEMENT)


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
