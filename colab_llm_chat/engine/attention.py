"""The attention of a flattened step, registered through transformers' interface.

It writes no cache (the arena did) and gets no mask (none is registered under its name, so transformers
makes none): it masks by itself, layer by layer, and so honours windows, soft caps and sinks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AttentionInterface

from .sequence import Step


class FlatAttention:
    """Attention of one runner. `begin` sets the step; transformers then calls it once a layer.

    `windows` remembers the sliding window that each layer handed over.
    """

    def __init__(self) -> None:
        self.name = f"flat_{id(self):x}"
        self.windows: dict[int, int | None] = {}
        self._step = Step([])
        self._masks: dict[tuple[str, int | None], torch.Tensor] = {}
        AttentionInterface.register(self.name, self)

    def begin(self, step: Step) -> None:
        self._step = step
        self._masks.clear()

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """query [1, heads, T, head_dim], key and value a layer's arenas -> [1, T, heads, head_dim]."""
        if attention_mask is not None:
            raise ValueError("this model hands a mask of its own to its attention")
        self.windows[getattr(module, "layer_idx", -1)] = sliding_window
        step, rows, outputs = self._step, len(self._step.rows), []
        groups = query.shape[1] // key.shape[1]
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        sinks = None if s_aux is None else s_aux.reshape(1, key.shape[1], groups, 1)

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            # Heads that share keys become further queries: nothing is repeated. [b, kv, groups * n, dim]
            b, _, n, dim = q.shape
            q = q.reshape(b, key.shape[1], groups * n, dim)
            if mask is not None and n > 1:
                mask = mask.repeat(1, 1, groups, 1)
            if softcap is None and sinks is None:
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
            else:
                out = explicit(q, k, v, mask, scaling=scaling, softcap=softcap, sinks=_per_query(sinks, n))
            return out.reshape(b, -1, n, v.shape[-1])

        # Rows read a view of the first slots, the chunk a view of its own: no keys are gathered or copied.
        if rows:
            first, longest = step.first_slot, max(len(row.ids) for row in step.rows)
            # One row alone needs no mask: what it may see is a slice.
            begin = max(0, longest - sliding_window) if rows == 1 and sliding_window else 0
            where = slice(first, first + rows), slice(None), slice(begin, longest)
            mask = None if rows == 1 else self._row_mask(sliding_window, longest, query.device)
            out = attend(query[0, :, :rows].transpose(0, 1).unsqueeze(2), key[where], value[where], mask)
            outputs.append(out.reshape(1, rows, query.shape[1], -1))
        if step.chunk is not None:
            where = slice(step.chunk.slot, step.chunk.slot + 1), slice(None), slice(0, self._chunk_end)
            mask = self._chunk_mask(sliding_window, query.device)
            outputs.append(attend(query[:, :, rows:], key[where], value[where], mask).transpose(1, 2))
        return torch.cat(outputs, 1).contiguous(), None

    @property
    def _chunk_end(self) -> int:
        chunk = self._step.chunk
        return 0 if chunk is None else chunk.start + len(chunk.ids)

    def _row_mask(self, window: int | None, longest: int, device: torch.device) -> torch.Tensor:
        """[rows, 1, 1, longest]: True where a row may look."""
        if ("rows", window) not in self._masks:
            last = torch.tensor([len(row.ids) - 1 for row in self._step.rows], device=device)
            self._masks["rows", window] = visible(last[:, None], longest, window)[:, None, None]
        return self._masks["rows", window]

    def _chunk_mask(self, window: int | None, device: torch.device) -> torch.Tensor:
        """[1, 1, n, chunk end]: True where a token of the chunk may look."""
        chunk = self._step.chunk
        if chunk is not None and ("chunk", window) not in self._masks:
            last = torch.arange(chunk.start, self._chunk_end, device=device)
            self._masks["chunk", window] = visible(last[:, None], self._chunk_end, window)[None, None]
        return self._masks["chunk", window]


def visible(last: torch.Tensor, length: int, window: int | None) -> torch.Tensor:
    """last [n, 1], the own position of each query -> [n, length], True from `last - window + 1` to `last`."""
    positions = torch.arange(length, device=last.device)
    visible = positions <= last
    return visible if not window else visible & (positions > last - window)


def _per_query(sinks: torch.Tensor | None, n: int) -> torch.Tensor | None:
    """[1, kv, groups, 1] -> [1, kv, groups * n, 1], in the order of `attend`'s queries."""
    return None if sinks is None else sinks.repeat_interleave(n, dim=2)


def explicit(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention with a soft cap on its scores (Gemma 2) or a sink logit per head (gpt-oss)."""
    scores = (q @ k.transpose(2, 3)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).expand(scores.shape[0], -1, -1, 1)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return (weights if sinks is None else weights[..., :-1]) @ v
