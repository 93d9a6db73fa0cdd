"""The runner for models the batched one does not take: every sequence keeps the model's own cache.

State-space models, hybrids and custom code. Rows take turns inside a step, so replies still run side by side.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import torch

from ...engine.sequence import Sequence, Slot, Step
from .flat import embedded_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE_NAMES = ("past_key_values", "cache_params", "state")


class NoSlots:
    """Caches belong to sequences here, and few of these models could go on from a part of one."""

    room = None
    position_bytes = 0

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
        self.arena = NoSlots()
        self._model = model
        self._known: dict[int, tuple[int, Any, torch.Tensor]] = {}
        self._takes = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in CACHE_NAMES if cached and name in self._takes), None)

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        rows = [*step.rows, *([step.chunk.sequence] if step.chunk else [])]
        return torch.stack([self._next_logits(row) for row in rows])

    def forget(self, sequence: Sequence) -> None:
        self._known.pop(sequence.sequence_id, None)

    def _next_logits(self, row: Sequence) -> torch.Tensor:
        """[vocab] after the row's last id; kept, so that the same step can be run twice."""
        length, cache, known = self._known.get(row.sequence_id, (0, None, torch.empty(0)))
        if length == len(row.ids):
            return known
        # The model changes its cache in place: after a failure in the middle it is not to be used again.
        self.forget(row)
        start = length if cache is not None else 0
        output = self._model(**self._inputs(row.ids, start, cache))
        logits: torch.Tensor = output.logits[0, -1]
        cache = getattr(output, self._cache_name, None) if self._cache_name else None
        self._known[row.sequence_id] = len(row.ids), cache, logits
        return logits

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
