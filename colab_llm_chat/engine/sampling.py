"""Logits to token ids and log-probabilities: temperature, top-k, top-p, min-p and seeds, per row and vectorised.

The order follows transformers' `generate`: penalties and rules (rules.py), temperature, top-k, top-p, min-p. Each
row draws one number a token from its own generator, so a seeded reply does not depend on who shares the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..settings import SamplingParams
from .reports import Logprobs
from .rules import ruled
from .sequence import Sequence

# Candidates kept by topk where only top-p bounds them: the mass it misses is sorted exactly.
TOP_P_CANDIDATES = 1024
# Dividing by less than this leaves the range of float32; the likeliest token has all the mass long before.
COLDEST = 1e-5
# What OpenAI tells of a token that could hardly come; JSON knows no infinity.
LEAST_LOGPROB = -9999.0
# Probabilities [rows, vocab], the rows and a number for each [rows, 1] -> ids [rows].
Way = Callable[[torch.Tensor, list[Sequence], torch.Tensor], torch.Tensor]


@dataclass(slots=True, frozen=True)
class Drawn:
    """The id drawn for a row. It means nothing where the row's logits were not finite, or no id was allowed."""

    token_id: int
    finite: bool
    allowed: bool
    logprobs: Logprobs | None = None


@torch.inference_mode()
def sample(logits: torch.Tensor, rows: list[Sequence]) -> list[Drawn]:
    """logits [rows, vocab] -> an id a row, of a sequence's further rows as if those before were right. One sync."""
    logits = logits.float()
    finite = torch.isfinite(logits.amax(-1))
    logits = ruled(logits, rows)
    drawn = [i for i, row in enumerate(rows) if row.sampling.temperature >= COLDEST]
    token_ids = logits.argmax(-1) if len(drawn) < len(rows) else _draw(logits, rows)
    if 0 < len(drawn) < len(rows):
        token_ids[drawn] = _draw(logits[drawn], [rows[i] for i in drawn])
    allowed = logits.gather(1, token_ids[:, None]).squeeze(1) > -torch.inf
    asked = [i for i, row in enumerate(rows) if row.rules.top_logprobs is not None]
    width = max((rows[i].rules.top_logprobs or 0 for i in asked), default=0)
    told = _logprobs(logits[asked], token_ids[asked], min(width, logits.shape[-1])) if asked else logits[:0]
    # Double precision holds every id: all of it goes to the host in one copy.
    main = torch.stack([token_ids.double(), finite.double(), allowed.double()]).flatten()
    packed = torch.cat([main, told.double().flatten()]).tolist()
    n, each = len(rows), told.shape[-1]
    logprobs = {i: packed[3 * n + at * each :][:each] for at, i in enumerate(asked)}
    return [
        Drawn(int(packed[i]), bool(packed[n + i]), bool(packed[2 * n + i]), _told(row, logprobs.get(i)))
        for i, row in enumerate(rows)
    ]


def _logprobs(logits: torch.Tensor, token_ids: torch.Tensor, width: int) -> torch.Tensor:
    """[rows, 1 + 2 * width]: log-probability of the drawn id, those of the likeliest ids, and these ids."""
    total = logits.logsumexp(-1, keepdim=True)
    values, ids = logits.topk(width, dim=-1)
    drawn = logits.gather(1, token_ids[:, None])
    return torch.cat([(drawn - total).double(), (values - total).double(), ids.double()], -1)


def _told(row: Sequence, packed: list[float] | None) -> Logprobs | None:
    if packed is None:
        return None
    width = len(packed) // 2
    wanted = list(zip(packed[1 + width :], packed[1 : 1 + width], strict=True))[: row.rules.top_logprobs]
    top = tuple((int(token_id), value) for token_id, value in wanted if value > LEAST_LOGPROB)
    return Logprobs(max(packed[0], LEAST_LOGPROB), top)


def _draw(logits: torch.Tensor, rows: list[Sequence]) -> torch.Tensor:
    """logits [rows, vocab] -> ids [rows], each drawn from what top-k, top-p and min-p leave."""
    probabilities = torch.softmax(logits / _column(lambda s: s.temperature, rows, logits), -1)
    # Drawn on the host, one number a row: nothing that another row does can shift it.
    numbers = [[row.uniform(ahead)] for row, times in Counter(rows).items() for ahead in range(times)]
    uniform = torch.tensor(numbers, device=logits.device, dtype=torch.float64)
    ways = _ways(probabilities, rows)
    if len(ways) == 1:
        return next(iter(ways))(probabilities, rows, uniform)
    ids = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    for way, at in ways.items():
        ids[at] = way(probabilities[at], [rows[i] for i in at], uniform[at])
    return ids


def _ways(probabilities: torch.Tensor, rows: list[Sequence]) -> dict[Way, list[int]]:
    """Which rows to draw in which way. Where top-k or top-p leave few candidates, sorting those is worth it."""
    vocab, far = probabilities.shape[-1], [False] * len(rows)
    if probabilities.device.type == "cpu" and vocab > TOP_P_CANDIDATES and any(row.sampling.top_k == 0 for row in rows):
        # n numbers sum to at most sqrt(n * their squares' sum). Rounding is below a hundredth: no row changes its ids.
        most = (TOP_P_CANDIDATES**0.5 * torch.linalg.vector_norm(probabilities, dim=-1)).tolist()
        far = [row.sampling.top_k == 0 and most[i] < 0.99 * row.sampling.top_p for i, row in enumerate(rows)]
    ways: dict[Way, list[int]] = {}
    for i, row in enumerate(rows):
        bounded = 0 < row.sampling.top_k < vocab or row.sampling.top_p < 1
        way = _pick if not bounded else _pick_nucleus if far[i] else _pick_sorted
        ways.setdefault(way, []).append(i)
    return ways


def _pick_sorted(probabilities: torch.Tensor, rows: list[Sequence], uniform: torch.Tensor) -> torch.Tensor:
    """Draw among the likeliest; a row whose top-p reaches beyond TOP_P_CANDIDATES is drawn again over all."""
    width = min(probabilities.shape[-1], max(row.sampling.top_k or TOP_P_CANDIDATES for row in rows))
    candidates, ids = probabilities.topk(width, dim=-1)
    rank = torch.arange(width, device=probabilities.device)
    top_k = _column(lambda s: s.top_k or probabilities.shape[-1], rows, probabilities)
    kept = candidates.where(rank < top_k, candidates.new_zeros(()))
    # top-p is a share of what top-k leaves; without top-k, of everything.
    total = kept.sum(-1, keepdim=True).where(top_k <= width, candidates.new_ones(()))
    top_p = _column(lambda s: s.top_p, rows, probabilities)
    before = kept.cumsum(-1) - kept
    kept = kept.where((before < top_p * total) | (rank == 0), kept.new_zeros(()))
    picked = ids.gather(-1, _pick(kept, rows, uniform)[:, None]).squeeze(-1)
    if probabilities.shape[-1] > TOP_P_CANDIDATES and any(row.sampling.top_k == 0 for row in rows):
        # By a number that does not depend on who shares the batch, as `width` does.
        reached = candidates[:, :TOP_P_CANDIDATES].sum(-1).tolist()
        short = [i for i, r in enumerate(rows) if r.sampling.top_k == 0 and reached[i] < r.sampling.top_p]
        if short:
            picked[short] = _pick_nucleus(probabilities[short], [rows[i] for i in short], uniform[short])
    return picked


def _pick_nucleus(probabilities: torch.Tensor, rows: list[Sequence], uniform: torch.Tensor) -> torch.Tensor:
    """Draw among what top-p leaves of all tokens. Only numbers are sorted, not ids: that takes far less time."""
    # NumPy sorts bare numbers by vector instructions; PyTorch moves their places along.
    on_cpu = probabilities.device.type == "cpu"
    rising = torch.from_numpy(np.sort(probabilities.numpy(), axis=-1)) if on_cpu else probabilities.sort(-1).values
    reached = rising.cumsum(-1, dtype=torch.float64)
    rest = reached[:, -1:] - _column(lambda s: s.top_p, rows, reached)
    # Beyond the end is a top-p too small for any, or what is not finite.
    at = torch.searchsorted(reached, rest, right=True).clamp(max=rising.shape[-1] - 1)
    # On the CPU a product takes half of the time of `where`.
    return _pick(probabilities * (probabilities >= rising.gather(-1, at)), rows, uniform)


def _pick(weights: torch.Tensor, rows: list[Sequence], uniform: torch.Tensor) -> torch.Tensor:
    """Draw among what min-p leaves (Nguyen et al. 2024): where the running sum passes `uniform` times the total."""
    if any(row.sampling.min_p for row in rows):
        least = _column(lambda s: s.min_p, rows, weights) * weights.amax(-1, keepdim=True)
        weights = weights.where(weights >= least, weights.new_zeros(()))
    # In double precision: over 128 k ids single precision loses the tail.
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding up to the total would choose a token of weight zero, or none.
    passed = torch.minimum(uniform * total, torch.nextafter(total, total.new_zeros(())))
    # Beyond the end is only what is not finite.
    return torch.searchsorted(cumulative, passed, right=True).clamp(max=weights.shape[-1] - 1).squeeze(-1)


def _column(of: Callable[[SamplingParams], float], rows: list[Sequence], like: torch.Tensor) -> torch.Tensor:
    """[rows, 1] of one sampling field."""
    return torch.tensor([[of(row.sampling)] for row in rows], device=like.device, dtype=like.dtype)
