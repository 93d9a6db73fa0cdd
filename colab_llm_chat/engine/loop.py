"""Step by step: schedule, run, sample, tell. One thread owns an Engine; it is told of requests between steps."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import torch

from ..errors import ChatError, GenerationFailed, OutOfMemory
from .runner import Runner
from .sampling import sample
from .scheduler import Scheduler
from .sequence import EndReason, Sequence, Step

log = logging.getLogger("colab_llm_chat")


@dataclass(slots=True)
class StepReport:
    """What one step brought: new ids, sequences that ended and why, sequences that failed and how."""

    tokens: list[tuple[int, int]] = field(default_factory=list)
    ended: list[tuple[int, EndReason]] = field(default_factory=list)
    failed: list[tuple[int, ChatError]] = field(default_factory=list)


class Engine:
    """Generates for many sequences at once: submit, cancel, and step while `busy`."""

    def __init__(self, runner: Runner, *, max_rows: int, context_length: int) -> None:
        self._runner = runner
        self._context_length = context_length
        self._alive: dict[int, Sequence] = {}
        self._scheduler = Scheduler(
            runner, max_rows=max_rows, chunk_size=runner.chunk_size, whole_prompts=runner.whole_prompts
        )

    @property
    def busy(self) -> bool:
        return self._scheduler.busy

    def submit(self, sequence: Sequence) -> None:
        """Queue a generation; its prompt has at least one id and leaves room for one more."""
        self._alive[sequence.sequence_id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, sequence_id: int) -> None:
        """End a generation before the next step; nothing is reported for it. Unknown ids are no error."""
        if sequence_id in self._alive:
            self._drop(self._alive[sequence_id])

    def step(self) -> StepReport:
        """Compute one step. What fails is reported for the sequences concerned; the others go on."""
        report = StepReport()
        began = time.perf_counter()
        step = self._scheduler.schedule()
        logits = self._attempt(step)
        if isinstance(logits, Exception):
            step, logits = self._isolate(step, report)
        self._take(step, logits, report)
        self._scheduler.observe(step, time.perf_counter() - began)
        return report

    def _take(self, step: Step, logits: torch.Tensor, report: StepReport) -> None:
        sampled = step.sampled
        self._scheduler.advance(step)
        if not sampled:
            return
        drawn = sample(logits, sampled)
        for row, token_id, finite in zip(sampled, drawn.token_ids, drawn.finite, strict=True):
            if not finite:
                self._fail(row, GenerationFailed("The model computed numbers that are not finite."), report)
                continue
            reason = row.append(token_id, context_length=self._context_length)
            if reason != "stop":
                report.tokens.append((row.sequence_id, token_id))
            if reason is not None:
                report.ended.append((row.sequence_id, reason))
                self._drop(row)

    def _attempt(self, step: Step) -> torch.Tensor | Exception:
        """Logits of a step, or what went wrong. Raises where the device itself is lost: only a new process helps."""
        try:
            return self._runner.forward(step)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            log.exception("a step of %d sequences failed", len(step.split()))
            # Its frames hold tensors, which after running out of memory the next attempt needs.
            return error.with_traceback(None)

    def _isolate(self, step: Step, report: StepReport) -> tuple[Step, torch.Tensor]:
        """Find the sequences at fault by running each alone; returns the step of those that are not."""
        results = [(single, self._attempt(single)) for single in step.split()]
        good = [(single, logits) for single, logits in results if isinstance(logits, torch.Tensor)]
        # Only now: failing one moves another row into its slot.
        for single, cause in results:
            if isinstance(cause, Exception):
                self._fail(single.rows[0] if single.chunk is None else single.chunk.sequence, _told(cause), report)
        if not good:
            return Step([]), torch.empty(0)
        rows = [single.rows[0] for single, _ in good if single.chunk is None]
        chunk = next((single.chunk for single, _ in good if single.chunk is not None), None)
        return Step(rows, chunk), torch.cat([logits for _, logits in good])

    def _fail(self, sequence: Sequence, error: ChatError, report: StepReport) -> None:
        report.failed.append((sequence.sequence_id, error))
        self._drop(sequence)

    def _drop(self, sequence: Sequence) -> None:
        self._alive.pop(sequence.sequence_id, None)
        self._scheduler.remove(sequence)
        self._runner.forget(sequence)
        if not self._scheduler.busy:
            self._runner.idle()


def _told(error: Exception) -> ChatError:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return OutOfMemory("The device ran out of memory for this conversation.")
    return GenerationFailed(f"The model failed while generating this reply ({type(error).__name__}).")
