"""Where keys and values live: per layer one arena [slots, kv_heads, length, head_dim], grown on demand within `room`.

A Cache of transformers: each attention layer hands its new keys and values to `update`. Knows not whose they are.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers.cache_utils import Cache

from ..errors import OutOfMemory
from .sequence import Step

LENGTH_STEP = 256


class Arena(Cache):
    """Keys and values of all slots. `room` is the most positions that all slots may have together."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self.room = sys.maxsize
        # Of one position in all layers: known from the first step on.
        self.position_bytes = 0
        self._slots = 0
        self._length = 0
        self._where: tuple[torch.Tensor, torch.Tensor] | None = None

    def limit(self, positions: int, kv_bytes: int | None) -> None:
        """Hold no more than so many positions and bytes, whichever is less."""
        self.room = positions
        if kv_bytes is not None and self.position_bytes:
            self.room = min(positions, kv_bytes // self.position_bytes)

    def begin(self, step: Step, *, device: torch.device) -> None:
        """Make room for a step and note where its tokens go.

        Raises OutOfMemory beyond `room`, torch.OutOfMemoryError where the device has less; nothing is lost then.
        """
        slots = [step.first_slot + i for i in range(len(step.rows))]
        positions = [len(row.ids) - 1 for row in step.rows]
        if step.chunk is not None:
            slots += [step.chunk.slot] * len(step.chunk.ids)
            positions += range(step.chunk.start, step.chunk.start + len(step.chunk.ids))
        self._reserve(max(max(slots) + 1, step.extent[0]), max(max(positions) + 1, step.extent[1]))
        if step.chunk is not None and step.chunk.source is not None:
            self.move(step.chunk.source, step.chunk.slot, step.chunk.start)
        where = torch.tensor([slots, positions]).to(device, non_blocking=True)
        self._where = where[0], where[1]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [1, kv_heads, T, head_dim] keys and values of one layer; returns the layer's whole arenas."""
        if self._where is None:
            raise RuntimeError("update() without begin()")
        if layer_idx not in self.keys:
            for store, states in ((self.keys, key_states), (self.values, value_states)):
                store[layer_idx] = states.new_zeros(self._slots, states.shape[1], self._length, states.shape[3])
            self.position_bytes = sum(one[0, :, 0].nbytes for one in self._all())
        # One indexed write for rows and chunk; reading, which costs far more, goes by views.
        slots, positions = self._where
        self.keys[layer_idx][slots, :, positions] = key_states[0].transpose(0, 1)
        self.values[layer_idx][slots, :, positions] = value_states[0].transpose(0, 1)
        return self.keys[layer_idx], self.values[layer_idx]

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of one slot over those of another."""
        for arena in self._all():
            arena[target, :, :length] = arena[source, :, :length]

    @torch.inference_mode()
    def swap(self, one: int, other: int, length: int) -> None:
        for arena in self._all():
            arena[[one, other], :, :length] = arena[[other, one], :, :length]

    @torch.inference_mode()
    def scrub(self, slot: int) -> None:
        """Zero one slot: a number that is not finite reaches even those who mask it, for 0 x NaN is NaN."""
        for arena in self._all():
            if slot < arena.shape[0]:
                arena[slot] = 0

    @torch.inference_mode()
    def sound(self, slot: int, length: int) -> bool:
        """Whether all numbers at the first positions of a slot are finite."""
        return all(bool(arena[slot, :, :length].isfinite().all()) for arena in self._all())

    @torch.inference_mode()
    def trim(self, slots: int, length: int) -> None:
        """Give memory back where less than half of it is needed for so many slots of such a length."""
        slots, length = _rounded(slots, length)
        if slots * length == 0:
            self.keys.clear()
            self.values.clear()
            self._slots = self._length = 0
        elif slots * length <= self._slots * self._length // 2:
            self._resize(slots, length)

    def _all(self) -> list[torch.Tensor]:
        return [*self.keys.values(), *self.values.values()]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: positions are always given, so no layer may count from here."""
        return 0

    def _reserve(self, slots: int, length: int) -> None:
        if slots <= self._slots and length <= self._length:
            return
        if slots * length > self.room:
            raise OutOfMemory(f"{slots * length} tokens need memory, which holds {self.room} beside the model.")
        grown = _rounded(max(slots, self._slots), max(length, self._length))
        # Near the limit nothing is taken in advance, and what is not needed any more is given back.
        self._resize(
            *(grown if grown[0] * grown[1] <= self.room else (slots, min(_rounded(0, length)[1], self.room // slots)))
        )

    def _resize(self, slots: int, length: int) -> None:
        """Layer by layer, so that old and new stand side by side for one layer only."""
        wanted = slots, length
        # Where memory runs out in the middle, so much is there in every layer.
        self._slots, self._length = min(slots, self._slots), min(length, self._length)
        for store in (self.keys, self.values):
            for layer, old in store.items():
                if (old.shape[0], old.shape[2]) != wanted:
                    store[layer] = old.new_zeros(slots, old.shape[1], length, old.shape[3])
                    kept = slice(0, self._slots), slice(None), slice(0, self._length)
                    store[layer][kept] = old[kept]
        self._slots, self._length = wanted


def _rounded(slots: int, length: int) -> tuple[int, int]:
    """As much as is taken at once, so that growing by ones copies rarely."""
    return (1 << (slots - 1).bit_length() if slots else 0), -(-length // LENGTH_STEP) * LENGTH_STEP
