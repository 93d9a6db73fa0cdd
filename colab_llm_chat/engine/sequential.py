"""The runner for models the batched one does not take: every sequence keeps the model's own cache.

State-space models, hybrids and custom code. Rows take turns inside a step, so replies still run side by side.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from .sequence import Sequence, Step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE_NAMES = ("past_key_values", "cache_params", "state")


class SequentialRunner:
    """One forward a sequence and step, prompts read whole (not every model can resume inside a prompt)."""

    whole_prompts = True
    chunk_size = 1

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._caches: dict[int, tuple[int, Any, torch.Tensor]] = {}
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in CACHE_NAMES if name in parameters), None)
        self._extra = {"use_cache": True} if "use_cache" in parameters else {}

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        rows = [*step.rows, *([step.chunk.sequence] if step.chunk else [])]
        return torch.stack([self._next_logits(row) for row in rows])

    def move(self, source: int, target: int) -> None:
        """Nothing to do: caches belong to sequences, not to slots."""

    def forget(self, sequence: Sequence) -> None:
        self._caches.pop(sequence.sequence_id, None)

    def idle(self) -> None:
        self._caches.clear()

    def _next_logits(self, row: Sequence) -> torch.Tensor:
        """[vocab] after the row's last id; kept, so that the same step can be run twice."""
        length, cache, known = self._caches.get(row.sequence_id, (0, None, torch.empty(0)))
        if length == len(row.ids):
            return known
        fresh = row.ids if cache is None else row.ids[length:]
        state = {} if cache is None or self._cache_name is None else {self._cache_name: cache}
        inputs = torch.tensor([fresh], device=self._model.device)
        output = self._model(input_ids=inputs, **state, **self._extra)
        logits: torch.Tensor = output.logits[0, -1]
        cache = getattr(output, self._cache_name, None) if self._cache_name else None
        self._caches[row.sequence_id] = len(row.ids), cache, logits
        return logits
