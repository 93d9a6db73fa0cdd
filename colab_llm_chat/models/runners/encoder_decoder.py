"""The runner for encoder-decoder models: a sequence's source is encoded once, then its rows' decoders step together.

Greedy replies are those of the model's own `generate` without beams. There is no beam search, even where a model's
generation config asks for one: its replies would come only at their end, and take several rows each.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput

from ...engine.sequence import Sequence, Step
from ...errors import GenerationFailed
from .flat import embedded_ids
from .joined import Joined, join
from .own_rules import own_rules
from .row_positions import RowPositions
from .sequential import NoSlots

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of a reply that goes on after a pause, so many ids are read at once: each gets logits of the whole vocabulary.
PIECE = 128


class EncoderDecoderRunner:
    """Rows in one forward if `together`, else in turns; prompts are read whole, one a step.

    Of sources nothing is kept for others. What is not held of a row, as after a failure, is read again.
    """

    whole_prompts = True
    chunk_size = 1
    switch_length = 0

    def __init__(self, model: PreTrainedModel, *, together: bool = True, cached: bool = True) -> None:
        """Without `cached` each token encodes its source and reads the reply again: slow, but needs no cache."""
        self.vocab_size = embedded_ids(model)
        self.arena = NoSlots()
        self._model, self._together, self._cached = model, together and cached, cached
        self._encoded: type[ModelOutput] = BaseModelOutput
        self._positions = RowPositions(model.get_decoder())
        self._takes_positions = "decoder_position_ids" in inspect.signature(model.forward).parameters
        # By sequence: where what is known of it lies.
        self._held: dict[int, tuple[Joined, int]] = {}
        self._rules: dict[int, LogitsProcessorList] = {}

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        logits = self.own_logits(step).float()
        for at, row in enumerate(step.sampled):
            self._rule(row, logits[at : at + 1])
        return logits

    @torch.inference_mode()
    def own_logits(self, step: Step) -> torch.Tensor:
        """[rows, vocab] as the model has them, without its generation config's rules."""
        held = [row for row in step.rows if self._read_of(row) >= len(row.ids) - 1]
        groups = [held] if self._together and held else [[row] for row in held]
        found = {row: logits for group in groups for row, logits in zip(group, self._next(group), strict=True)}
        # Those that went on first: what is read now would be joined with them.
        for row in step.rows + ([step.chunk.sequence] if step.chunk else []):
            if row not in found:
                found[row] = self._read(row)
        return torch.stack([found[row] for row in step.sampled])

    def draft(self, *args: Any) -> None:
        """None: a wrong one would have to be taken out of one row of several."""

    learn = draft

    def recall(self, sequence: Sequence) -> int:
        return 0

    def forget(self, sequence: Sequence, *, keep: bool = True) -> None:
        self._held.pop(sequence.sequence_id, None)
        self._rules.pop(sequence.sequence_id, None)

    def close(self) -> None:
        """Leave the model as it was."""
        self._positions.undo()

    def _read_of(self, row: Sequence) -> int:
        """How many ids of a row have keys and values."""
        joined, at = self._held.get(row.sequence_id, (None, 0))
        return -1 if joined is None else joined.read(at)

    def _next(self, rows: list[Sequence]) -> torch.Tensor:
        """[rows, vocab] after the last ids of rows of which all others are held."""
        places = [self._held.pop(row.sequence_id) for row in rows]
        lengths = [len(row.ids) - 1 for row in rows]
        joined = places[0][0]
        ends = {joined.before[at] + length for (_, at), length in zip(places, lengths, strict=True)}
        if len(ends) == 1 and places == [(joined, at) for at in range(len(joined.before))]:
            # Nobody joined or left. A step that is run twice is written twice.
            joined.keep(ends.pop())
        else:
            joined = join([(one, at, length) for (one, at), length in zip(places, lengths, strict=True)])
        rotary = {"decoder_position_ids": self._tensor([[one] for one in lengths])} if self._takes_positions else {}
        # Only once it is well are they held again: it is changed in place.
        with self._positions.of(lengths):
            output = self._model(
                encoder_outputs=self._encoded(last_hidden_state=joined.source),
                attention_mask=joined.source_mask,
                decoder_input_ids=self._tensor([row.ids[-1:] for row in rows]),
                decoder_attention_mask=joined.next_mask,
                past_key_values=joined.cache,
                use_cache=True,
                **rotary,
            )
        self._held.update({row.sequence_id: (joined, at) for at, row in enumerate(rows)})
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _read(self, row: Sequence) -> torch.Tensor:
        """[vocab] after a row's ids, once its source is encoded and all of them are read."""
        self.forget(row)
        if not row.source_ids:
            raise GenerationFailed("There is nothing for the model's encoder to read.", hint="Send some text.")
        source = self._tensor([row.source_ids])
        mask = torch.ones_like(source)
        encoded = self._model.get_encoder()(input_ids=source, attention_mask=mask, return_dict=True)
        # Some models look for more in it than what was encoded.
        self._encoded = type(encoded)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if self._cached else None
        size = PIECE if self._cached else len(row.ids)
        for start in range(0, len(row.ids), size):
            output = self._model(
                encoder_outputs=encoded,
                attention_mask=mask,
                decoder_input_ids=self._tensor([row.ids[start : start + size]]),
                past_key_values=cache,
                use_cache=self._cached,
            )
        if cache is not None:
            read = Joined(cache, encoded.last_hidden_state, [len(row.source_ids)], [0])
            self._held[row.sequence_id] = join([(read, 0, len(row.ids))]), 0
        # A copy, for it would keep those of the whole text.
        logits: torch.Tensor = output.logits[0, -1].clone()
        return logits

    def _rule(self, row: Sequence, logits: torch.Tensor) -> None:
        """Change logits [1, vocab] as the model's generation config wants them."""
        generation: Any = self._model.generation_config
        if (rules := self._rules.get(row.sequence_id)) is None:
            rules = self._rules[row.sequence_id] = own_rules(generation, row, self._model.device)
        if rules:
            last = row.generated + 1 == row.sampling.max_new_tokens
            row.cut = last and generation.forced_eos_token_id is not None
            ids: Any = self._tensor([row.ids])
            logits.copy_(rules(ids, logits))

    def _tensor(self, ids: list[list[int]]) -> torch.Tensor:
        return torch.tensor(ids, device=self._model.device)
