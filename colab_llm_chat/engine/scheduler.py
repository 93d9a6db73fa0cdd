"""Who runs next: rows that generate, the one prompt that is read in chunks, and those that wait.

When memory runs short, prefixes go first, then the youngest row is paused. Background sequences run while there are no
others. Knows no tensors, and of slots only that there is room or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .prefixes import Prefix, Prefixes
from .runner import Slots
from .sequence import Chunk, Sequence, Slot, Step

SMALLEST_CHUNK, LARGEST_CHUNK = 16, 1024
# A chunk may stretch a step to so many times a step without one: the gap other readers then see between tokens.
STRETCH = 2.2
# With nobody else to disturb, a chunk may take this long (s): a cancel is heard within one step, while small chunks
# use the processor badly.
ALONE_SECONDS = 0.25
# Prefixes that are kept even while all rows run.
SPARE_PREFIXES = 16
# A prefix is used up by who goes on from it, not copied, where it loses no more ids: the end of a reply, as text made
# ids again, is often not what it was.
LOST_IDS = 16
# So much of a reply is given room at once.
AHEAD = 256
# Of a prompt's ids that are left to read, the share that another may have to be read before them.
SHORT = 0.25


class Scheduler:
    """Rows join and leave between steps; prompts are read first come, first served, but for far shorter ones."""

    def __init__(
        self,
        slots: Slots,
        *,
        max_rows: int,
        chunk_size: int,
        whole_prompts: bool = False,
        forget: Callable[[Sequence], None] = lambda sequence: None,
        recall: Callable[[Sequence], int] = lambda sequence: 0,
    ) -> None:
        """`forget` is called for who is paused, `recall` for who begins: how many ids are known apart from slots."""
        self.running: list[Sequence] = []
        self.waiting, self.background = deque[Sequence](), deque[Sequence]()
        self.prefilling: Sequence | None = None
        self.prefixes = Prefixes()
        self.pauses = 0
        self._slots, self._forget, self._recall = slots, forget, recall
        self._max_rows = self._rows_now = max_rows
        self._whole_prompts = whole_prompts
        self._first_chunk, self._largest_chunk = chunk_size, LARGEST_CHUNK
        # Of each id of a chunk, beside rows and alone: what is as good as free beside rows costs most alone.
        self._id_seconds: dict[bool, float] = {}
        # Of steps without a chunk, by the power of two of their rows.
        self._decode_seconds: dict[int, float] = {}

    @property
    def busy(self) -> bool:
        return bool(self.running or self.prefilling or self.waiting or self.background)

    @property
    def active(self) -> list[Sequence]:
        """Those that have a slot as their own."""
        return [*self.running, self.prefilling] if self.prefilling else list(self.running)

    def add(self, sequence: Sequence) -> None:
        self._queue(sequence).append(sequence)
        if not sequence.background:
            # The latest first, so that the earliest comes to the queue's front.
            for other in sorted(self.active, key=lambda one: -one.sequence_id):
                if other.background:
                    self.pause(other)

    def pause(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take a sequence out of its slot; it is the next of its kind to be read again, if need be, and go on."""
        self.pauses += 1
        self.remove(sequence, keep=keep)
        self._forget(sequence)
        sequence.rewind()
        self._queue(sequence).appendleft(sequence)

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take a sequence out wherever it is; what was computed of it stays as a prefix if it is to be kept."""
        if sequence.slot is None:
            if sequence in self._queue(sequence):
                self._queue(sequence).remove(sequence)
            return
        slot, sequence.slot = sequence.slot, None
        keep = keep and self._slots.room is not None and sequence.computed > 0
        if sequence is self.prefilling:
            self.prefilling = None
            # No logits have told yet whether its numbers are finite.
            if keep and not (keep := self._slots.sound(slot, sequence.computed)):
                self._slots.scrub(slot)
        else:
            self.running.remove(sequence)
            # Little by little back to what was before memory ran out.
            self._rows_now = min(self._max_rows, self._rows_now + 1)
            self._largest_chunk = min(LARGEST_CHUNK, 2 * self._largest_chunk)
        if not keep:
            self._slots.free(slot)
            return
        self._slots.shrink(slot, sequence.computed)
        for needless in self.prefixes.keep(sequence, slot):
            self._slots.free(needless)

    def schedule(self) -> Step:
        """The next step: a token for each running row, and a chunk when a prompt is at hand."""
        alone = all(row.background for row in self.running)
        queue = self.waiting or (self.background if alone else None)
        if self.prefilling and self._shorter(self.prefilling) is not self.prefilling:
            self.pause(self.prefilling)
        if self.prefilling is None and queue and len(self.running) < self._rows_now:
            first, chosen = queue[0], self._shorter(queue[0])
            if self._admit(chosen):
                self.prefilling = chosen
                queue.remove(chosen)
                first.overtaken += len(chosen.ids) if chosen is not first else 0
        for row in sorted(self.running, key=lambda one: one.sequence_id):
            # Pausing others may come to this one itself.
            while row.slot and row.slot.size < len(row.ids) and not self._slots.grow(row.slot, *self._wanted(row)):
                self._make_room()
        rows = sorted(self.running, key=lambda one: one.place.start)
        if self.prefilling is None or (rows and len(rows).bit_length() not in self._decode_seconds):
            return Step(rows)
        start = self.prefilling.computed
        left = len(self.prefilling.ids) - start
        size = left if self._whole_prompts else self._chunk_size()
        # A little more costs less than one more step.
        end = start + (left if left <= size * 5 // 4 else size)
        return Step(rows, Chunk(self.prefilling, start, self.prefilling.ids[start:end]))

    def _shorter(self, first: Sequence) -> Sequence:
        """Who is read before the rest of a prompt, which so is read in twice its time at most; else that one itself."""
        least = min(self._queue(first), key=lambda one: len(one.ids), default=first)
        short = len(least.ids) <= SHORT * (len(first.ids) - first.computed)
        spare = not self._whole_prompts and len(self.running) + 1 < self._rows_now
        return least if short and spare and first.overtaken + len(least.ids) <= len(first.ids) else first

    def _admit(self, sequence: Sequence) -> bool:
        """Give a sequence a slot, and what is known of its ids already; False where there is no room for it."""
        length, held, room = len(sequence.ids), self.prefixes.held, self._slots.room
        if room is not None and sum(one.place.size for one in self.active) + length > room:
            return False
        holder, shared = self.prefixes.find(sequence, [] if room is None else self.running)
        while (slot := self._inherit(holder, shared, sequence) or self._slots.take(*self._wanted(sequence))) is None:
            if not held:
                return False
            if held == [holder] and len(held[0].ids) > shared:
                # It would have to go: what is shared of it goes on instead.
                held[0].ids = held[0].ids[:shared]
                continue
            self._slots.free(self.prefixes.drop_oldest())
            if not held and isinstance(holder, Prefix):
                holder, shared = None, 0
        while len(held) >= self._max_rows + SPARE_PREFIXES - len(self.active):
            self._slots.free(self.prefixes.drop_oldest())
        if holder is not None and holder.slot is not None and holder.slot is not slot:
            self._slots.copy(holder.slot, slot, shared)
        shared = shared or self._recall(sequence)
        sequence.slot, sequence.computed = slot, shared
        if sequence.cached is None:
            sequence.cached = shared
        return True

    def _inherit(self, holder: Prefix | Sequence | None, shared: int, sequence: Sequence) -> Slot | None:
        """The slot of a prefix that is used up by going on from it."""
        if not isinstance(holder, Prefix) or len(holder.ids) - shared > LOST_IDS:
            return None
        if not self._slots.grow(holder.slot, *self._wanted(sequence)):
            return None
        self.prefixes.held.remove(holder)
        return holder.slot

    @staticmethod
    def _wanted(sequence: Sequence) -> tuple[int, int]:
        """How many positions a sequence must have now, and how many with some of what follows."""
        left = sequence.sampling.max_new_tokens - sequence.generated
        return len(sequence.ids), len(sequence.ids) + min(max(left, 0), AHEAD)

    def _make_room(self) -> None:
        if self.prefixes.held:
            self._slots.free(self.prefixes.drop_oldest())
        else:
            self.pause(max(self.active, key=lambda one: one.sequence_id))

    def shed(self) -> bool:
        """After the device ran out of memory, have less of it in use; False where there is nothing to give up."""
        if self.prefixes.held:
            while self.prefixes.held:
                self._slots.free(self.prefixes.drop_oldest())
            self._slots.trim()
        elif self._largest_chunk > SMALLEST_CHUNK and self.prefilling and not self._whole_prompts:
            self._first_chunk = self._largest_chunk = SMALLEST_CHUNK
        elif len(self.active) > 1:
            self.pause(max(self.active, key=lambda one: one.sequence_id))
            # The paused one would come back at once.
            self._rows_now = len(self.active)
        else:
            return False
        return True

    def advance(self, step: Step) -> None:
        """Account for a step that was computed; a prompt read to its end becomes a row."""
        for row in step.rows:
            row.computed += 1
        if step.chunk is None or step.chunk.sequence is not self.prefilling:
            return
        self.prefilling.computed += len(step.chunk.ids)
        if step.chunk.completes_prompt:
            self.running.append(self.prefilling)
            self.prefilling = None

    def _queue(self, sequence: Sequence) -> deque[Sequence]:
        return self.background if sequence.background else self.waiting

    def _chunk_size(self) -> int:
        """As many ids of a prompt as may be read in the time that is allowed, as measured steps tell."""
        if (each := self._id_seconds.get(bool(self.running))) is None:
            return self._first_chunk
        allowed = ALONE_SECONDS
        if self.running:
            # Where many wait, what the readers lose is gained by as many.
            waiting = 1 + (0 if self.prefilling and self.prefilling.background else len(self.waiting))
            allowed = min(allowed, (STRETCH - 1) * self._decode_seconds[len(self.running).bit_length()] * waiting)
        return min(self._largest_chunk, max(SMALLEST_CHUNK, int(allowed / each)))

    def observe(self, step: Step, seconds: float) -> None:
        """Note how long a step took, to read prompts in chunks that disturb little."""
        rows, read = len(step.rows).bit_length(), 0 if step.chunk is None else len(step.chunk.ids)
        if any(row.drafts for row in step.rows) and rows in self._decode_seconds:
            return
        if not read:
            self._decode_seconds[rows] = _smoothed(self._decode_seconds.get(rows), seconds)
        # The short rest of a prompt tells little of others.
        elif read >= SMALLEST_CHUNK or bool(rows) not in self._id_seconds:
            taken = max(seconds - self._decode_seconds[rows], 0.1 * seconds) if rows else seconds
            self._id_seconds[bool(rows)] = _smoothed(self._id_seconds.get(bool(rows)), taken / read)


def _smoothed(known: float | None, seen: float) -> float:
    """Single steps vary with whatever else the machine does."""
    return seen if known is None else 0.7 * known + 0.3 * seen
