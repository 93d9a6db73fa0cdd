"""The only caller of the batched model: a step becomes one flattened forward [1, T], then logits.

Knows rows, chunks and slots; knows no sampling and no queue.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Protocol

import torch

from ..settings import SamplingParams
from .attention import FlatAttention
from .sequence import Chunk, Sequence, Step
from .slots import Arena

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")

# Tokens of a prompt read per step until measured step times say otherwise.
FIRST_CHUNK = {"cpu": 32, "cuda": 256}


class Runner(Protocol):
    """What the loop needs of a model, batched or sequential."""

    chunk_size: int
    whole_prompts: bool

    def forward(self, step: Step) -> torch.Tensor:
        """Logits [len(step.sampled), vocab]. Running the same step twice changes nothing."""
        ...

    def move(self, source: int, target: int) -> None: ...
    def forget(self, sequence: Sequence) -> None: ...
    def idle(self) -> None: ...


class FlatRunner:
    """Any decoder whose attention goes through transformers' attention interface."""

    whole_prompts = False

    def __init__(self, model: PreTrainedModel, *, context_length: int) -> None:
        freeze_rotary(model, context_length)
        self.arena = Arena()
        self.chunk_size = FIRST_CHUNK.get(model.device.type, 32)
        self._model = model
        self._attention = FlatAttention()
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        model.set_attn_implementation(self._attention.name)

    @torch.inference_mode()
    def forward(self, step: Step) -> torch.Tensor:
        device = self._model.device
        ids = [row.ids[-1] for row in step.rows]
        positions = [len(row.ids) - 1 for row in step.rows]
        kept = list(range(len(ids)))
        if step.chunk is not None:
            ids += step.chunk.ids
            positions += range(step.chunk.start, step.chunk.start + len(step.chunk.ids))
            # Where nothing is sampled one position is kept all the same: models expect at least one.
            kept += [len(ids) - 1] if step.chunk.completes_prompt or not kept else []
        self.arena.begin(step, device=device)
        self._attention.begin(step)
        inputs = torch.tensor([[ids], [positions], [kept + [0] * (len(ids) - len(kept))]]).to(device)
        where = inputs[2, 0, : len(kept)]
        extra = {"logits_to_keep": where} if self._keeps_logits else {}
        output = self._model(
            input_ids=inputs[0], position_ids=inputs[1], past_key_values=self.arena, use_cache=True, **extra
        )
        logits: torch.Tensor = output.logits[0] if self._keeps_logits else output.logits[0, where]
        return logits[: len(step.sampled)]

    def move(self, source: int, target: int) -> None:
        self.arena.move(source, target)

    def forget(self, sequence: Sequence) -> None:
        """Nothing to do: a slot is overwritten by whoever uses it next."""

    def idle(self) -> None:
        self.arena.clear()


def freeze_rotary(model: PreTrainedModel, context_length: int) -> None:
    """One fixed set of rotary factors, as for the longest conversation.

    longrope and dynamic NTK choose theirs by the longest row of a batch, so that one row would change another.
    """
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if not isinstance(kind, str) or not ("dynamic" in kind or kind == "longrope"):
            continue
        positions = torch.tensor([[context_length - 1]], device=model.device)
        module(torch.zeros(1, 1, 1, device=model.device, dtype=model.dtype), positions)
        module.__dict__["rope_type"] = "default"


@torch.inference_mode()
def check_flat(model: PreTrainedModel, *, context_length: int) -> FlatRunner | None:
    """A batched runner, or None where its logits differ from the model's own for two unequal rows."""
    if not getattr(model, "_supports_attention_backend", False):
        log.info("%s does not take the batched engine's attention", type(model).__name__)
        return None
    own = model.config._attn_implementation
    prompts = [[1 + i % 7 for i in range(9)], [2, 3, 5]]
    model.set_attn_implementation("eager")
    expected = [model(input_ids=torch.tensor([p], device=model.device)).logits[0, -1].float() for p in prompts]
    try:
        runner = FlatRunner(model, context_length=context_length)
        difference = max(
            float((row - want).abs().max() / want.abs().max().clamp(min=1e-6))
            for row, want in zip(_two_rows(runner, prompts), expected, strict=True)
        )
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        log.info("the batched engine cannot run %s: %r", type(model).__name__, error)
        difference = float("inf")
    allowed = 1e-3 if model.dtype == torch.float32 else 0.05
    if difference <= allowed:
        runner.arena.clear()
        return runner
    log.warning("%s: batched logits differ by %.2g, one reply at a time instead", type(model).__name__, difference)
    model.set_attn_implementation(own)
    return None


def _two_rows(runner: FlatRunner, prompts: list[list[int]]) -> torch.Tensor:
    """Logits [2, vocab] after each prompt, the last step of both computed in one forward."""
    rows = [Sequence(i, list(prompt), SamplingParams()) for i, prompt in enumerate(prompts)]
    for slot, row in enumerate(rows):
        runner.forward(Step([], Chunk(row, slot, 0, row.ids[:-1])))
    return runner.forward(Step(rows)).float()
