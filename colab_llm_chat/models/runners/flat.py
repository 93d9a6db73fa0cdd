"""The only caller of the batched model: a step becomes one flattened forward [1, T], then logits.

Knows rows, chunks and slots; knows no sampling and no queue.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ...engine.sequence import Sequence, Step
from .arena import Arena
from .attention import FlatAttention
from .drafts import Drafter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")

# Tokens of a prompt read per step until measured step times say otherwise.
FIRST_CHUNK = {"cpu": 32, "cuda": 256}


class ByRow(Protocol):
    """A part of the model that turns rows of more than `switch` ids in another way."""

    switch: int

    def begin(self, step: Step) -> None: ...


class FlatRunner:
    """Any decoder whose attention goes through transformers' attention interface."""

    whole_prompts = False

    def __init__(
        self, model: PreTrainedModel, attention: FlatAttention | None = None, *, rotary: SequenceOf[ByRow] = ()
    ) -> None:
        """`rotary` are parts of the model that need to know the step."""
        self.switch_length = min((one.switch for one in rotary), default=0)
        self.rotary = rotary
        self.arena = Arena()
        self.vocab_size = embedded_ids(model)
        self.chunk_size = FIRST_CHUNK.get(model.device.type, 32)
        self._model = model
        self.attention = attention or FlatAttention()
        # Without it logits of a whole chunk are made: 1,000 positions x 128 k ids are half a gigabyte.
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        model.set_attn_implementation(self.attention.name)
        config = model.config.get_text_config()
        self._drafter = Drafter(getattr(config, "max_position_embeddings", None) or sys.maxsize)

    def draft(self, step: Step) -> None:
        self._drafter.draft(step)

    def learn(self, step: Step, right: Mapping[Sequence, int], seconds: float | None) -> None:
        self._drafter.learn(step, right, seconds)

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        device = self._model.device
        queries = step.queries
        ids, positions = [query.token_id for query in queries], [query.length - 1 for query in queries]
        kept = list(range(len(ids)))
        if step.chunk is not None:
            ids += step.chunk.ids
            positions += range(step.chunk.start, step.chunk.end)
            # Where nothing is sampled one position is kept all the same: models expect at least one.
            kept += [len(ids) - 1] if step.chunk.completes_prompt or not kept else []
        self.arena.begin(step, device=device)
        self.attention.begin(step, device=device)
        for one in self.rotary:
            one.begin(step)
        # One copy to the device instead of three.
        inputs = torch.tensor([ids, positions, kept + [0] * (len(ids) - len(kept))]).to(device)
        logits = self.compute(inputs[:2], inputs[2, : len(kept)])
        return logits if step.chunk is None or step.chunk.completes_prompt else logits[: len(queries)]

    def compute(self, inputs: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """inputs [2, T], ids and positions -> logits [len(kept), vocab], or of all T."""
        extra = {"logits_to_keep": kept} if self._keeps_logits and kept is not None else {}
        output = self._model(
            input_ids=inputs[:1], position_ids=inputs[1:], past_key_values=self.arena, use_cache=True, **extra
        )
        logits: torch.Tensor = output.logits[0]
        return logits if kept is None or self._keeps_logits else logits[kept]

    def recall(self, sequence: Sequence) -> int:
        """Nothing is known apart from slots."""
        return 0

    def forget(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Nothing to do: a slot is overwritten by whoever uses it next."""

    def model_changed(self) -> None:
        """Nothing to do: no step is remembered."""


def embedded_ids(model: PreTrainedModel) -> int:
    """How many token ids the model has embeddings for; often more than its tokenizer makes."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])
