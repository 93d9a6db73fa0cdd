"""The web process's side of the engine: start the worker, submit, cancel, and start it again when it dies.

Messages are JSON lines over the worker's standard input and output (see worker.py). Never imports torch.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

from ..engine.reports import Logprobs, Progress
from ..errors import ChatError, EngineFailed, InvalidRequest
from ..protocol.stats import Stats
from ..settings import SamplingParams, Settings, TokenRules

log = logging.getLogger("colab_llm_chat")

Message = dict[str, Any]
WATCH_SECONDS = 0.5
CLOSE_SECONDS = 5.0
# A model that loaded once loads again, unless something is wrong that stays wrong.
MOST_FAILED_STARTS = 3
# What the engine's process is told where nobody else says it. Threads that spin for long while they wait take the
# processor from the web process, and those that never do take half as long again for a step.
ENGINE_ENVIRONMENT = {"GOMP_SPINCOUNT": "20000"}
STARTED_IN_VAIN = "Look at the server's log for the cause, then start the server again."
HINTS = {
    -signal.SIGKILL: "It was killed, most likely for want of memory: pick a smaller model, or --quantization 4bit.",
    -signal.SIGILL: "This processor lacks an instruction that was used: leave --dtype out, or give another one.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """`folder` is known once the model's files are there, `facts` (ModelFacts as JSON) once it can generate."""

    state: Literal["loading", "ok", "failed"] = "loading"
    progress: float = 0.0
    detail: str = ""
    folder: str | None = None
    facts: Message = field(default_factory=dict)
    error: ChatError | None = None


class Generation:
    """One submitted sequence: take its progress from one thread, cancel from any.

    `cached_tokens` of its prompt need not be computed: known once there is progress.
    """

    def __init__(self, sequence_id: int, on_cancel: Callable[[int], None]) -> None:
        self.sequence_id = sequence_id
        self.cached_tokens = 0
        self._events: SimpleQueue[Progress] = SimpleQueue()
        self._on_cancel = on_cancel

    def put(self, progress: Progress) -> None:
        self._events.put(progress)

    def take(self, timeout: float) -> Progress | None:
        """The next progress, or None after `timeout` seconds of silence."""
        try:
            return self._events.get(timeout=max(0.0, timeout))
        except Empty:
            return None

    def cancel(self) -> None:
        self._on_cancel(self.sequence_id)
        # The worker says nothing of a cancelled sequence: whoever waits is released from here.
        self.put(Progress(end="cancelled"))


class EngineClient:
    """Owns the worker process. From its thread it calls `on_change` whenever `status` changes, and `on_spawn` with the
    process id of each worker that it starts, the first and those after a fault.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_change: Callable[[], None] = lambda: None,
        on_spawn: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self.status = EngineStatus(detail="starting")
        # What the worker told last; a new one counts from zero.
        self.stats = Stats()
        self._settings = settings
        self._on_change = on_change
        self._on_spawn = on_spawn
        self._ids = count(1)
        self._lock = threading.Lock()
        self._live: dict[int, Generation] = {}
        self._outbox: SimpleQueue[Message | None] = SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        # Since when the worker owes an answer: a submit or cancel it has not spoken after. None while it owes none.
        self._owed_since: float | None = None
        self._was_ready = False
        self._failed_starts = 0
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._supervise, self._watch)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        prompt_ids: list[int],
        sampling: SamplingParams,
        *,
        eos_token_ids: list[int],
        rules: TokenRules = TokenRules(),  # noqa: B008 - frozen
        background: bool = False,
        owner: str = "",
        source_ids: Sequence[int] = (),
    ) -> Generation:
        """Start a generation; one in the background runs while no other does. It reuses only what its owner typed.

        Of an encoder-decoder model `source_ids` are what it reads, `prompt_ids` what its reply begins with.

        Raises EngineFailed while there is no engine to take it, InvalidRequest for a bias on an id that it lacks.
        """
        with self._lock:
            if self.status.state != "ok":
                raise EngineFailed("The engine is not running.", retry_after=5)
            strange = [one for one in rules.logit_bias if not 0 <= one < self.status.facts["vocab_size"]]
            if strange:
                raise InvalidRequest(
                    f"logit_bias names token id {strange[0]}, but the model's ids end at "
                    f"{self.status.facts['vocab_size'] - 1}.",
                    param="logit_bias",
                )
            generation = Generation(next(self._ids), self._cancel)
            self._live[generation.sequence_id] = generation
            self._ask(
                {
                    "submit": generation.sequence_id,
                    "prompt_ids": prompt_ids,
                    "sampling": sampling.model_dump(),
                    "eos_token_ids": eos_token_ids,
                    "rules": rules.model_dump_json(),
                    "background": background,
                    "owner": owner,
                    "source_ids": list(source_ids),
                }
            )
        return generation

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def close(self) -> None:
        """End the worker and every generation; returns when it is gone."""
        with self._lock:
            self._closing.set()
            self.status = EngineStatus(state="failed", error=EngineFailed("The engine is closed."))
            self._outbox.put(None)
        process = self._process
        if process is not None:
            try:
                process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(CLOSE_SECONDS)

    def _cancel(self, sequence_id: int) -> None:
        with self._lock:
            if self._live.pop(sequence_id, None) is not None:
                self._ask({"cancel": sequence_id})

    def _ask(self, message: Message) -> None:
        self._outbox.put(message)
        self._owed_since = self._owed_since or time.monotonic()

    def _supervise(self) -> None:
        while not self.closed:
            try:
                process = self._spawn()
            except OSError as error:
                self._change(state="failed", error=EngineFailed(f"The engine process cannot be started: {error}"))
                return
            threading.Thread(target=self._write, args=(process, self._outbox), daemon=True).start()
            with process.stdout or open(os.devnull, "rb") as lines:
                for line in lines:
                    self._receive(line)
            if not self._bury(process.wait()):
                return

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._lock:
            # A fresh one: what was meant for a dead worker must not reach the next.
            self._outbox = SimpleQueue()
            self._outbox.put({"load": worker_settings(self._settings)})
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**ENGINE_ENVIRONMENT, **os.environ, "PYTHONPATH": path}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "colab_llm_chat.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Ctrl+C goes to the whole group of a terminal: the worker ends when its input closes, after its replies.
            start_new_session=True,
        )
        self._on_spawn(self._process.pid)
        if self._closing.is_set():
            self._outbox.put(None)
        return self._process

    @staticmethod
    def _write(process: subprocess.Popen[bytes], outbox: SimpleQueue[Message | None]) -> None:
        """A thread of its own: a hung worker with a full pipe must block nobody who submits."""
        try:
            with process.stdin or open(os.devnull, "wb") as pipe:
                while (message := outbox.get()) is not None:
                    pipe.write(json.dumps(message).encode() + b"\n")
                    pipe.flush()
        except OSError:
            log.debug("the engine's pipe is closed")

    def _receive(self, line: bytes) -> None:
        try:
            message: Message = json.loads(line)
        except ValueError:
            # A line cut by a kill, or printed by something that runs before the worker itself.
            log.warning("the engine sent a line that is no message: %.80r", line)
            return
        if "step" in message:
            self._deliver(message)
        elif "loading" in message:
            self._change(progress=message["loading"], detail=message["detail"])
        elif "folder" in message:
            self._change(folder=message["folder"])
        elif "ready" in message:
            self._was_ready, self._failed_starts = True, 0
            self._change(state="ok", progress=1.0, detail="", facts=message["ready"])
        elif "failed" in message:
            self._change(state="failed", error=ChatError.from_dict(message["failed"]))

    def _deliver(self, message: Message) -> None:
        with self._lock:
            for sequence_id, cached in message["cached"]:
                if sequence_id in self._live:
                    self._live[sequence_id].cached_tokens = cached
            for sequence_id, token_id, *told in message["step"]:
                if sequence_id in self._live:
                    logprobs = (Logprobs(told[0], tuple((one, p) for one, p in told[1])),) if told else ()
                    self._live[sequence_id].put(Progress(token_ids=(token_id,), logprobs=logprobs))
            for sequence_id, reason in message["ended"]:
                if generation := self._live.pop(sequence_id, None):
                    generation.put(Progress(end=reason))
            for sequence_id, error in message["errors"]:
                if generation := self._live.pop(sequence_id, None):
                    generation.put(Progress(error=ChatError.from_dict(error)))
            self._owed_since = time.monotonic() if self._live else None
            # A closed one has no facts any more.
            if "stats" in message and self.status.state == "ok":
                self.stats = Stats(**message["stats"], device=self.status.facts["device"])

    def _bury(self, code: int) -> bool:
        """Tell everybody that the worker is gone; True when it is to be started again."""
        self._outbox.put(None)
        with self._lock:
            orphans, self._live = list(self._live.values()), {}
            self._owed_since, self.stats = None, Stats()
            was, told = self.status.state, self.status.error is not None
            self._failed_starts += was == "loading"
            again = not told and not self.closed and self._was_ready and self._failed_starts < MOST_FAILED_STARTS
            if again:
                self.status = EngineStatus(detail="starting the engine again", folder=self.status.folder)
        for orphan in orphans:
            orphan.put(Progress(error=EngineFailed("The engine ended while it made this reply.", retry_after=5)))
        if not told and not self.closed:
            log.error("the engine ended with code %s; %d replies failed", code, len(orphans))
        if not told and not again:
            ended = f"The engine ended with code {code} while it loaded the model."
            self._change(state="failed", error=EngineFailed(ended, hint=HINTS.get(code, STARTED_IN_VAIN)))
        self._on_change()
        return again

    def _watch(self) -> None:
        """End a worker that hangs: it owes an answer, but has said nothing for too long."""
        while not self._closing.wait(WATCH_SECONDS):
            owed_since, process = self._owed_since, self._process
            silent = time.monotonic() - owed_since if owed_since is not None else 0.0
            if process is not None and silent > self._settings.step_timeout_seconds:
                log.error("the engine has not answered for %.0f s and is ended", silent)
                self._owed_since = None
                process.kill()

    def _change(self, **changes: Any) -> None:
        with self._lock:
            if not self.closed:
                self.status = replace(self.status, **changes)
        self._on_change()


def worker_settings(settings: Settings) -> Message:
    """What the worker is told: all but the key of the doors, the Hub's credential in the clear."""
    hf_token = settings.hf_token.get_secret_value() if settings.hf_token else None
    return settings.model_dump(mode="json", exclude={"access_key"}) | {"hf_token": hf_token}
