"""Attention of a flattened step by FlashAttention's kernel for pages: GPUs from Ampere on, in 16 bits.

One call reads all rows and the chunk, each as far as it goes. How far lies in tensors: a recorded step can be played
again for others. Raises where a layer needs what the kernel lacks: soft caps and sinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...engine.sequence import Step
from .arena import PAGE
from .attention import FlatAttention, Heads, scale_of


@dataclass(slots=True, frozen=True)
class Layout:
    """Who reads what: `ends` [n + 1] of their tokens in the step, `used` [n] positions of `pages` [n, most]; int32."""

    ends: torch.Tensor
    used: torch.Tensor
    pages: torch.Tensor
    longest_asked: int
    longest_read: int


class PagedAttention(FlatAttention):
    """Needs slots in whole pages, as the arena gives them."""

    layout: Layout | None = None

    def begin(self, step: Step, *, device: torch.device) -> None:
        super().begin(step, device=device)
        drafted = [(row, len(row.drafts)) for row in step.rows]
        asked = [(row.place.start, 1 + more, len(row.ids) + more) for row, more in drafted]
        if step.chunk is not None:
            asked.append((step.chunk.sequence.place.start, len(step.chunk.ids), step.chunk.end))
        ends = [0]
        for _, tokens, _ in asked:
            ends.append(ends[-1] + tokens)
        most = max(-(-used // PAGE) for _, _, used in asked)
        pages = [page_list(start, used, most) for start, _, used in asked]
        packed = [ends, [used for _, _, used in asked], [page for row in pages for page in row]]
        # One copy to the device instead of three.
        together = torch.tensor([one for part in packed for one in part], dtype=torch.int32).to(device)
        first, second, third = together.split([len(part) for part in packed])
        longest_asked, longest_read = max(one[1] for one in asked), max(one[2] for one in asked)
        self.layout = Layout(first, second, third.view(len(asked), most), longest_asked, longest_read)

    def read(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, heads: Heads, window: int | None
    ) -> torch.Tensor:
        """query [1, heads, T, head_dim], arenas [positions, kv_heads, head_dim] -> [1, T, heads, head_dim]."""
        from torch.nn.attention.varlen import varlen_attn

        if heads.softcap is not None or heads.sinks is not None or self.layout is None:
            raise NotImplementedError("attention with a soft cap or sinks")
        layout = self.layout
        out: Any = varlen_attn(
            query[0].transpose(0, 1),
            # [pages, page, kv_heads, head_dim]
            keys.unflatten(0, (-1, PAGE)),
            values.unflatten(0, (-1, PAGE)),
            layout.ends,
            None,
            layout.longest_asked,
            layout.longest_read,
            scale=scale_of(heads.scaling, query.shape[-1]),
            window_size=(window - 1 if window else -1, 0),
            enable_gqa=query.shape[1] != heads.kv_heads,
            seqused_k=layout.used,
            block_table=layout.pages,
        )
        result: torch.Tensor = out[None]
        return result


def page_list(start: int, used: int, most: int) -> list[int]:
    """The pages of a slot up to its last used one, filled up with the first."""
    first, count = start // PAGE, -(-used // PAGE)
    return [*range(first, first + count), *[first] * (most - count)]
