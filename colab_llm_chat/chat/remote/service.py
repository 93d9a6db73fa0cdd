"""The pipeline over an upstream: what the local one does, done by a server elsewhere. Loads no model library."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from pydantic import BaseModel, ValidationError

from ...errors import ChatError
from ...errors.upstream import UpstreamLacks
from ...protocol.messages import ChatRequest, Delta, PromptTokens, Status
from ...protocol.model_names import OWNER
from ...protocol.reply_models import Health, TokenizeReply
from ...protocol.stats import Stats
from ...settings import Settings
from . import faults
from .address import Address
from .asking import Asked, asked, asked_for_prompt
from .chunks import ChunkReader
from .connection import PATIENT, Connection, events, read
from .link import Link
from .reply import RemoteReply

POLL_SECONDS = 0.5
DROPPED_MESSAGES = "x-dropped-messages"
# Servers that have no list of models, or cannot make it: transformers' own fails without a cache of the Hub's.
NO_LIST = (404, 405, 500, 501)


class Listed(BaseModel):
    id: str
    owned_by: str | None = None


class ModelList(BaseModel):
    data: list[Listed] = []


class RemoteChat:
    """The pipeline over a server elsewhere. The model is the one that the settings name, else the first it has."""

    def __init__(self, settings: Settings, address: Address) -> None:
        self.settings, self.address = settings, address
        self.model_id = settings.model_id if "model_id" in settings.model_fields_set else ""
        # Whether it is this project's server; known once it has answered.
        self.is_own = False
        self._started = False
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._replies: set[RemoteReply] = set()
        self._connection = Connection(address)

    def start(self) -> RemoteChat:
        """Ask what is there. Raises UpstreamError, or what a server of ours says."""
        if self._started:
            return self
        listed = self._listed()
        self.is_own = any(one.owned_by == OWNER for one in listed)
        # Some servers list models that make no text, too.
        fitting = [one.id for one in listed if "embed" not in one.id]
        self.model_id = self.model_id or next(iter(fitting), "")
        if not self.model_id:
            raise UpstreamLacks(f"{self.address.shown} lists no model.", hint="Name one by -m.")
        self._started = True
        return self

    def stream(self, request: ChatRequest) -> RemoteReply:
        """Start a reply. Raises UpstreamLacks for what only this project's server can; other failures come with it."""
        task = self.status().task if request.raw and request.continue_final else "chat"
        ask = asked(request, self.model_id, is_own=self.is_own, task=task)
        reply = RemoteReply(partial(self._deltas, ask), ping_seconds=self.settings.ping_seconds, forget=self._forget)
        with self._lock:
            self._replies.add(reply)
        reply.start()
        return reply

    def tokenize(self, request: ChatRequest) -> PromptTokens:
        """The request's prompt. Raises UpstreamLacks where the upstream tells none."""
        if not self.is_own:
            raise UpstreamLacks(f"{self.address.shown} does not show what its model gets.")
        with self._connection.posted(asked_for_prompt(request, self.model_id)) as response:
            told = read(TokenizeReply, response)
        return PromptTokens(
            prompt_ids=tuple(told.tokens),
            pieces=tuple(told.token_strs or ()),
            text=told.prompt,
            context_length=told.max_model_len,
            dropped_messages=told.dropped_messages,
        )

    def status(self) -> Status:
        """What a server of ours says of itself, asked each time; another counts as ready once it has answered."""
        if not self.is_own:
            return Status(state="ok" if self._started else "loading", model_id=self.model_id)
        try:
            with self._connection.got(f"{self.address.shown}/health") as response:
                health = Health.model_validate_json(response.content)
        except ValidationError:
            # Behind a proxy that lets only /v1 through.
            return Status(state="ok", model_id=self.model_id)
        except ChatError as error:
            return Status(state="failed", model_id=self.model_id, error=error.to_dict())
        return Status(
            state=health.status,
            model_id=self.model_id,
            progress=health.progress or 0.0,
            detail=faults.plain(health.detail or ""),
            error=None if health.error is None else health.error.model_dump(),
            task=health.task or "chat",
            languages=tuple(health.languages or ()),
        )

    def follow(self, on_progress: Callable[[Status], None]) -> Status:
        """Wait until the model is there, cannot be had, or `close`."""
        status = self.status()
        while status.state == "loading" and not self._closed.is_set():
            on_progress(status)
            self._closed.wait(POLL_SECONDS)
            status = self.status()
        return status

    def stats(self) -> Stats:
        """Nothing: an upstream counts for itself."""
        return Stats()

    def close(self) -> None:
        """End every reply."""
        self._closed.set()
        with self._lock:
            replies = list(self._replies)
        for reply in replies:
            reply.cancel()

    def _forget(self, reply: RemoteReply) -> None:
        with self._lock:
            self._replies.discard(reply)

    def _deltas(self, ask: Asked, link: Link, drop: Callable[[int], None]) -> Iterator[Delta]:
        began = time.monotonic()
        with self._connection.posted(ask, PATIENT, link=link) as response:
            told = response.headers.get(DROPPED_MESSAGES, "")
            dropped = int(told) if told.isdecimal() else 0
            drop(dropped)
            reader = ChunkReader(began, dropped_messages=dropped, key=self.address.key)
            for data in events(response):
                yield from reader.feed(data)
                if reader.is_done:
                    break
            yield reader.end()

    def _listed(self) -> list[Listed]:
        with self._connection.got(f"{self.address.base}/models") as response:
            is_page = faults.is_page(response)
            if response.status_code in NO_LIST and not is_page:
                if self.model_id:
                    return []
                raise UpstreamLacks(
                    f"{self.address.base} gives no list of models (status {response.status_code}).",
                    hint="Name the model by -m, and check the address: it mostly ends in /v1.",
                )
            if is_page or not response.is_success:
                raise faults.refusal(response, self.address)
            return read(ModelList, response).data
