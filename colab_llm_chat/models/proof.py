"""Whether a model, run otherwise or changed, still gives its own logits. Knows nothing of how."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")

# Two unequal prompts of harmless ids.
PROMPTS = ([1 + i % 7 for i in range(9)], [2, 3, 5])
# Largest difference of logits that rounding explains, as a share of the largest logit: a wrong mask or position
# changes far more. Short formats and quantised layers round by what else is in the batch.
ROUNDING, COARSE_ROUNDING = 1e-3, 0.05
# What a model may raise that does not take the batched engine; running out of memory is none of these.
CANNOT_RUN = (
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    NotImplementedError,
    TypeError,
    ValueError,
    RuntimeError,
)


@torch.inference_mode()
def short_logits(model: PreTrainedModel) -> torch.Tensor | None:
    """The last logits [2, vocab] of the prompts; None where the model fails."""
    try:
        return torch.stack([_last(model, prompt) for prompt in PROMPTS])
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except CANNOT_RUN as error:
        log.debug("no logits of %s", type(model).__name__, exc_info=error)
        return None


def _last(model: PreTrainedModel, prompt: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt], device=model.device)
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    logits: torch.Tensor = model(input_ids=ids, **decoder, use_cache=False).logits[0, -1]
    return logits


def unchanged(model: PreTrainedModel, logits: torch.Tensor) -> bool:
    """Whether these are still the model's `short_logits`."""
    found = short_logits(model)
    return found is not None and alike(found, logits, model=model)


def alike(found: torch.Tensor, wanted: torch.Tensor, *, model: PreTrainedModel) -> bool:
    """Whether rounding explains how these logits [..., vocab] of the model differ."""
    coarse = model.dtype != torch.float32 or getattr(model, "is_quantized", False)
    found, wanted = found.float(), wanted.float()
    difference = (found - wanted).abs().amax(-1) / wanted.abs().amax(-1).clamp(min=1e-6)
    right = bool((difference <= (COARSE_ROUNDING if coarse else ROUNDING)).all())
    if not right:
        log.info("logits differ by %.2g", float(difference.max()))
    return right
