"""Attention of a flattened step by the kernel for single queries: fp32 on the CPU.

One call reads all rows and their drafts, each as far as it goes. A prompt's chunk goes as without.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

import torch

from ...engine.sequence import Step
from ..native.kernels import Kernels, load_kernels
from .attention import FlatAttention, Heads
from .flat import ByRow, FlatRunner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NativeAttention(FlatAttention):
    """What the kernel lacks, soft caps and arenas with gaps, goes as without it."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self._kernels = kernels
        self._asked = 0
        self._spans = torch.empty(0, 4, dtype=torch.int64)

    def begin(self, step: Step, *, device: torch.device) -> None:
        super().begin(step, device=device)
        spans, self._asked = [], 0
        for row in step.rows:
            queries, start = 1 + len(row.drafts), row.place.start
            spans.append([self._asked, queries, start, start + len(row.ids)])
            self._asked += queries
        self._spans = torch.tensor(spans, dtype=torch.int64)

    def read_rows(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, heads: Heads, window: int | None
    ) -> torch.Tensor:
        """query [1, heads, T, head_dim], arenas [positions, kv_heads, head_dim] -> [1, rows' T, heads, head_dim]."""
        if heads.softcap is not None or not _readable(query, keys, values):
            return super().read_rows(query, keys, values, heads=heads, window=window)
        scale = query.shape[-1] ** -0.5 if heads.scaling is None else heads.scaling
        sinks = None if heads.sinks is None else heads.sinks.float().contiguous()
        asked = query[0, :, : self._asked]
        return self._kernels.attend(asked, (keys, values), self._spans, scale=scale, window=window, sinks=sinks)[None]


class NativeRunner(FlatRunner):
    """The batched runner with the kernel's attention. Raises RuntimeError where there are no kernels."""

    def __init__(self, model: PreTrainedModel, *, rotary: SequenceOf[ByRow] = ()) -> None:
        if (kernels := load_kernels()) is None:
            raise RuntimeError("there are no kernels for this processor")
        super().__init__(model, NativeAttention(kernels), rotary=rotary)


def _readable(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> bool:
    alike = all(one.dtype == torch.float32 and one.is_cpu for one in (query, keys, values))
    return alike and query.stride(-1) == 1 and keys.is_contiguous() and values.is_contiguous()
