"""Prefixes whose keys and values stay in the arena for whoever goes on from them: which there are, and what goes first.

An entry is for its kin only: nobody is to learn from the time to a first token what others typed. Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from .sequence import Sequence, Slot

# To copy the page that they are in takes longer than to compute them.
TOO_FEW = 6


@dataclass(slots=True, eq=False)
class Prefix:
    """The ids at the first positions of a slot; `used` grows with each use of any entry."""

    ids: list[int]
    kin: tuple[str, bool]
    slot: Slot
    used: int


class Prefixes:
    """`held` are the entries."""

    def __init__(self) -> None:
        self.held: list[Prefix] = []
        self._clock = count()

    def keep(self, sequence: Sequence, slot: Slot) -> list[Slot]:
        """Remember what was computed of a sequence; returns the slots of those that say no more than another one."""
        ids, kin = sequence.ids[: sequence.computed], sequence.kin
        needless: list[Slot] = []
        for entry in list(self.held):
            if entry.kin == kin and (shared := common(entry.ids, ids)) == min(len(entry.ids), len(ids)):
                if shared == len(ids):
                    entry.used = next(self._clock)
                    return [*needless, slot]
                self.held.remove(entry)
                needless.append(entry.slot)
        self.held.append(Prefix(ids, kin, slot, next(self._clock)))
        return needless

    def find(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[Prefix | Sequence | None, int]:
        """Who shares the most first ids, and how many. The last id is left to compute: its logits are drawn from."""
        ids, kin = sequence.ids[:-1], sequence.kin
        holder: Prefix | Sequence | None = None
        most = TOO_FEW
        candidates: list[Prefix | Sequence] = [*self.held, *running]
        for one in candidates:
            known = one.ids[: one.computed] if isinstance(one, Sequence) else one.ids
            if one.kin == kin and (shared := common(known, ids)) > most:
                holder, most = one, shared
        if isinstance(holder, Prefix):
            holder.used = next(self._clock)
        return holder, most if holder else 0

    def drop_oldest(self) -> Slot:
        oldest = min(self.held, key=lambda entry: entry.used)
        self.held.remove(oldest)
        return oldest.slot

    def distrust(self, sequence: Sequence) -> list[Slot]:
        """Forget all that a failed sequence may have gone on from; returns the slots."""
        doubtful = [one for one in self.held if one.kin == sequence.kin and one.ids[:1] == sequence.ids[:1]]
        self.held = [entry for entry in self.held if entry not in doubtful]
        return [entry.slot for entry in doubtful]


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
