"""The attention of a flattened step, registered through transformers' interface.

It writes no cache (the arena did) and gets no mask (none is registered under its name, so transformers
makes none): it masks by itself, layer by layer, and so honours windows, soft caps and sinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AttentionInterface

from ...engine.sequence import Sequence, Step


@dataclass(slots=True, frozen=True)
class Group:
    """Neighbours in slots of one size, which are read together: `at` is where they stand among the step's tokens.

    `start` and `size` are of the first one's slot, `lengths` how many positions each has at the first of its
    `queries`, all of which follow each other.
    """

    at: slice
    start: int
    size: int
    lengths: list[int]
    queries: int = 1

    @property
    def longest(self) -> int:
        return max(self.lengths) + self.queries - 1

    def view(self, arena: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """[positions, kv_heads, head_dim] -> [rows, kv_heads, last - first, head_dim], without a copy."""
        rows = len(self.lengths)
        part = arena[self.start : self.start + rows * self.size]
        return part.view(rows, self.size, *arena.shape[1:])[:, first:last].transpose(1, 2)


def groups(rows: list[Sequence]) -> list[Group]:
    """The rows of a step, in the order of their slots, as few groups: no short row reads as far as a long one."""
    found: list[Group] = []
    at = 0
    for row in rows:
        slot, last, queries = row.place, found[-1] if found else None, 1 + len(row.drafts)
        lengths, first, start = [len(row.ids)], at, slot.start
        at += queries
        like = last and (slot.size, queries) == (last.size, last.queries)
        if last and like and slot.start == last.start + len(last.lengths) * last.size:
            found.pop()
            lengths, first, start = [*last.lengths, *lengths], last.at.start, last.start
        found.append(Group(slice(first, at), start, slot.size, lengths, queries))
    return found


class FlatAttention:
    """Attention of one runner. `begin` sets the step; transformers then calls it once a layer.

    `windows` remembers the sliding window that each layer handed over.
    """

    def __init__(self) -> None:
        self.name = f"flat_{uuid4().hex}"
        self.windows: dict[int, int | None] = {}
        self._step = Step([])
        self._groups: list[Group] = []
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}
        AttentionInterface.register(self.name, self)

    def begin(self, step: Step, *, device: torch.device) -> None:
        """Which rows are read together in the layers of this step."""
        self._step = step
        self._groups = groups(step.rows)
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
        heads = Heads(key.shape[1], scaling, softcap, s_aux)
        keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
        return self.read(query, keys, values, heads=heads, window=sliding_window), None

    def read(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, heads: Heads, window: int | None
    ) -> torch.Tensor:
        """query [1, heads, T, head_dim], arenas [positions, kv_heads, head_dim] -> [1, T, heads, head_dim]."""
        outputs = []
        if self._groups:
            outputs.append(self.read_rows(query, keys, values, heads=heads, window=window))
        if (chunk := self._step.chunk) is not None:
            whole = Group(slice(0), chunk.sequence.place.start, chunk.end, [chunk.end])
            mask = self._chunk_mask(chunk.start, chunk.end, window, query.device)
            k, v = whole.view(keys, 0, chunk.end), whole.view(values, 0, chunk.end)
            outputs.append(heads.attend(query[:, :, -len(chunk.ids) :], k, v, mask).transpose(1, 2))
        return outputs[0].contiguous() if len(outputs) == 1 else torch.cat(outputs, 1)

    def read_rows(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, heads: Heads, window: int | None
    ) -> torch.Tensor:
        """As `read`, of what the step's rows ask."""
        outputs = []
        for number, group in enumerate(self._groups):
            # What none of them sees any more is left out.
            first = max(0, min(group.lengths) - window) if window else 0
            last = group.longest
            mask = self._mask(number, group, window, query.device)
            # [rows, heads, queries, head_dim]
            asked = query[0, :, group.at].unflatten(1, (-1, group.queries)).transpose(0, 1)
            out = heads.attend(asked, group.view(keys, first, last), group.view(values, first, last), mask)
            outputs.append(out.transpose(1, 2).flatten(0, 1)[None])
        return torch.cat(outputs, 1)

    def _mask(self, number: int, group: Group, window: int | None, device: torch.device) -> torch.Tensor | None:
        """[rows, 1, queries, positions]: True where a query may look; None where all see all that is read."""
        if (number, window) not in self._masks:
            first = max(0, min(group.lengths) - window) if window else 0
            asked = torch.arange(-1, group.queries - 1, device=device)
            last = (torch.tensor(group.lengths, device=device)[:, None] + asked).flatten()[:, None]
            alike = min(group.lengths) == group.longest
            seen = None if alike else visible(last, group.longest, window)[:, first:]
            self._masks[number, window] = None if seen is None else seen.unflatten(0, (-1, 1, group.queries))
        return self._masks[number, window]

    def _chunk_mask(self, start: int, end: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """[1, 1, n, end]: True where a token of the chunk may look."""
        if (-1, window) not in self._masks:
            last = torch.arange(start, end, device=device)
            self._masks[-1, window] = visible(last[:, None], end, window)[None, None]
        return self._masks[-1, window]


@dataclass(slots=True, frozen=True)
class Heads:
    """What one layer's attention does beyond the mask: its scale, a soft cap on scores, a sink logit a head."""

    kv_heads: int
    scaling: float | None
    softcap: float | None
    sinks: torch.Tensor | None

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """q [b, heads, n, dim], k and v [b, kv_heads, length, dim] -> [b, heads, n, dim of v]."""
        b, heads, n, dim = q.shape
        groups = heads // self.kv_heads
        scaling = scale_of(self.scaling, dim)
        # Heads that share keys become further queries: nothing is repeated. [b, kv, groups * n, dim]
        q = q.reshape(b, self.kv_heads, groups * n, dim)
        if mask is not None and n > 1:
            mask = mask.repeat(1, 1, groups, 1)
        if self.softcap is None and self.sinks is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
        else:
            out = self._explicit(q, k, v, mask, scaling=scaling)
        return out.reshape(b, heads, n, v.shape[-1])

    def _explicit(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, *, scaling: float
    ) -> torch.Tensor:
        """Attention with a soft cap on its scores (Gemma 2) or a sink logit per head (gpt-oss)."""
        scores = (q @ k.transpose(2, 3)) * scaling
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        if self.sinks is None:
            return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v
        sinks = self.sinks.reshape(1, self.kv_heads, -1, 1).to(scores.dtype)
        # In the order of the queries: each of a head's n has the same.
        sinks = sinks.repeat_interleave(scores.shape[2] // sinks.shape[2], dim=2).expand(scores.shape[0], -1, -1, 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1, dtype=torch.float32).to(q.dtype)[..., :-1] @ v


def scale_of(scaling: float | None, dim: int) -> float:
    """What scores are multiplied by, where a layer does not say otherwise (Vaswani et al. 2017)."""
    return dim**-0.5 if scaling is None else scaling


def visible(last: torch.Tensor, length: int, window: int | None) -> torch.Tensor:
    """last [n, 1], the own position of each query -> [n, length], True from `last - window + 1` to `last`."""
    positions = torch.arange(length, device=last.device)
    visible = positions <= last
    return visible if not window else visible & (positions > last - window)
