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
    penalised = [i for i, row in enumerate(rows) if row.sampling.penalises]
    biased = [i for i, row in enumerate(rows) if row.rules.logit_bias]
    banned = [(i, one) for i, row in enumerate(rows) for one in row.banned_ids()]
    matched = [i for i, row in enumerate(rows) if row.matcher is not None]
    held = [(i, one) for i, row in enumerate(rows) if row.must_go_on for one in row.eos_token_ids if one < vocab]
    if not (penalised or biased or banned or matched or held):
        return logits
    logits = logits.clone()
    for i in penalised:
        _penalise(logits[i], rows[i])
    for i in biased:
        logits[i].index_add_(0, *_bias(rows[i], logits))
    if banned:
        where = torch.tensor(banned, device=logits.device).T
        logits[where[0], where[1]] = logits[where[0], where[1]].clamp(max=BANNED)
    if matched:
        # Row by row in place: to gather the rows would copy them twice.
        for i, forbidden in zip(matched, _forbidden([rows[i] for i in matched], logits), strict=True):
            logits[i].masked_fill_(forbidden, -torch.inf)
    _fill(logits, held, -torch.inf)
    return logits


def _penalise(scores: torch.Tensor, row: Sequence) -> None:
    """Change one row's scores [vocab] where its own ids are: Keskar et al. 2019 (CTRL, 4.1), then OpenAI's two."""
    sampling = row.sampling
    if row.known is None:
        row.known = torch.tensor(row.ids, device=scores.device)
    elif len(row.known) < len(row.ids):
        row.known = torch.cat([row.known, torch.tensor(row.ids[len(row.known) :], device=scores.device)])
    # An id that stands there several times gets the same value several times.
    chosen, penalty = scores[row.known], sampling.repetition_penalty
    scores[row.known] = torch.where(chosen < 0, chosen * penalty, chosen / penalty)
    reply = row.known[row.prompt_length :]
    scores[reply] = scores[reply] - sampling.presence_penalty
    # Here each time counts.
    scores.index_add_(0, reply, scores.new_full((len(reply),), -sampling.frequency_penalty))


def _bias(row: Sequence, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and what is added to their logits; kept with the row."""
    if row.bias is None:
        some = [(one, value) for one, value in row.rules.logit_bias.items() if one < like.shape[-1]]
        ids = torch.tensor([one for one, _ in some], device=like.device, dtype=torch.long)
        row.bias = ids, torch.tensor([value for _, value in some], device=like.device)
    return row.bias


def _forbidden(rows: list[Sequence], logits: torch.Tensor) -> torch.Tensor:
    """[rows, vocab]: True for ids that do not go on with their row's grammar, and those that the tokenizer lacks."""
    matchers = [row.matcher for row in rows if row.matcher is not None]
    packed = bytearray(b"".join(matcher.compute_bitmask() for matcher in matchers))
    bits = torch.frombuffer(packed, dtype=torch.uint8).to(logits.device).view(len(rows), -1, 1)
    each = torch.tensor([1 << bit for bit in range(8)], device=logits.device, dtype=torch.uint8)
    forbidden = (bits & each == 0).flatten(1)[:, : logits.shape[-1]]
    forbidden = torch.nn.functional.pad(forbidden, (0, logits.shape[-1] - forbidden.shape[-1]), value=True)
    # Which ids end a text is the request's to say; the tokenizer knows one of them.
    ending = [i for i, matcher in enumerate(matchers) if matcher.is_accepting() and not matcher.is_error()]
    _fill(forbidden, [(i, one) for i in ending for one in rows[i].eos_token_ids if one < logits.shape[-1]], False)
    return forbidden


def _fill(values: torch.Tensor, cells: Cells, value: float) -> None:
    if cells:
        where = torch.tensor(cells, device=values.device).T
        values[where[0], where[1]] = value
