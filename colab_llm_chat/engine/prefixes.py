"""Prefixes whose keys and values lie in the arena for whoever goes on from them: what lies where, and what goes first.

An entry is for its kin only: its owner, so that nobody learns from the time to the first token what someone else
typed. Knows no tensors and no rows' order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from .sequence import Sequence


@dataclass(slots=True)
class Prefix:
    """The ids at the first positions of a slot; `used` grows with each use of any entry."""

    ids: list[int]
    kin: tuple[str, bool]
    used: int


class Prefixes:
    """`held` are the entries by slot."""

    def __init__(self) -> None:
        self.held: dict[int, Prefix] = {}
        self._clock = count()

    @property
    def longest(self) -> int:
        return max((len(entry.ids) for entry in self.held.values()), default=0)

    def keep(self, slot: int, sequence: Sequence) -> None:
        """Remember what was computed of a sequence; entries that say no more than another one are forgotten."""
        ids, kin = sequence.ids[: sequence.computed], sequence.kin
        for other, entry in list(self.held.items()):
            if entry.kin == kin and (shared := common(entry.ids, ids)) == min(len(entry.ids), len(ids)):
                if shared == len(ids):
                    entry.used = next(self._clock)
                    return
                del self.held[other]
        self.held[slot] = Prefix(ids, kin, next(self._clock))

    def find(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[int, int]:
        """The slot that shares the most first ids, and how many; rows lie in slots 0, 1, … At least the last id is
        left to compute, for something must be drawn from its logits.
        """
        ids, kin = sequence.ids[:-1], sequence.kin
        shared = {slot: common(entry.ids, ids) for slot, entry in self.held.items() if entry.kin == kin}
        for slot, row in enumerate(running):
            if row.kin == kin:
                shared[slot] = common(row.ids[: row.computed], ids)
        slot = max(shared, key=shared.__getitem__, default=0)
        if slot in self.held and shared.get(slot):
            self.held[slot].used = next(self._clock)
        return slot, shared.get(slot, 0)

    def drop_oldest(self) -> None:
        del self.held[min(self.held, key=lambda slot: self.held[slot].used)]

    def distrust(self, sequence: Sequence) -> list[int]:
        """Forget all that a failed sequence may have gone on from; returns the slots."""
        slots = [slot for slot, entry in self.held.items() if entry.ids[:1] == sequence.ids[:1]]
        for slot in slots:
            del self.held[slot]
        return slots


def common(one: list[int], other: list[int]) -> int:
    """How many first ids are the same; by halves, for comparing slices is far quicker than comparing ids."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
