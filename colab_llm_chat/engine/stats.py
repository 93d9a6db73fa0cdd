"""What the engine counts: who runs and waits, what its memory holds, tokens, ends and times. Knows no tensors."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from typing import Any

from .reports import StepReport
from .runner import Slots
from .scheduler import Scheduler
from .sequence import Step

# From a token of a small model on a GPU to the first one of a long prompt on a CPU (s).
EDGES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TOTALS = ("prompt_tokens_computed", "prompt_tokens_reused", "tokens_generated", "steps", "step_seconds")


class Durations:
    """How many durations (s) were at most each edge and more than the one before; the last count has no edge."""

    def __init__(self) -> None:
        self.edges = EDGES
        self.counts = [0] * (len(EDGES) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(EDGES, seconds)] += 1
        self.total += seconds


class EngineStats:
    """`totals` begin at zero with the engine and only grow; ids read again after a pause are counted again."""

    def __init__(self, scheduler: Scheduler, slots: Slots) -> None:
        self.totals: dict[str, float] = dict.fromkeys(TOTALS, 0)
        self.ended = Counter(stop=0, length=0, failed=0, cancelled=0)
        self.first_token, self.between_tokens = Durations(), Durations()
        self._scheduler, self._slots = scheduler, slots
        # By sequence: since when its next token is waited for, and what that wait is.
        self._since: dict[int, tuple[float, Durations]] = {}
        self._seen = (0.0, 0.0)

    def submitted(self, sequence_id: int) -> None:
        self._since[sequence_id] = time.perf_counter(), self.first_token

    def end(self, sequence_id: int, reason: str) -> None:
        self.ended[reason] += 1
        del self._since[sequence_id]

    def stepped(self, step: Step, report: StepReport, *, began: float) -> None:
        """Count a step that began at this time of `perf_counter`; `step` is what of it did not fail."""
        now, chunk = time.perf_counter(), step.chunk
        read = len(chunk.ids) + len(chunk.sequence.source_ids) if chunk else 0
        reused = sum(length for _, length in report.cached)
        for name, more in zip(TOTALS, (read, reused, len(report.tokens), 1, now - began), strict=True):
            self.totals[name] += more
        # Tokens of one step come at once.
        for sequence_id in dict(report.tokens):
            since, wait = self._since[sequence_id]
            wait.add(now - since)
            self._since[sequence_id] = now, self.between_tokens
        for sequence_id, reason in [*report.ended, *((failed, "failed") for failed, _ in report.failed)]:
            self.end(sequence_id, reason)

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON; `tokens_per_second` is that of the steps since the last snapshot, 0 with nothing to do."""
        scheduler, slots, seen = self._scheduler, self._slots, self._seen
        self._seen = self.totals["tokens_generated"], self.totals["step_seconds"]
        tokens, seconds = self._seen[0] - seen[0], self._seen[1] - seen[1]
        return {
            **self.totals,
            "ended": dict(self.ended),
            "pauses": scheduler.pauses,
            "first_token": vars(self.first_token),
            "between_tokens": vars(self.between_tokens),
            "running": len(scheduler.active),
            "waiting": len(scheduler.waiting),
            "background": len(scheduler.background),
            "tokens_per_second": tokens / seconds if seconds and scheduler.busy else 0.0,
            "row_positions": sum(one.computed for one in scheduler.active),
            "prefix_positions": slots.kept_apart + sum(len(entry.ids) for entry in scheduler.prefixes.held),
            "budget_positions": slots.room,
            "position_bytes": slots.position_bytes,
        }
