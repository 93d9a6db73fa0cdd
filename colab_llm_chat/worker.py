"""The engine process: `python -m colab_llm_chat.worker`.

JSON lines in: `load` (settings) first, then `submit` and `cancel`. JSON lines out: `loading`, `folder`,
`ready`, `failed`, and one `step` message a step for all rows. It ends when its input closes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from .engine.reports import StepReport
from .engine.sequence import Sequence
from .errors import ChatError, GenerationFailed
from .models.hardware import keep_freed_memory
from .settings import SamplingParams, Settings, TokenRules

if TYPE_CHECKING:
    from .text.matchers import Grammars

log = logging.getLogger("colab_llm_chat")

Message = dict[str, Any]

# Of the memory that is free beside the weights, the share for keys and values: the rest is for what a step computes,
# and on the CPU for everybody else.
KV_SHARE = {"cpu": 0.4, "cuda": 0.8}
# So seldom costs nothing, and is often enough for whoever looks.
STATS_SECONDS = 0.5


class Worker:
    """Loads the model, then steps the engine while there is something to do."""

    def __init__(self, inbox: SimpleQueue[Message], output: BinaryIO) -> None:
        self._inbox = inbox
        self._output = output
        # Grammars are compiled beside the steps, which must wait for none.
        self._aside = ThreadPoolExecutor(max_workers=1)
        self._compiling: set[int] = set()
        self._stats_due = 0.0

    def run(self) -> int:
        """Exit code: 1 when the model could not be loaded (the parent was told why)."""
        try:
            self._load(Settings(**self._inbox.get()["load"]))
        except ChatError as error:
            log.debug("loading failed", exc_info=error)
            self._send({"failed": error.to_dict()})
            return 1
        while True:
            while not self._engine.busy or not self._inbox.empty():
                if self._inbox.empty():
                    # Nothing is owed any more: silence from here on is not a hang.
                    self._report(StepReport(), idle=True)
                self._obey(self._inbox.get())
            self._report(self._engine.step())

    def _load(self, settings: Settings) -> None:
        from .models.hub import fetch_model

        self._tell(0.0, f"looking for {settings.model_id}")
        files = fetch_model(settings, on_progress=lambda fraction, detail: self._tell(0.7 * fraction, detail))
        self._send({"folder": str(files.folder)})
        self._tell(0.7, "loading onto the hardware")
        # Only now: importing torch takes seconds, and the parent loads the tokenizer meanwhile.
        from .engine.loop import Engine
        from .models.choose import choose_runner
        from .models.hardware import free_bytes
        from .models.load import load_model, load_tokenizer
        from .text.matchers import Grammars

        # Now, and beside the weights: it holds the interpreter for a second, which later would hold up every reply.
        tokenizer = load_tokenizer(files.folder, trust_remote_code=settings.trust_remote_code)
        self._grammars: Future[Grammars] = self._aside.submit(Grammars, tokenizer)
        to_load = 0.15 if settings.compile else 0.3
        loaded = load_model(files.folder, settings=settings, on_progress=lambda f, d: self._tell(0.7 + to_load * f, d))
        context_length = min(settings.context_length or loaded.facts.context_length, loaded.facts.context_length)
        runner = choose_runner(loaded.model, context_length=context_length)
        if settings.compile:
            from .models.compiled import artifacts_folder, compile_layers

            compile_layers(
                loaded.model,
                runner,
                artifacts_folder(settings),
                on_progress=lambda f, d: self._tell(0.7 + to_load + (0.3 - to_load) * f, d),
            )
        self._engine = Engine(
            runner,
            max_rows=settings.max_rows,
            context_length=context_length,
            kv_bytes=int(KV_SHARE[loaded.model.device.type] * free_bytes(loaded.model.device)),
            beat=lambda: self._report(StepReport()),
        )
        self._grammars.exception()
        self._send({"ready": {**loaded.facts.to_dict(), "context_length": self._engine.context_length}})

    def _obey(self, message: Message) -> None:
        if "cancel" in message:
            self._compiling.discard(message["cancel"])
            self._engine.cancel(message["cancel"])
        elif "compiled" in message:
            self._admit_compiled(message["compiled"], message["error"])
        else:
            self._submit(message)

    def _submit(self, message: Message) -> None:
        sequence = Sequence(
            message["submit"],
            message["prompt_ids"],
            SamplingParams(**message["sampling"]),
            eos_token_ids=frozenset(message["eos_token_ids"]),
            rules=TokenRules.model_validate_json(message["rules"]),
            background=message["background"],
            owner=message["owner"],
            source_ids=message["source_ids"],
        )
        if sequence.rules.grammar is None:
            self._admit(sequence)
        else:
            self._compiling.add(sequence.sequence_id)
            self._aside.submit(self._compile, sequence, sequence.rules.grammar)

    def _compile(self, sequence: Sequence, grammar: str) -> None:
        """In the thread aside; the result comes back among the messages."""
        # Whatever is raised besides: the request gets an answer.
        error: ChatError | None = GenerationFailed("The grammar of this reply cannot be compiled.")
        try:
            sequence.matcher, error = self._grammars.result().matcher(grammar), None
        except ChatError as caught:
            error = caught
        finally:
            self._inbox.put({"compiled": sequence, "error": error})

    def _admit_compiled(self, sequence: Sequence, error: ChatError | None) -> None:
        if sequence.sequence_id not in self._compiling:
            return
        self._compiling.discard(sequence.sequence_id)
        if error is None:
            self._admit(sequence)
        else:
            self._report(StepReport(failed=[(sequence.sequence_id, error)]))

    def _admit(self, sequence: Sequence) -> None:
        try:
            self._engine.submit(sequence)
        except ChatError as error:
            self._report(StepReport(failed=[(sequence.sequence_id, error)]))

    def _report(self, report: StepReport, *, idle: bool = False) -> None:
        errors = [(sequence_id, error.to_dict()) for sequence_id, error in report.failed]
        tokens = [
            (one, token_id, told.logprob, told.top) if (told := report.logprobs.get(at)) else (one, token_id)
            for at, (one, token_id) in enumerate(report.tokens)
        ]
        message = {"step": tokens, "cached": report.cached, "ended": report.ended, "errors": errors}
        # When idle in any case: nothing corrects a count that is told last.
        if idle or time.monotonic() >= self._stats_due:
            message["stats"] = self._engine.stats.snapshot()
            self._stats_due = time.monotonic() + STATS_SECONDS
        self._send(message)

    def _tell(self, progress: float, detail: str) -> None:
        self._send({"loading": progress, "detail": detail})

    def _send(self, message: Message) -> None:
        self._output.write(json.dumps(message).encode() + b"\n")
        self._output.flush()


def _read(inbox: SimpleQueue[Message]) -> None:
    for line in sys.stdin.buffer:
        inbox.put(json.loads(line))
    # The parent is gone or done with us: also out of the middle of a long step.
    os._exit(0)


def main() -> int:
    """Serve one parent. Standard output is the pipe, so whatever prints is sent to standard error."""
    # Of others only warnings: the Hub client's HTTP library tells every request, signed addresses included.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    # It warns of a cast once a layer and step.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    keep_freed_memory()
    # Libraries print; one stray line on the pipe would be read as a message.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    inbox: SimpleQueue[Message] = SimpleQueue()
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    code = 1
    try:
        code = Worker(inbox, output).run()
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        # Not sys.exit: a thread is blocked in a read of standard input, which an orderly end cannot interrupt.
        os._exit(code)


if __name__ == "__main__":
    main()
