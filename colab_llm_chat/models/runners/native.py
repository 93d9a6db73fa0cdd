"""Attention of a flattened step by the kernel for single queries: fp32 on the CPU.

One call reads all rows and their drafts, each as far as it goes. A prompt's chunk goes as without.
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


# Of a chunk: the kernel takes one query after the other, and for more of them PyTorch's attention is the faster one by
# more than what is spared between the layers.
MOST_SCORES = 2**14


class NativeAttention(FlatAttention):
    """What the kernel lacks, soft caps and arenas with gaps, goes as without it."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self._kernels = kernels
        self.told: dict[int, Told] = {}
        self._asked = 0
        # Of the rows, and of the chunk too.
        self._spans = self.spans = torch.empty(0, 4, dtype=torch.int64)
        # Of the chunk's ids by what they see.
        self.chunk_scores = 0

    def begin(self, step: Step, *, device: torch.device) -> None:
        super().begin(step, device=device)
        spans: list[list[int]] = []
        self._asked = 0
        for row in step.rows:
            queries, start = 1 + len(row.drafts), row.place.start
            spans.append([self._asked, queries, start, start + len(row.ids)])
            self._asked += queries
        self._spans = torch.tensor(spans, dtype=torch.int64)
        self.chunk_scores = 0
        if (chunk := step.chunk) is not None:
            # Its ids are queries like others.
            self.chunk_scores = len(chunk.ids) * chunk.end
            start = chunk.sequence.place.start
            spans.append([self._asked, len(chunk.ids), start, start + chunk.start + 1])
        self.spans = torch.tensor(spans, dtype=torch.int64)

    def __call__(self, module: torch.nn.Module, query: torch.Tensor, *given: Any, **how: Any) -> Any:
        scale = scale_of(how.get("scaling"), query.shape[-1])
        plain = how.get("softcap") is None and how.get("s_aux") is None
        self.told[getattr(module, "layer_idx", -1)] = Told(scale, how.get("sliding_window"), plain)
        return super().__call__(module, query, *given, **how)

    def read_rows(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, heads: Heads, window: int | None
    ) -> torch.Tensor:
        """query [1, heads, T, head_dim], arenas [positions, kv_heads, head_dim] -> [1, rows' T, heads, head_dim]."""
        if heads.softcap is not None or not _readable(query, keys, values):
            return super().read_rows(query, keys, values, heads=heads, window=window)
        scale = scale_of(heads.scaling, query.shape[-1])
        sinks = None if heads.sinks is None else heads.sinks.float().contiguous()
        asked = query[0, :, : self._asked]
        return self._kernels.attend(asked, (keys, values), self._spans, scale=scale, window=window, sinks=sinks)[None]


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
        many = inputs.shape[1] > self._decoder.most or self.attention.chunk_scores > MOST_SCORES
        if not self._told or many or self.arena.where is None:
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
