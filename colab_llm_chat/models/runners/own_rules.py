"""What a model's generation config asks of its replies: ids that are forced or forbidden, least lengths, repetitions.

By transformers' own rules, in the order of its `generate` without beams, and beside whatever a request asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from ...engine.sequence import Sequence


def own_rules(config: GenerationConfig, row: Sequence, device: torch.device) -> LogitsProcessorList:
    """What changes logits [1, vocab] after the row's ids [1, n]; empty where the config asks for nothing.

    A row with a grammar has nothing else: an id that is forced would be no part of it.
    """
    if row.matcher is not None:
        return LogitsProcessorList()
    source: Any = torch.tensor([row.source_ids], device=device)
    at, eos = str(device), config.eos_token_id
    first = row.prompt_length + (row.prompt_length == 1 and config.forced_bos_token_id is not None)
    last = row.prompt_length + row.sampling.max_new_tokens
    ends = not row.rules.ignore_eos and row.rules.min_tokens < row.sampling.max_new_tokens
    shared, repeated = config.encoder_repetition_penalty or 1, config.repetition_penalty or 1
    rules = [
        shared != 1 and EncoderRepetitionPenaltyLogitsProcessor(shared, source),
        repeated != 1 and RepetitionPenaltyLogitsProcessor(repeated),
        (size := config.no_repeat_ngram_size) and NoRepeatNGramLogitsProcessor(size),
        (size := config.encoder_no_repeat_ngram_size) and EncoderNoRepeatNGramLogitsProcessor(size, source),
        (words := config.bad_words_ids) and NoBadWordsLogitsProcessor(words, eos),
        eos is not None and (least := config.min_length) and MinLengthLogitsProcessor(least, eos, at),
        (begin := config.forced_bos_token_id) is not None and ForcedBOSTokenLogitsProcessor(begin),
        ends and (end := config.forced_eos_token_id) is not None and ForcedEOSTokenLogitsProcessor(last, end, at),
        (ids := config.suppress_tokens) and SuppressTokensLogitsProcessor(ids, at),
        (ids := config.begin_suppress_tokens) and SuppressTokensAtBeginLogitsProcessor(ids, first, at),
    ]
    return LogitsProcessorList([rule for rule in rules if rule])
