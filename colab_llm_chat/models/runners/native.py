"""Attention of a flattened step by a kernel: fp32 on the CPU.

One call reads all rows, their drafts and the chunk, each as far as it goes.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any

import torch

from ...engine.sequence import Chunk, Sequence, Step
from ...settings import SamplingParams
from ..native.decoder import Decoder, Told
from ..native.kernels import Kernels, load_kernels
from .attention import FlatAttention, Heads, scale_of
from .flat import ByRow, FlatRunner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NativeAttention(FlatAttention):
    """What the kernel lacks, soft caps and arenas with gaps, goes as without it."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self._kernels = kernels
        self.told: dict[int, Told] = {}
        # Of the rows and the chunk, whose ids are queries like others.
        self.spans = torch.empty(0, 4, dtype=torch.int64)

    def begin(self, step: Step, *, device: torch.device) -> None:
        super().begin(step, device=device)
        spans: list[list[int]] = []
        asked = 0
        for row in step.rows:
            queries, start = 1 + len(row.drafts), row.place.start
            spans.append([asked, queries, start, start + len(row.ids)])
            asked += queries
        if (chunk := step.chunk) is not None:
            start = chunk.sequence.place.start
            spans.append([asked, len(chunk.ids), start, start + chunk.start + 1])
        self.spans = torch.tensor(spans, dtype=torch.int64)

    def __call__(self, module: torch.nn.Module, query: torch.Tensor, *given: Any, **how: Any) -> Any:
        scale = scale_of(how.get("scaling"), query.shape[-1])
        plain = how.get("softcap") is None and how.get("s_aux") is None
        self.told[getattr(module, "layer_idx", -1)] = Told(scale, how.get("sliding_window"), plain)
        return super().__call__(module, query, *given, **how)

    def read(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, heads: Heads, window: int | None
    ) -> torch.Tensor:
        """query [1, heads, T, head_dim], arenas [positions, kv_heads, head_dim] -> [1, T, heads, head_dim]."""
        if heads.softcap is not None or not _readable(query, keys, values):
            return super().read(query, keys, values, heads=heads, window=window)
        scale = scale_of(heads.scaling, query.shape[-1])
        sinks = None if heads.sinks is None else heads.sinks.float().contiguous()
        return self._kernels.attend(query[0], (keys, values), self.spans, scale=scale, window=window, sinks=sinks)[None]


class NativeRunner(FlatRunner):
    """The batched runner with the kernel's attention. Raises RuntimeError where there are no kernels."""

    def __init__(self, model: PreTrainedModel, *, rotary: SequenceOf[ByRow] = ()) -> None:
        if (kernels := load_kernels()) is None:
            raise RuntimeError("there are no kernels for this processor")
        self.attention: NativeAttention
        super().__init__(model, NativeAttention(kernels), rotary=rotary)
        self.kernels = kernels


class DecoderRunner(NativeRunner):
    """Small steps go through all layers in one call; larger ones, and the first, as the model itself does it.

    Raises TypeError for a model that is not built as the kernel computes.
    """

    def __init__(self, model: PreTrainedModel, *, rotary: SequenceOf[ByRow] = ()) -> None:
        super().__init__(model, rotary=rotary)
        self._decoder = Decoder(model, self.kernels)
        self._told = False

    def model_changed(self) -> None:
        self._decoder, self._told = Decoder(self._model, self.kernels), False

    @torch.inference_mode()
    def far_logits(self, ids: list[int], positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of ids at any positions, by the kernel and layer by layer: some models count them elsewhere too."""
        row = Sequence(0, ids, SamplingParams())
        row.slot = self.arena.take(len(ids), len(ids))
        step = Step([], Chunk(row, 0, ids))
        self.arena.begin(step, device=self._model.device)
        self.attention.begin(step, device=self._model.device)
        for one in self.rotary:
            one.begin(step)
        inputs = torch.tensor([ids, positions])
        found = self.compute(inputs), super().compute(inputs)
        self.arena.free(row.place)
        return found

    def compute(self, inputs: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        if not self._told or inputs.shape[1] > self._decoder.most or self.arena.where is None:
            logits = super().compute(inputs, kept)
            if not self._told:
                self._decoder.tell(self.attention.told)
                self._told = True
            return logits
        arenas = [(self.arena.keys[number], self.arena.values[number]) for number in sorted(self.arena.keys)]
        return self._decoder.logits(inputs, kept, arenas=arenas, where=self.arena.where, spans=self.attention.spans)


def _readable(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> bool:
    alike = all(one.dtype == torch.float32 and one.is_cpu for one in (query, keys, values))
    return alike and query.stride(-1) == 1 and keys.is_contiguous() and values.is_contiguous()
