"""Who runs next: rows that generate, the one prompt that is read in chunks, and those that wait.

Running rows always occupy arena slots 0..n-1; the last row is moved into a hole. The prompt being read and prefixes of
those that left lie in slots beyond. When memory runs short, prefixes go first, then the youngest row is paused.
Background sequences run while there are no others. Knows no tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Protocol

from .prefixes import Prefixes
from .sequence import Chunk, Sequence, Step

SMALLEST_CHUNK, LARGEST_CHUNK = 16, 1024
# A chunk may stretch a step to twice a step without one: the gap other readers then see between tokens.
STRETCH = 2.0
# With nobody else to disturb, a chunk may take this long (s): a cancel is heard within one step, while small chunks
# use the processor badly.
ALONE_SECONDS = 0.25
# Slots beyond the rows': prefixes that are kept even while all rows run.
SPARE_SLOTS = 16
# A prefix is used up by who goes on from it, not copied, where it loses no more ids: the end of a reply, as text made
# ids again, is often not what it was.
LOST_IDS = 16


class Slots(Protocol):
    """The part of a runner that the scheduler needs.

    `room` is the most positions that all slots may have together; None where there are no slots, nor prefixes then.
    `position_bytes` is what one takes, 0 while that is not known.
    """

    @property
    def room(self) -> int | None: ...
    @property
    def position_bytes(self) -> int: ...
    def move(self, source: int, target: int, length: int) -> None: ...
    def swap(self, one: int, other: int, length: int) -> None: ...
    def scrub(self, slot: int) -> None: ...
    def sound(self, slot: int, length: int) -> bool: ...
    def trim(self, slots: int, length: int) -> None: ...
    def limit(self, positions: int, kv_bytes: int | None) -> None: ...


class Scheduler:
    """Rows join and leave between steps; prompts are read first come, first served."""

    def __init__(
        self,
        slots: Slots,
        *,
        max_rows: int,
        chunk_size: int,
        whole_prompts: bool = False,
        forget: Callable[[Sequence], None] = lambda sequence: None,
    ) -> None:
        """`forget` is called for who is paused."""
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.background: deque[Sequence] = deque()
        self.prefilling: Sequence | None = None
        self.prefixes = Prefixes()
        self.pauses = 0
        self._prefill_slot = 0
        self._source: int | None = None
        self._slots = slots
        self._forget = forget
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
            # The latest first, so that the earliest comes to the queue's front.
            for other in sorted(self.active, key=lambda one: -one.sequence_id):
                if other.background:
                    self.pause(other)

    @property
    def active(self) -> list[Sequence]:
        """Those that hold a slot as their own."""
        return [*self.running, self.prefilling] if self.prefilling else list(self.running)

    def pause(self, sequence: Sequence) -> None:
        """Take a sequence out of its slot; it is the next of its kind to be read again, if need be, and go on."""
        self.pauses += 1
        self.remove(sequence)
        self._forget(sequence)
        sequence.rewind()
        self._queue(sequence).appendleft(sequence)

    def schedule(self) -> Step:
        """The next step: a token for each running row, and a chunk when a prompt is at hand."""
        alone = all(row.background for row in self.running)
        queue = self.waiting or (self.background if alone else None)
        if self.prefilling is None and queue and len(self.running) < self._max_rows and self._has_room(queue[0]):
            self._begin(queue.popleft())
        while not self._make_room() and len(self.active) > 1:
            self.pause(max(self.active, key=lambda one: one.sequence_id))
        if self.prefilling is None:
            return Step(list(self.running), extent=self.extent)
        sequence = self.prefilling
        start = sequence.computed
        end = len(sequence.ids) if self._whole_prompts else start + self._chunk_sizes[bool(self.running)]
        chunk = Chunk(sequence, self._prefill_slot, start, sequence.ids[start:end], self._source)
        return Step(list(self.running), chunk, extent=self.extent)

    def _begin(self, sequence: Sequence) -> None:
        """Give a sequence a slot and what is known of its ids already."""
        self.prefilling, self._source, held = sequence, None, self.prefixes.held
        rows = [] if self._slots.room is None else self.running
        self._prefill_slot, shared = self.prefixes.find(sequence, rows)
        lost = len(held[self._prefill_slot].ids) - shared if shared and self._prefill_slot in held else None
        if lost is not None and (lost <= LOST_IDS or not self._fits(len(self.active) + 1)):
            del held[self._prefill_slot]
        else:
            self._prefill_slot = -1
            self._make_room()
            source, shared = self.prefixes.find(sequence, rows)
            self._prefill_slot, self._source = self._free_slot(), source if shared else None
        sequence.computed = shared
        if sequence.cached is None:
            sequence.cached = shared

    @property
    def extent(self) -> tuple[int, int]:
        """How many slots, and how many positions of each, hold something."""
        slots = max([len(self.running) - 1, self._prefill_slot if self.prefilling else -1, *self.prefixes.held]) + 1
        return slots, max([self.prefixes.longest, *(len(one.ids) for one in self.active)])

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether another one fits beside those that run, once all prefixes are gone."""
        longest = max(len(one.ids) for one in [*self.active, sequence]) + 1
        return not self.active or self._fits(len(self.active) + 1, longest)

    def _fits(self, slots: int, length: int | None = None) -> bool:
        room = self._slots.room
        return room is None or slots * (self.extent[1] if length is None else length) <= room

    def _make_room(self) -> bool:
        """Drop the prefixes that the active leave no room for; False if those do not fit themselves."""
        held = self.prefixes.held
        most = self._max_rows + SPARE_SLOTS - len(self.active)
        while held and (len(held) > most or not self._fits(len(self.active) + len(held))):
            self.prefixes.drop_oldest()
        while not self._fits(self.extent[0]) and self._free_slot() < self.extent[0] - 1:
            self._settle(self.extent[0] - 1, self._free_slot())
        return self._fits(len(self.active) + len(held))

    def _free_slot(self) -> int:
        taken = {self._prefill_slot if self.prefilling else -1, *self.prefixes.held}
        return next(slot for slot in count(len(self.running)) if slot not in taken)

    def _settle(self, slot: int, target: int) -> None:
        """Move what lies beyond the rows to a free slot."""
        self._slots.move(slot, target, self.extent[1])
        if slot in self.prefixes.held:
            self.prefixes.held[target] = self.prefixes.held.pop(slot)
        else:
            self._prefill_slot = target

    def advance(self, step: Step) -> None:
        """Account for a step that was computed; a prompt read to its end becomes a row."""
        for row in step.rows:
            row.computed += 1
        if step.chunk is None or step.chunk.sequence is not self.prefilling:
            return
        self._source = None
        self.prefilling.computed += len(step.chunk.ids)
        if step.chunk.completes_prompt:
            slot, target = self._prefill_slot, len(self.running)
            if target in self.prefixes.held:
                self._slots.swap(slot, target, self.extent[1])
                self.prefixes.held[slot] = self.prefixes.held.pop(target)
            elif slot != target:
                self._slots.move(slot, target, len(self.prefilling.ids))
            self.running.append(self.prefilling)
            self.prefilling = None

    def slot_of(self, sequence: Sequence) -> int | None:
        if sequence is self.prefilling:
            return self._prefill_slot
        return self.running.index(sequence) if sequence in self.running else None

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take a sequence out wherever it is; the last row moves into its hole, and a prefix to `keep` into the last's.

        Without `keep` its slot has been scrubbed before.
        """
        if (slot := self.slot_of(sequence)) is None:
            if sequence in self._queue(sequence):
                self._queue(sequence).remove(sequence)
            return
        keep = keep and self._slots.room is not None and sequence.computed > 0
        if sequence is self.prefilling:
            self.prefilling = None
            # No logits have told yet whether its numbers are finite.
            if keep and not (keep := self._slots.sound(slot, sequence.computed)):
                self._slots.scrub(slot)
        else:
            last = self.running.pop()
            if last is not sequence:
                self._slots.swap(len(self.running), slot, max(len(last.ids), len(sequence.ids)))
                self.running[slot], slot = last, len(self.running)
        if keep:
            self.prefixes.keep(slot, sequence)

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
