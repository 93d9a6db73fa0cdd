"""Step by step: schedule, run, sample, tell. One thread owns an Engine; it is told of requests between steps."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice

import torch

from ..errors import ChatError, GenerationFailed, InvalidRequest, OutOfMemory
from .reports import StepReport
from .runner import Runner, ran_out
from .sampling import Drawn, sample
from .scheduler import Scheduler
from .sequence import Sequence, Step
from .stats import EngineStats

log = logging.getLogger("colab_llm_chat")


class Engine:
    """Generates for many sequences at once: submit, cancel, and step while `busy`."""

    def __init__(
        self,
        runner: Runner,
        *,
        max_rows: int,
        context_length: int,
        kv_bytes: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """`kv_bytes` may keys and values take; None: enough for `max_rows` of the longest. `beat`: a sign of life."""
        runner.arena.limit(max_rows, context_length, kv_bytes)
        self._runner = runner
        self._beat = beat
        self._context_length = context_length
        self._alive: dict[int, Sequence] = {}
        self._scheduler = Scheduler(
            runner.arena,
            max_rows=max_rows,
            chunk_size=runner.chunk_size,
            whole_prompts=runner.whole_prompts,
            forget=runner.forget,
            recall=runner.recall,
        )
        self.stats = EngineStats(self._scheduler, runner.arena)

    @property
    def context_length(self) -> int:
        """Ids that one conversation may have: as the model takes, and as there is room, which may become less."""
        room = self._runner.arena.room
        return self._context_length if room is None else min(self._context_length, room)

    @property
    def busy(self) -> bool:
        return self._scheduler.busy

    def submit(self, sequence: Sequence) -> None:
        """Queue a generation; its prompt has at least one id and leaves room for one more.

        Raises GenerationFailed for ids that the model has no embedding for: on a GPU they would take all rows along.
        """
        if (largest := max([*sequence.ids, *sequence.source_ids])) >= self._runner.vocab_size:
            raise GenerationFailed(
                f"The tokenizer made id {largest}, but the model knows {self._runner.vocab_size} ids.",
                hint="Tokenizer and model do not belong together; start the server with another model.",
            )
        sequence.switch_length = self._runner.switch_length
        sequence.rewind()
        self._alive[sequence.sequence_id] = sequence
        self._scheduler.add(sequence)
        self.stats.submitted(sequence.sequence_id)

    def cancel(self, sequence_id: int) -> None:
        """End a generation before the next step; nothing is reported for it. Unknown ids are no error."""
        if sequence_id in self._alive:
            self._drop(self._alive[sequence_id])
            self.stats.end(sequence_id, "cancelled")

    def step(self) -> StepReport:
        """Compute one step. What fails is reported for the sequences concerned; the others go on."""
        report = StepReport()
        began = time.perf_counter()
        step = self._scheduler.schedule()
        if not step.rows and step.chunk is None:
            first = (*self._scheduler.waiting, *self._scheduler.background)[0]
            self._fail(first, OutOfMemory("There is no room for this conversation beside the model."), report)
            self.stats.stepped(step, report, began=began)
            return report
        self._runner.draft(step)
        drawn, seconds = self._attempt(step), time.perf_counter() - began
        if isinstance(drawn, Exception) and any(row.drafts for row in step.rows):
            # It need not fail without.
            for row in step.rows:
                row.drafts = []
            drawn = self._attempt(step)
        if isinstance(drawn, Exception) and ran_out(drawn) and self._scheduler.shed():
            log.warning("the device ran out of memory: less is kept and read at once")
            return report
        if failed := isinstance(drawn, Exception):
            step, drawn = self._isolate(step, report)
        else:
            self._scheduler.observe(step, seconds)
        # Only now: the runner may have had to read all the same.
        if (chunk := step.chunk) is not None and chunk.sequence.cached and chunk.start == chunk.sequence.cached:
            report.cached.append((chunk.sequence.sequence_id, chunk.start))
        self._runner.learn(step, self._take(step, drawn, report), None if failed else seconds)
        self.stats.stepped(step, report, began=began)
        return report

    def _take(self, step: Step, drawn: list[Drawn], report: StepReport) -> dict[Sequence, int]:
        """Give the sequences of a step what was drawn for them; returns how many drafts of each were right."""
        self._scheduler.advance(step)
        left, right = iter(drawn), {}
        for row, count in Counter(step.sampled).items():
            mine = list(islice(left, count))
            if count > 1 and not all(one.finite for one in mine):
                # What of it is a draft's own doing shows once the row is read again.
                self._runner.arena.scrub(row.place)
                self._scheduler.pause(row, keep=False)
            else:
                right[row] = self._follow(row, mine, report)
        return right

    def _follow(self, row: Sequence, drawn: list[Drawn], report: StepReport) -> int:
        """Give a row what was drawn after its last id, and after its drafts as far as these are what was drawn."""
        right, last = 0, len(drawn) - 1
        while self._give(row, drawn[right], report) and right < last and row.drafts[right] == drawn[right].token_id:
            right += 1
            # The draft's keys and values are those of the id.
            row.computed += 1
        return right

    def _give(self, row: Sequence, drawn: Drawn, report: StepReport) -> bool:
        """Append what was drawn; False where the row does not go on from there."""
        length = len(row.ids)
        reason = row.append(drawn.token_id, context_length=self.context_length) if drawn.allowed else "stop"
        if (fault := _fault(row, drawn)) is not None:
            self._fail(row, fault, report)
            return False
        # An end-of-text id is no part of the reply.
        if len(row.ids) > length:
            if drawn.logprobs is not None:
                report.logprobs[len(report.tokens)] = drawn.logprobs
            report.tokens.append((row.sequence_id, drawn.token_id))
        if reason is not None:
            report.ended.append((row.sequence_id, reason))
            self._drop(row)
        elif row.grown_long and not row.long:
            self._scheduler.pause(row)
        return row.slot is not None

    def _attempt(self, step: Step) -> list[Drawn] | Exception:
        """What a step draws, or what went wrong. Raises where the device itself is lost: only a new process helps."""
        try:
            logits, sampled = self._runner.forward(step), step.sampled
            return sample(logits, sampled) if sampled else []
        except torch.AcceleratorError:
            raise
        except Exception as error:
            log.exception("a step of %d sequences failed", len(step.split()))
            # Its frames hold tensors, which after running out of memory the next attempt needs.
            return error.with_traceback(None)

    def _isolate(self, step: Step, report: StepReport) -> tuple[Step, list[Drawn]]:
        """Find the sequences at fault by running each alone; returns the step of those that are not."""
        results = []
        for single in step.split():
            results.append((single, self._attempt(single)))
            self._beat()
        good = [(single, drawn) for single, drawn in results if not isinstance(drawn, Exception)]
        # Only now: failing one moves another row into its slot.
        for single, cause in results:
            if isinstance(cause, Exception):
                self._fail(single.rows[0] if single.chunk is None else single.chunk.sequence, _told(cause), report)
        rows = [single.rows[0] for single, _ in good if single.chunk is None]
        chunk = next((single.chunk for single, _ in good if single.chunk is not None), None)
        return Step(rows, chunk), [one for _, drawn in good for one in drawn]

    def _fail(self, sequence: Sequence, error: ChatError, report: StepReport) -> None:
        report.failed.append((sequence.sequence_id, error))
        if sequence.slot is not None:
            doubtful = self._scheduler.prefixes.distrust(sequence)
            for spoilt in [sequence.slot, *doubtful]:
                self._runner.arena.scrub(spoilt)
            for slot in doubtful:
                self._runner.arena.free(slot)
        self._drop(sequence, keep=False)

    def _drop(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Forget a sequence, but for its prefix."""
        self._alive.pop(sequence.sequence_id, None)
        self._scheduler.remove(sequence, keep=keep)
        self._runner.forget(sequence, keep=keep)
        if not self._scheduler.busy:
            self._runner.arena.trim()


def _fault(row: Sequence, drawn: Drawn) -> ChatError | None:
    """Why a row cannot go on with what was drawn."""
    if not drawn.finite:
        return GenerationFailed("The model computed numbers that are not finite.")
    if row.matcher is not None and row.matcher.is_error():
        # The asker's doing, not the model's: a schema without end, such as one that requires itself.
        return InvalidRequest(
            f"This JSON schema cannot be enforced: it became too complex in mid-reply ({row.matcher.stop_reason()}).",
            param="response_format",
            hint="Simplify the schema.",
        )
    if not drawn.allowed and row.matcher is not None and not row.matcher.is_accepting():
        return GenerationFailed("The reply's grammar allows none of the model's tokens here.")
    return None


def _told(error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    if ran_out(error):
        return OutOfMemory("The device ran out of memory for this conversation.")
    return GenerationFailed(f"The model failed while generating this reply ({type(error).__name__}).")
