"""Where keys and values live: per layer one arena [positions, kv_heads, head_dim], grown on demand within `room`.

A Cache of transformers: each attention layer hands its new keys and values to `update`. A slot is a run of positions,
in whole pages, of one sequence or prefix. Knows not whose they are.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from ...engine.runner import ran_out
from ...engine.sequence import Slot, Step

# What the paged kernels of FlashAttention 2 ask for.
PAGE = 256
KEPT_BYTES = 2**28


@dataclass(slots=True)
class _Move:
    """Numbers of all `sources` (positions) go to `targets` at once, then zeros to `blank`; `done` arenas have them."""

    sources: torch.Tensor
    targets: torch.Tensor
    blank: torch.Tensor
    done: int = 0


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
        self.kept_apart = 0
        self._page = page
        self._positions = 0
        self.taken: list[Slot] = []
        # Of pages that do not hold yet what they should: the page where that is, None for zeros.
        self._origins: dict[int, int | None] = {}
        # What was begun when memory ran out.
        self._move: _Move | None = None
        # Of the step's tokens: the positions in the arena.
        self.where: torch.Tensor | None = None
        # Where the last of their slots ends.
        self._read = 0

    def limit(self, rows: int, length: int, kv_bytes: int | None) -> None:
        """Begin anew without slots, to hold no more than so many rows of such a length, nor than so many bytes; yet
        always a page.
        """
        self.taken.clear()
        # Numbers that are not finite may be left.
        self._origins = dict.fromkeys(range(self._positions // self._page))
        self._move = None
        self.room = rows * self._sizes(length, length)[1]
        if kv_bytes is not None and self.position_bytes:
            self.room = min(self.room, max(kv_bytes // self.position_bytes // self._page, 1) * self._page)

    @property
    def _kept(self) -> int:
        """Positions that stay, for to take memory anew holds up the first replies of each burst."""
        if not self.position_bytes or (self.room == sys.maxsize and not self.fixed):
            return 0
        return KEPT_BYTES // self.position_bytes // self._page * self._page

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
                    self._move_to(start, slot)
                    slot.size = size
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
        first, to, count = source.start // self._page, target.start // self._page, -(-length // self._page)
        self._origins.update({to + i: self._origins.get(first + i, first + i) for i in range(count)})

    def begin(self, step: Step, *, device: torch.device) -> None:
        """Make memory for all slots and note where the step's tokens go.

        Raises torch.OutOfMemoryError where the device has less than `room`; nothing is lost then.
        """
        where = [query.row.place.start + query.length - 1 for query in step.queries]
        self._read = max((row.place.end for row in step.rows), default=0)
        if step.chunk is not None:
            self._read = max(self._read, step.chunk.sequence.place.end)
            first = step.chunk.sequence.place.start + step.chunk.start
            where += range(first, first + len(step.chunk.ids))
        if self._end > self._positions:
            self._enlarge()
        self._settle()
        self.where = torch.tensor(where).to(device, non_blocking=True)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [1, kv_heads, T, head_dim] keys and values of one layer; returns its arenas, as of one long row,
        unless `fixed` no longer than the step reads.
        """
        if self.where is None:
            raise RuntimeError("update() without begin()")
        if layer_idx not in self.values:
            for store, states in ((self.keys, key_states), (self.values, value_states)):
                store[layer_idx] = self._zeros(states[0].transpose(0, 1), self._positions)
            self.position_bytes = sum(one[0].nbytes for one in self._all())
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys.index_copy_(0, self.where, key_states[0].transpose(0, 1))
        values.index_copy_(0, self.where, value_states[0].transpose(0, 1))
        # Layers that expand what is cached (latent attention) go through all that they get.
        end = self._positions if self.fixed else self._read
        return keys[:end].transpose(0, 1)[None], values[:end].transpose(0, 1)[None]

    def scrub(self, slot: Slot) -> None:
        """Have zeros in a slot, whoever takes it: what is not finite reaches even those who mask it, for 0 x NaN is
        NaN.
        """
        self._origins.update(dict.fromkeys(range(slot.start // self._page, slot.end // self._page)))

    @torch.inference_mode()
    def sound(self, slot: Slot, length: int) -> bool:
        """Whether all numbers at the first positions of a slot are finite; False where there is no memory to tell."""
        if self._end > self._positions:
            return False
        try:
            self._settle()
            return all(bool(arena[slot.start : slot.start + length].isfinite().all()) for arena in self._all())
        except (RuntimeError, MemoryError):
            return False

    @torch.inference_mode()
    def trim(self) -> None:
        """Give memory back where less than half of it is needed, unless it is little."""
        if not self.fixed and max(2 * self.used, self._kept + 1) <= self._positions:
            self._compact()
            # The smaller copy may be too much for now.
            with suppress(RuntimeError, MemoryError):
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
                self._move_to(end, slot)
            end = slot.end

    def _sort(self) -> None:
        self.taken.sort(key=lambda slot: slot.start)

    def _move_to(self, start: int, slot: Slot) -> None:
        """Let a slot begin elsewhere. Zeros stay behind: nobody knows yet whether all its numbers are finite."""
        old, count = slot.start // self._page, slot.size // self._page
        origins = [self._origins.get(page, page) for page in range(old, old + count)]
        self.scrub(slot)
        self._origins.update(enumerate(origins, start // self._page))
        slot.start = start

    @torch.inference_mode()
    def _settle(self) -> None:
        """Have in all pages what should be there. Where memory runs out, the next call goes on."""
        arenas = self._all()
        for _ in range(2):
            if (move := self._move) is not None:
                while move.done < len(arenas):
                    arena = arenas[move.done]
                    arena.index_copy_(0, move.targets, arena.index_select(0, move.sources))
                    arena.index_fill_(0, move.blank, 0)
                    move.done += 1
                self._move = None
            if self._origins and arenas:
                self._move = self._planned()
                self._origins.clear()

    def _planned(self) -> _Move:
        """The move after which all pages are what they should be. Beyond the arena nothing was written yet, and what
        should be there belongs to nobody any more.
        """
        there = range(self._positions // self._page)
        pages = [(page, origin) for page, origin in self._origins.items() if page in there]
        moved = {page: origin for page, origin in pages if origin is not None and origin in there}
        blank = [page for page, _ in pages if page not in moved]
        return _Move(self._places(moved.values()), self._places(moved), self._places(blank))

    def _places(self, pages: Iterable[int]) -> torch.Tensor:
        """The positions of pages."""
        first = torch.tensor(list(pages), dtype=torch.long) * self._page
        return (first[:, None] + torch.arange(self._page)).flatten().to(self._all()[0].device)

    def _enlarge(self) -> None:
        """Have memory for all slots; where the device has too little for all the room at once, have less room."""
        # Twice as much, so that growing by little copies rarely; near the limit nothing in advance.
        ahead = min(self.room, max(2 * self._positions, self._kept))
        whole = self.fixed and self.room < sys.maxsize
        size = max(self._end, self.room if whole else ahead)
        while True:
            try:
                self._resize(size)
                break
            except (RuntimeError, MemoryError) as error:
                if not (whole and size > self._end and ran_out(error)):
                    raise
            # The layers that have got it already leave none for the others.
            self._resize(self._positions)
            size = max(self._end, size // 2 // self._page * self._page)
        self.room = size if whole else self.room

    @torch.inference_mode()
    def _resize(self, positions: int) -> None:
        """Layer by layer, so that old and new stand side by side for one layer only."""
        # Where memory runs out in the middle, so much is there in every layer.
        kept, self._positions = min(positions, self._positions), min(positions, self._positions)
        for store in (self.keys, self.values):
            for layer, old in store.items():
                if old.shape[0] < positions and positions * _each(old) <= old.untyped_storage().nbytes():
                    store[layer] = old.as_strided((positions, *old.shape[1:]), old.stride())
                elif old.shape[0] != positions:
                    store[layer] = self._zeros(old, positions)
                    # Beyond is space that was never written, and need not take memory now.
                    store[layer][: min(kept, self._end)] = old[: min(kept, self._end)]
        self._positions = positions

    def _zeros(self, like: torch.Tensor, positions: int) -> torch.Tensor:
        """[positions, kv_heads, head_dim]. On the CPU there is space for all the room behind it, which takes memory
        only as it is written: to grow by copying held up all replies.
        """
        if like.device.type == "cpu" and not self.fixed and positions <= self.room < sys.maxsize:
            with suppress(OSError, OverflowError):
                space = torch.frombuffer(_space(self.room * _each(like)), dtype=like.dtype)
                return space.view(self.room, *like.shape[1:])[:positions]
        return like.new_zeros(positions, *like.shape[1:])


def _each(arena: torch.Tensor) -> int:
    """Bytes of one position."""
    return arena.shape[1:].numel() * arena.itemsize


def _space(nbytes: int) -> mmap.mmap:
    """Private memory that is zero and not there yet. Raises OSError where the system does not promise so much."""
    if sys.platform == "win32":
        raise OSError("memory of a file mapping counts at once")
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
