"""What the engine asks of whoever computes: logits for a step, and slots for keys and values.

Knows no model: `models.runners` has those that run one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from .sequence import Sequence, Slot, Step


class Slots(Protocol):
    """Where keys and values live.

    `room` is the most positions that all slots may have together; None where nothing is shared, nor kept as a prefix.
    `position_bytes` is what one takes, 0 while that is not known; `kept_apart` are held without a slot, for later.
    """

    @property
    def room(self) -> int | None: ...
    @property
    def position_bytes(self) -> int: ...
    @property
    def kept_apart(self) -> int: ...
    def take(self, least: int, most: int) -> Slot | None: ...
    def grow(self, slot: Slot, least: int, most: int) -> bool: ...
    def shrink(self, slot: Slot, length: int) -> None: ...
    def free(self, slot: Slot) -> None: ...
    def copy(self, source: Slot, target: Slot, length: int) -> None: ...
    def scrub(self, slot: Slot) -> None: ...
    def sound(self, slot: Slot, length: int) -> bool: ...
    def trim(self) -> None: ...
    def limit(self, rows: int, length: int, kv_bytes: int | None) -> None: ...


class Runner(Protocol):
    """What computes a model's steps, for many sequences at once or one by one.

    Texts of more than `switch_length` ids are read in another way from their first id on; 0: there is no such length.
    """

    chunk_size: int
    whole_prompts: bool
    vocab_size: int
    switch_length: int

    @property
    def arena(self) -> Slots: ...

    def draft(self, step: Step) -> None:
        """Set the drafts of the step's rows: ids that may follow, which it then computes as well."""
        ...

    def forward(self, step: Step) -> torch.Tensor:
        """Logits [len(step.sampled), vocab]. Running the same step twice changes nothing."""
        ...

    def learn(self, step: Step, right: Mapping[Sequence, int], seconds: float | None) -> None:
        """How many of each sequence's drafts were right, and how long the step took, unless it failed at first."""
        ...

    def recall(self, sequence: Sequence) -> int:
        """How many first ids of a sequence need not be computed, for what is known of them apart from slots."""
        ...

    def forget(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Hold nothing for a sequence apart from slots, but what may stay of it to be recalled, if it is to `keep`."""
        ...


def ran_out(error: Exception) -> bool:
    """Whether there was no memory left. PyTorch's allocator of the CPU says so in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
