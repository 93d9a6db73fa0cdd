"""Where keys and values live: per layer one arena [slots, kv_heads, length, head_dim], grown on demand.

A Cache of transformers: each attention layer hands its new keys and values to `update`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache

from .sequence import Step

LENGTH_STEP = 256


class Arena(Cache):
    """Keys and values of all slots; grown when they run out, given back when nothing runs."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self._slots = 0
        self._length = 0
        self._where: tuple[torch.Tensor, torch.Tensor] | None = None

    def begin(self, step: Step, *, device: torch.device) -> None:
        """Make room for a step and note where its tokens go. Raises torch.OutOfMemoryError; nothing is lost then."""
        slots = [step.first_slot + i for i in range(len(step.rows))]
        positions = [len(row.ids) - 1 for row in step.rows]
        if step.chunk is not None:
            slots += [step.chunk.slot] * len(step.chunk.ids)
            positions += range(step.chunk.start, step.chunk.start + len(step.chunk.ids))
        self._reserve(max(slots) + 1, max(positions) + 1)
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
        # One indexed write for rows and chunk; reading, which costs far more, goes by views.
        slots, positions = self._where
        self.keys[layer_idx][slots, :, positions] = key_states[0].transpose(0, 1)
        self.values[layer_idx][slots, :, positions] = value_states[0].transpose(0, 1)
        return self.keys[layer_idx], self.values[layer_idx]

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        for arena in (*self.keys.values(), *self.values.values()):
            arena[target] = arena[source]

    @torch.inference_mode()
    def scrub(self, slot: int) -> None:
        """Zero one slot: a number that is not finite reaches even those who mask it, for 0 x NaN is NaN."""
        for arena in (*self.keys.values(), *self.values.values()):
            if slot < arena.shape[0]:
                arena[slot] = 0

    def clear(self) -> None:
        """Give the memory back."""
        self.keys.clear()
        self.values.clear()
        self._slots = self._length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: positions are always given, so no layer may count from here."""
        return 0

    def _reserve(self, slots: int, length: int) -> None:
        if slots <= self._slots and length <= self._length:
            return
        slots = max(self._slots, 1 << (slots - 1).bit_length())
        length = max(self._length, -(-length // LENGTH_STEP) * LENGTH_STEP)
        # Layer by layer, so that old and new stand side by side for one layer only; a layer that has grown
        # already is skipped when memory ran out in the middle.
        for store in (self.keys, self.values):
            for layer, old in store.items():
                if old.shape[0] < slots or old.shape[2] < length:
                    store[layer] = old.new_zeros(slots, old.shape[1], length, old.shape[3])
                    store[layer][: old.shape[0], :, : old.shape[2]] = old
        self._slots, self._length = slots, length
