"""The runner for models the batched one does not take: every sequence keeps the model's own cache.

State-space models, hybrids and custom code. Rows take turns inside a step, so replies still run side by side. The
caches of those that ended stay for whoever goes on from their ids; `kin` says whose they may be.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import time
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from ...engine.prefixes import common
from ...engine.runner import ran_out
from ...engine.scheduler import LOST_IDS
from ...engine.sequence import Sequence, Slot, Step
from .flat import embedded_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE_NAMES = ("past_key_values", "cache_params", "state")
# Caches that stay after their sequence ended.
KEPT = 4
# Ends of pieces in which a dozen ids are read, to know a model that takes several at once for a text's beginning: one
# piece longer than convolutions are wide, and a short one last, whose logits depend most on what it goes on from.
WHOLE, ALONE, TOGETHER = (12,), tuple(range(4, 13)), (4, 10, 12)
# Largest difference of logits that rounding explains in fp32, as a share of them.
ROUNDING = 1e-3
# What a model may raise that reads one id at a time from its cache, and no more.
CANNOT_READ_ON = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(slots=True, eq=False)
class Read:
    """The model's cache once it has read these ids; `logits` [vocab] after the last of them, while somebody runs."""

    ids: list[int]
    kin: tuple[str, bool]
    cache: Any
    logits: torch.Tensor | None
    finite: bool = True

    @property
    def divisible(self) -> bool:
        """Whether there is a cache of fewer of its ids in it: of keys and values of all positions, and nothing else."""
        layers = self.cache.layers if type(self.cache) is DynamicCache else []
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    def first(self, length: int, kin: tuple[str, bool]) -> Read:
        """A cache of its first ids, which of a divisible one can go on while this one stays as it is."""
        cache = self.cache
        if length < len(self.ids):
            cache = copy.copy(cache)
            cache.layers = [copy.copy(layer) for layer in cache.layers]
            cache.crop(length - len(self.ids))
        return Read(self.ids[:length], kin, cache, None)


class NoSlots:
    """Caches belong to sequences here, and few of these models could go on from a part of one."""

    room = None
    position_bytes = 0

    def __init__(self, kept: SequenceOf[Read] = ()) -> None:
        """`kept` are the caches of those that ended."""
        self._kept = kept

    @property
    def kept_apart(self) -> int:
        return sum(len(one.ids) for one in self._kept)

    def take(self, *args: int) -> Slot:
        return Slot(0, sys.maxsize)

    def free(self, *args: Any) -> None:
        """Nothing to do."""

    shrink = copy = scrub = trim = limit = free

    def grow(self, *args: Any) -> bool:
        return True

    sound = grow


class SequentialRunner:
    """One forward a sequence and step, prompts read whole (not every model can resume inside a prompt)."""

    whole_prompts = True
    chunk_size = 1
    switch_length = 0

    def __init__(self, model: PreTrainedModel, *, cached: bool = True) -> None:
        """Without `cached` each token reads its whole text again: slow, and right for every model."""
        self.vocab_size = embedded_ids(model)
        self._model = model
        self._known: dict[int, Read] = {}
        # The least recently used first.
        self._kept: list[Read] = []
        self.arena = NoSlots(self._kept)
        # Of each id, by whether it was read with others at once.
        self._id_seconds: dict[bool, float] = {}
        self._takes = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in CACHE_NAMES if cached and name in self._takes), None)
        self._keeps = not _turns_by_length(model)

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        rows = [*step.rows, *([step.chunk.sequence] if step.chunk else [])]
        return torch.stack([self._spared_logits(row) for row in rows])

    def draft(self, *args: Any) -> None:
        """None: few of these caches could forget what was wrong."""

    learn = draft

    @torch.inference_mode()
    def recall(self, sequence: Sequence) -> int:
        """Let a sequence go on from what is kept of its first ids, all but the last at most; returns how many."""
        found, shared = None, 0
        for one in self._kept:
            same = common(one.ids, sequence.ids[:-1]) if one.kin == sequence.kin else 0
            if same > shared and (same == len(one.ids) or one.divisible):
                found, shared = one, same
        if found is None or not self._quicker(shared, len(sequence.ids)):
            return 0
        self._kept.remove(found)
        if len(found.ids) - shared > LOST_IDS:
            self._kept.append(found)
        self._known[sequence.sequence_id] = found.first(shared, sequence.kin)
        return shared

    def forget(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Keep the cache of a sequence for whoever goes on from it, unless its numbers are not finite."""
        read = self._known.pop(sequence.sequence_id, None)
        if read is None or read.cache is None or not (keep and read.finite and self._keeps):
            return
        read.logits = None
        others = [one for one in self._kept if not _says_no_more(one, read)]
        # In place: the arena counts them.
        self._kept[:] = [*others, read][-KEPT:]

    def _spared_logits(self, row: Sequence) -> torch.Tensor:
        """[vocab] after the row's last id. What is kept goes before anybody does without memory."""
        try:
            return self._next_logits(row)
        except (RuntimeError, MemoryError) as error:
            if not (self._kept and ran_out(error)):
                raise
        # Not before the error is gone: its frames hold tensors.
        self._kept.clear()
        return self._next_logits(row)

    def _next_logits(self, row: Sequence) -> torch.Tensor:
        """[vocab] after the row's last id; known for a while, so that the same step can be run twice."""
        read = self._known.get(row.sequence_id)
        if read is not None and read.logits is not None and len(read.ids) == len(row.ids):
            # It is run twice when something failed, which may have been for want of memory.
            self._kept.clear()
            return read.logits
        # The model changes its cache in place: after a failure in the middle it is not to be used again.
        self._known.pop(row.sequence_id, None)
        start, cache = (0, None) if read is None or read.cache is None else (len(read.ids), read.cache)
        if start == 0 and row.cached and not row.generated:
            row.cached = 0
        began = time.perf_counter()
        together = len(row.ids) - start > 1 and (start == 0 or self._reads_on)
        ends = (len(row.ids),) if together else range(start + 1, len(row.ids) + 1)
        logits, cache = self._read(row.ids, ends, start=start, cache=cache)
        finite = bool(logits.amax().isfinite())
        each = (time.perf_counter() - began) / (len(row.ids) - start)
        self._id_seconds[together] = 0.7 * self._id_seconds.get(together, each) + 0.3 * each
        self._known[row.sequence_id] = Read(list(row.ids), row.kin, cache, logits, finite)
        return logits

    def _read(
        self, ids: list[int], ends: Iterable[int], *, start: int = 0, cache: Any = None
    ) -> tuple[torch.Tensor, Any]:
        """Read ids from `start` on in pieces up to each of `ends`; logits [vocab] after the last one, and the cache."""
        logits = torch.empty(0)
        for end in ends:
            output = self._model(**self._inputs(ids[:end], start, cache))
            cache = getattr(output, self._cache_name, None) if self._cache_name else None
            # A copy, for some models make logits of the whole text.
            start, logits = end, output.logits[0, -1].clone()
        return logits, cache

    def _quicker(self, shared: int, length: int) -> bool:
        """Whether going on from the first ids of a text takes less time than reading all of it."""
        if length - shared == 1 or self._reads_on:
            return True
        alone, together = (self._id_seconds.get(kind) for kind in (False, True))
        return alone is not None and together is not None and (length - shared) * alone < length * together

    @functools.cached_property
    def _reads_on(self) -> bool:
        """Whether several ids at once go on from a cache. Some state-space models take them for a text's beginning
        without a word.
        """
        ids = list(range(1, 13))
        try:
            whole, alone, together = (self._read(ids, ends)[0].float() for ends in (WHOLE, ALONE, TOGETHER))
        except CANNOT_READ_ON:
            return False
        # Short formats round by how many ids are read at once.
        allowed = ROUNDING * whole.norm() + 2 * (alone - whole).norm()
        return bool((together - whole).norm() <= allowed)

    def _inputs(self, ids: list[int], start: int, cache: Any) -> dict[str, Any]:
        """Arguments of the model for `ids[start:]`, of those that it takes."""
        device = self._model.device
        offered = {
            "input_ids": torch.tensor([ids[start:]], device=device),
            # Hybrids count positions by their first layer's cache, which need not be one of attention.
            "position_ids": torch.arange(start, len(ids), device=device)[None],
            "use_cache": self._cache_name is not None,
            "logits_to_keep": 1,
        }
        inputs = {name: value for name, value in offered.items() if name in self._takes}
        return inputs if cache is None or self._cache_name is None else {**inputs, self._cache_name: cache}


def _says_no_more(one: Read, other: Read) -> bool:
    """Whether whoever can go on from one can go on from the other."""
    alike = one.kin == other.kin and one.ids == other.ids[: len(one.ids)]
    return alike and (len(one.ids) == len(other.ids) or other.divisible)


def _turns_by_length(model: PreTrainedModel) -> bool:
    """Whether keys depend on how long the text was when they were computed: such rotary factors are longrope's and
    dynamic NTK's.
    """
    kinds = str([getattr(module, "rope_type", "") for module in model.modules()])
    return "longrope" in kinds or "dynamic" in kinds
