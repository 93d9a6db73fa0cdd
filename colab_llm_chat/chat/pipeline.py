"""The one pipeline: a ChatRequest in, deltas of text out. Joins prompts, engine and text.

Knows no HTTP. Requests are taken while the model loads; they wait, with a sign of life now and then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ChatError, LoadError, ModelLoading, QueueFull
from ..models.families import family_for, turn_ends
from ..models.load import load_tokenizer
from ..models.seq2seq import seq2seq_of
from ..protocol.messages import ChatRequest, PromptTokens, State, Status
from ..protocol.stats import Stats
from ..settings import BACKGROUND_PLACES, Settings
from ..text.prompts import PromptEncoder
from ..text.sources import SourceEncoder
from .client import EngineClient
from .reply import LocalReply, Prompts, Ready

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("colab_llm_chat")

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
        self._prompts: Prompts | None = None
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
            # Apart, so that titles and tags, which may wait for long, take no place from a person.
            alike = sum(other.background == reply.background for other in self._replies)
            if alike >= (BACKGROUND_PLACES if reply.background else self.settings.max_requests):
                raise QueueFull(f"{alike} requests of this kind are running or waiting already.", retry_after=5)
            self._replies.add(reply)
        with ExitStack() as undo:
            # Whatever goes wrong from here on, the place in the queue is given back.
            undo.callback(reply.cancel)
            reply.try_begin()
            undo.pop_all()
        return reply

    def tokenize(self, request: ChatRequest) -> PromptTokens:
        """The request's prompt: whole, however long, unless its truncation is "auto". Raises ModelLoading while there
        is no tokenizer.
        """
        ready = self.ready()
        if ready is None:
            raise ModelLoading("The model is still loading.", retry_after=10)
        limit = ready.context_length if request.truncation == "auto" else NO_LIMIT
        prompt = ready.prompts.encode(request, context_length=limit)
        ids = prompt.source_ids or prompt.prompt_ids
        return PromptTokens(
            prompt_ids=ids,
            # An id beyond the vocabulary has no piece.
            pieces=tuple(str(ready.tokenizer.convert_ids_to_tokens(one) or "") for one in ids),
            text=prompt.text,
            context_length=ready.context_length,
            dropped_messages=prompt.dropped_messages,
        )

    def status(self) -> Status:
        """State of model and tokenizer together."""
        engine = self.engine.status
        error = self._tokenizer_error or engine.error
        if error is not None:
            return Status(state="failed", model_id=self.settings.model_id, error=error.to_dict())
        state: State = "ok" if engine.state == "ok" and self._prompts is not None else "loading"
        return Status(
            state=state,
            model_id=self.settings.model_id,
            progress=engine.progress,
            detail=engine.detail,
            task=self._prompts.task if self._prompts else "chat",
            languages=self._prompts.languages if self._prompts else (),
        )

    def stats(self) -> Stats:
        """What the engine told last, half a second ago at most while it works."""
        return self.engine.stats

    def ready(self) -> Ready | None:
        """What a reply needs to begin, None while the model loads. Raises the error that ended loading."""
        engine = self.engine.status
        error = self._tokenizer_error or engine.error
        if error is not None:
            raise error
        if self._tokenizer is None or self._prompts is None or engine.state != "ok":
            return None
        eos_token_ids = {*engine.facts["eos_token_ids"], self._tokenizer.eos_token_id, *self._prompts.end_ids} - {None}
        context_length = engine.facts["context_length"]
        return Ready(self._tokenizer, self._prompts, self.engine, context_length, sorted(eos_token_ids))

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

    def _encoder(self, tokenizer: PreTrainedTokenizerBase, folder: str) -> Prompts:
        model_id = self.settings.model_id
        seq2seq = seq2seq_of(model_id, Path(folder))
        if seq2seq is not None:
            return SourceEncoder(
                tokenizer, seq2seq, facts=lambda: self.engine.status.facts, own_system=self.settings.system
            )
        family = family_for(tokenizer, model_id, folder)
        if family is not None:
            family.give_to(tokenizer)
        return PromptEncoder(tokenizer, family, turn_ends=turn_ends(tokenizer))

    def _load_tokenizer(self, folder: str) -> None:
        try:
            tokenizer = load_tokenizer(folder, trust_remote_code=self.settings.trust_remote_code)
            self._tokenizer, self._prompts = tokenizer, self._encoder(tokenizer, folder)
            log.info("%s: conversations go to it as %s.", self.settings.model_id, self._prompts.form)
        except ChatError as error:
            self._tokenizer_error = error
        finally:
            if self._prompts is None and self._tokenizer_error is None:
                self._tokenizer_error = LoadError(f"The tokenizer of {self.settings.model_id} cannot be prepared.")
            with self.changed:
                self.changed.notify_all()
