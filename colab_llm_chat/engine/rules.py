"""What a row's settings and rules do to its logits before anything is drawn: penalties, bias, bans, grammars.

Rows are told apart by index; a row that asks for nothing costs nothing. Knows no temperature and no random numbers.
"""

from __future__ import annotations

import torch

from .sequence import Sequence

# Far below every logit, but finite also when divided by a low temperature: a grammar may leave nothing else.
BANNED = -1e30
Cells = list[tuple[int, int]]


def ruled(logits: torch.Tensor, rows: list[Sequence]) -> torch.Tensor:
    """logits [rows, vocab], float32 -> the same or a copy; -inf where a row allows no id."""
    vocab = logits.shape[-1]
    repeating = [i for i, row in enumerate(rows) if row.sampling.repetition_penalty != 1]
    counting = [i for i, row in enumerate(rows) if row.sampling.frequency_penalty or row.sampling.presence_penalty]
    biased = [i for i, row in enumerate(rows) if row.rules.logit_bias]
    banned = [(i, one) for i, row in enumerate(rows) for one in row.banned_ids()]
    matched = [i for i, row in enumerate(rows) if row.matcher is not None]
    held = [(i, one) for i, row in enumerate(rows) if row.must_go_on for one in row.eos_token_ids if one < vocab]
    if not (repeating or counting or biased or banned or matched or held):
        return logits
    logits = logits.clone()
    if repeating:
        logits[repeating] = _repetition(logits[repeating], [rows[i] for i in repeating])
    if counting:
        logits[counting] = _frequency(logits[counting], [rows[i] for i in counting])
    for i in biased:
        logits[i].index_add_(0, *_bias(rows[i], logits))
    if banned:
        where = torch.tensor(banned, device=logits.device).T
        logits[where[0], where[1]] = logits[where[0], where[1]].clamp(max=BANNED)
    if matched:
        logits[matched] = _grammatical(logits[matched], [rows[i] for i in matched])
    _fill(logits, held, -torch.inf)
    return logits


def _repetition(logits: torch.Tensor, rows: list[Sequence]) -> torch.Tensor:
    """Keskar et al. 2019, CTRL, section 4.1, over prompt and reply."""
    seen = torch.stack([_counts(row, 0, logits) for row in rows]) > 0
    penalty = torch.tensor([[row.sampling.repetition_penalty] for row in rows], device=logits.device)
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def _frequency(logits: torch.Tensor, rows: list[Sequence]) -> torch.Tensor:
    """OpenAI's penalties: by how often an id stands in the reply, and by whether it does."""
    counts = torch.stack([_counts(row, row.prompt_length, logits) for row in rows])
    frequency = torch.tensor([[row.sampling.frequency_penalty] for row in rows], device=logits.device)
    presence = torch.tensor([[row.sampling.presence_penalty] for row in rows], device=logits.device)
    return logits - counts * frequency - (counts > 0) * presence


def _counts(row: Sequence, start: int, like: torch.Tensor) -> torch.Tensor:
    """[vocab]: how often each id stands in `row.ids[start:]`; kept with the row, so that only new ids are counted."""
    counts, known = row.counts.get(start) or (like.new_zeros(like.shape[-1]), start)
    new = torch.tensor(row.ids[known:], device=like.device, dtype=torch.long)
    counts.index_add_(0, new, like.new_ones(len(new)))
    row.counts[start] = counts, len(row.ids)
    return counts


def _bias(row: Sequence, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and what is added to their logits; kept with the row."""
    if row.bias is None:
        some = [(one, value) for one, value in row.rules.logit_bias.items() if one < like.shape[-1]]
        ids = torch.tensor([one for one, _ in some], device=like.device, dtype=torch.long)
        row.bias = ids, torch.tensor([value for _, value in some], device=like.device)
    return row.bias


def _grammatical(logits: torch.Tensor, rows: list[Sequence]) -> torch.Tensor:
    """-inf for every id that does not go on with its row's grammar, and for ids that the tokenizer lacks."""
    matchers = [row.matcher for row in rows if row.matcher is not None]
    packed = bytearray(b"".join(matcher.compute_bitmask() for matcher in matchers))
    bits = torch.frombuffer(packed, dtype=torch.uint8).to(logits.device).view(len(rows), -1, 1)
    masks = (bits >> torch.arange(8, device=logits.device, dtype=torch.uint8) & 1).flatten(1).bool()
    allowed = torch.zeros_like(logits, dtype=torch.bool)
    width = min(masks.shape[-1], logits.shape[-1])
    allowed[:, :width] = masks[:, :width]
    # Which ids end a text is the request's to say; the tokenizer knows one of them.
    ending = [i for i, matcher in enumerate(matchers) if matcher.is_accepting() and not matcher.is_error()]
    _fill(allowed, [(i, one) for i in ending for one in rows[i].eos_token_ids if one < logits.shape[-1]], True)
    return logits.masked_fill(~allowed, -torch.inf)


def _fill(values: torch.Tensor, cells: Cells, value: float) -> None:
    if cells:
        where = torch.tensor(cells, device=values.device).T
        values[where[0], where[1]] = value
