"""Who runs next: rows that generate, the one prompt that is read in chunks, and those that wait.

Running rows always occupy arena slots 0..n-1; the last row is moved into a hole. Background sequences run while there
are no others. Knows no tensors.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from .sequence import Chunk, Sequence, Step

SMALLEST_CHUNK, LARGEST_CHUNK = 16, 1024
# A chunk may stretch a step to twice a step without one: the gap other readers then see between tokens.
STRETCH = 2.0
# With nobody else to disturb, a chunk may take this long (s): a cancel is heard within one step.
ALONE_SECONDS = 0.1


class Slots(Protocol):
    """The part of a runner that the scheduler needs."""

    def move(self, source: int, target: int) -> None: ...
    def forget(self, sequence: Sequence) -> None: ...


class Scheduler:
    """Rows join and leave between steps; prompts are read first come, first served."""

    def __init__(self, slots: Slots, *, max_rows: int, chunk_size: int, whole_prompts: bool = False) -> None:
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.background: deque[Sequence] = deque()
        self.prefilling: Sequence | None = None
        self._prefill_slot = 0
        self._slots = slots
        self._max_rows = max_rows
        self._whole_prompts = whole_prompts
        # Apart for prompts read alone and beside rows: a size grown alone would make the first reader wait.
        self._chunk_sizes = {True: chunk_size, False: chunk_size}
        self._decode_seconds: float | None = None

    @property
    def busy(self) -> bool:
        return bool(self.running or self.prefilling or self.waiting or self.background)

    def add(self, sequence: Sequence) -> None:
        self._queue(sequence).append(sequence)
        if not sequence.background:
            active = [*self.running, *([self.prefilling] if self.prefilling else [])]
            # The latest first, so that the earliest comes to the queue's front.
            for other in sorted(active, key=lambda one: -one.sequence_id):
                if other.background:
                    self.pause(other)

    def pause(self, sequence: Sequence) -> None:
        """Take a sequence out of its slot; it is the next of its kind to be read again and go on."""
        self.remove(sequence)
        self._slots.forget(sequence)
        sequence.rewind()
        self._queue(sequence).appendleft(sequence)

    def schedule(self) -> Step:
        """The next step: a token for each running row, and a chunk when a prompt is at hand."""
        alone = all(row.background for row in self.running)
        queue = self.waiting or (self.background if alone else None)
        if self.prefilling is None and queue and len(self.running) < self._max_rows:
            self.prefilling = queue.popleft()
            # Rows can only become fewer while a prompt is read, so this slot stays its own.
            self._prefill_slot = len(self.running)
        if self.prefilling is None:
            return Step(list(self.running))
        sequence = self.prefilling
        start = sequence.computed
        end = len(sequence.ids) if self._whole_prompts else start + self._chunk_sizes[bool(self.running)]
        return Step(list(self.running), Chunk(sequence, self._prefill_slot, start, sequence.ids[start:end]))

    def advance(self, step: Step) -> None:
        """Account for a step that was computed; a prompt read to its end becomes a row."""
        for row in step.rows:
            row.computed += 1
        if step.chunk is None or step.chunk.sequence is not self.prefilling:
            return
        self.prefilling.computed += len(step.chunk.ids)
        if step.chunk.completes_prompt:
            if self._prefill_slot != len(self.running):
                self._slots.move(self._prefill_slot, len(self.running))
            self.running.append(self.prefilling)
            self.prefilling = None

    def remove(self, sequence: Sequence) -> int | None:
        """Take a sequence out wherever it is; the last row moves into its hole. Returns the slot that is free now."""
        if sequence is self.prefilling:
            self.prefilling = None
            return self._prefill_slot
        if sequence in self.running:
            hole = self.running.index(sequence)
            last = self.running.pop()
            if last is not sequence:
                self._slots.move(len(self.running), hole)
                self.running[hole] = last
            return len(self.running)
        if sequence in self._queue(sequence):
            self._queue(sequence).remove(sequence)
        return None

    def _queue(self, sequence: Sequence) -> deque[Sequence]:
        return self.background if sequence.background else self.waiting

    def observe(self, step: Step, seconds: float) -> None:
        """Choose the chunk size from measured step times, so that reading a prompt disturbs little."""
        if step.chunk is None:
            known = self._decode_seconds
            # Smoothed: single steps vary with whatever else the machine does.
            self._decode_seconds = seconds if known is None else 0.8 * known + 0.2 * seconds
        elif step.rows and self._decode_seconds:
            self._adapt(step, seconds, allowed=STRETCH * self._decode_seconds, read=len(step.chunk.ids))
        elif not step.rows:
            self._adapt(step, seconds, allowed=ALONE_SECONDS, read=len(step.chunk.ids))

    def _adapt(self, step: Step, seconds: float, *, allowed: float, read: int) -> None:
        beside = bool(step.rows)
        size = self._chunk_sizes[beside]
        if seconds > allowed:
            self._chunk_sizes[beside] = max(SMALLEST_CHUNK, size // 2)
        elif seconds < allowed / 2 and read == size:
            self._chunk_sizes[beside] = min(LARGEST_CHUNK, size * 2)
