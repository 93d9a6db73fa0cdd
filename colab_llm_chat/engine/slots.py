"""Where keys and values live: per layer one arena [positions, kv_heads, head_dim], grown on demand within `room`.

A Cache of transformers: each attention layer hands its new keys and values to `update`. A slot is a run of positions,
in whole pages, of one sequence or prefix. Knows not whose they are.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from .sequence import Slot, Step

# What the paged kernels of FlashAttention 2 ask for.
PAGE = 256
KEPT_BYTES = 2**28


@dataclass(slots=True, frozen=True)
class _Copy:
    source: int
    target: int
    length: int


class Arena(Cache):
    """Keys and values of all slots. `room` is the most positions that all slots may have together.

    Slots are given and moved at once, the numbers in them follow when the next step begins: only there can memory
    run out.
    """

    def __init__(self, page: int = PAGE) -> None:
        super().__init__(layers=[])
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self.room = sys.maxsize
        # True: all the room is taken at once and kept, for whoever remembers where things lie.
        self.fixed = False
        # Of one position in all layers: known from the first step on.
        self.position_bytes = 0
        self._page = page
        self._positions = 0
        self.taken: list[Slot] = []
        self._copies: list[_Copy] = []
        # Of the step's tokens: the positions in the arena.
        self.where: torch.Tensor | None = None

    def limit(self, rows: int, length: int, kv_bytes: int | None) -> None:
        """Begin anew without slots, to hold no more than so many rows of such a length, nor than so many bytes; yet
        always a page.
        """
        self.taken.clear()
        self._copies.clear()
        self.room = rows * self._sizes(length, length)[1]
        if kv_bytes is not None and self.position_bytes:
            self.room = min(self.room, max(kv_bytes // self.position_bytes // self._page, 1) * self._page)

    @property
    def _kept(self) -> int:
        """Positions that stay, for to take memory anew holds up the first replies of each burst."""
        return KEPT_BYTES // self.position_bytes // self._page * self._page if self.position_bytes else 0

    @property
    def _end(self) -> int:
        return self.taken[-1].end if self.taken else 0

    @property
    def used(self) -> int:
        """Positions of all slots."""
        return sum(slot.size for slot in self.taken)

    def take(self, least: int, most: int) -> Slot | None:
        """A new slot for at least so many positions, for `most` if there is room; None where there is none."""
        for _ in range(2):
            for size in self._sizes(least, most):
                if (start := self._gap(size)) is not None:
                    slot = Slot(start, size)
                    self.taken.append(slot)
                    self._sort()
                    return slot
            if self.room - self.used < size:
                return None
            self._compact()
        return None

    def grow(self, slot: Slot, least: int, most: int) -> bool:
        """Let a slot have at least so many positions, perhaps elsewhere; False where there is no room."""
        if slot.size >= least:
            return True
        for _ in range(2):
            for size in self._sizes(least, most):
                if self._after(slot) >= size - slot.size:
                    slot.size = size
                    return True
                if (start := self._gap(size)) is not None:
                    self._copies.append(_Copy(slot.start, start, slot.size))
                    slot.start, slot.size = start, size
                    self._sort()
                    return True
            self._compact()
        return False

    def shrink(self, slot: Slot, length: int) -> None:
        """Give back what a slot of such a length does not need."""
        slot.size = min(slot.size, self._sizes(length, length)[1])

    def free(self, slot: Slot) -> None:
        self.taken.remove(slot)

    def copy(self, source: Slot, target: Slot, length: int) -> None:
        """Copy the first positions of one slot over those of another."""
        self._copies.append(_Copy(source.start, target.start, length))

    def begin(self, step: Step, *, device: torch.device) -> None:
        """Make memory for all slots and note where the step's tokens go.

        Raises torch.OutOfMemoryError where the device has less than `room`; nothing is lost then.
        """
        where = [row.place.start + len(row.ids) - 1 for row in step.rows]
        if step.chunk is not None:
            first = step.chunk.sequence.place.start + step.chunk.start
            where += range(first, first + len(step.chunk.ids))
        if self._end > self._positions:
            # Twice as much, so that growing by little copies rarely; near the limit nothing in advance.
            ahead = max(2 * self._positions, self._kept)
            whole = self.fixed and self.room < sys.maxsize
            self._resize(max(self._end, self.room if whole else min(self.room, ahead)))
        self._settle()
        self.where = torch.tensor(where).to(device, non_blocking=True)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [1, kv_heads, T, head_dim] keys and values of one layer; returns its arenas, as of one long row."""
        if self.where is None:
            raise RuntimeError("update() without begin()")
        if layer_idx not in self.keys:
            for store, states in ((self.keys, key_states), (self.values, value_states)):
                store[layer_idx] = states.new_zeros(self._positions, states.shape[1], states.shape[3])
            self.position_bytes = sum(one[0].nbytes for one in self._all())
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys.index_copy_(0, self.where, key_states[0].transpose(0, 1))
        values.index_copy_(0, self.where, value_states[0].transpose(0, 1))
        return keys.transpose(0, 1)[None], values.transpose(0, 1)[None]

    @torch.inference_mode()
    def scrub(self, slot: Slot) -> None:
        """Zero a slot: a number that is not finite reaches even those who mask it, for 0 x NaN is NaN."""
        self._settle()
        for arena in self._all():
            arena[slot.start : slot.end] = 0

    @torch.inference_mode()
    def sound(self, slot: Slot, length: int) -> bool:
        """Whether all numbers at the first positions of a slot are finite."""
        return self._settle() and all(
            bool(arena[slot.start : slot.start + length].isfinite().all()) for arena in self._all()
        )

    @torch.inference_mode()
    def trim(self) -> None:
        """Give memory back where less than half of it is needed, unless it is little."""
        if not self.fixed and max(2 * self.used, self._kept + 1) <= self._positions:
            self._compact()
            # The smaller copy may be too much for now.
            with suppress(torch.OutOfMemoryError):
                self._settle()
                self._resize(max(self.used, min(self._kept, self.room)))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: positions are always given, so no layer may count from here."""
        return 0

    def _all(self) -> list[torch.Tensor]:
        return [*self.keys.values(), *self.values.values()]

    def _sizes(self, least: int, most: int) -> tuple[int, int]:
        """Sizes to try: in steps of an eighth to a quarter, so that many slots are alike, then no more than must be."""
        pages = -(-most // self._page)
        step = 1 << max(0, (pages - 1).bit_length() - 3)
        return -(-pages // step) * step * self._page, -(-least // self._page) * self._page

    def _gap(self, size: int) -> int | None:
        """The first free place of a size."""
        end = 0
        for slot in self.taken:
            if slot.start - end >= size:
                return end
            end = slot.end
        return end if end + size <= self.room else None

    def _after(self, slot: Slot) -> int:
        """How many positions are free behind a slot."""
        following = self.taken.index(slot) + 1
        return (self.taken[following].start if following < len(self.taken) else self.room) - slot.end

    def _compact(self) -> None:
        """Leave no gaps between slots."""
        end = 0
        for slot in self.taken:
            if slot.start > end:
                self._copies.append(_Copy(slot.start, end, slot.size))
                slot.start = end
            end = slot.end

    def _sort(self) -> None:
        self.taken.sort(key=lambda slot: slot.start)

    @torch.inference_mode()
    def _settle(self) -> bool:
        """Copy what is to be copied, in the order in which it was decided; False while there is no memory for it."""
        if self._end > self._positions:
            return False
        while self._copies:
            one = self._copies.pop(0)
            for arena in self._all():
                # A clone: a slot may move down by less than its own length.
                moved = arena[one.source : one.source + one.length].clone()
                arena[one.target : one.target + one.length] = moved
        return True

    @torch.inference_mode()
    def _resize(self, positions: int) -> None:
        """Layer by layer, so that old and new stand side by side for one layer only."""
        # Where memory runs out in the middle, so much is there in every layer.
        kept, self._positions = min(positions, self._positions), min(positions, self._positions)
        for store in (self.keys, self.values):
            for layer, old in store.items():
                if old.shape[0] != positions:
                    store[layer] = old.new_zeros(positions, *old.shape[1:])
                    store[layer][:kept] = old[:kept]
        self._positions = positions
