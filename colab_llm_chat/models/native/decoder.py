"""All layers of a decoder that is built as Llama is, in one call of a kernel: what is between products costs little then.

Knows a model by how it is built (pre-norm layers of attention and gated MLP); whether that says all is told by its
logits.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from .kernels import Kernels
from .parts import NormKernel, close

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}


class NotThisKind(Exception):
    """Why a model is not built so."""


@dataclass(frozen=True, slots=True)
class Attended:
    """What each layer's attention was told: its window and the scale of its scores."""

    window: int | None
    scale: float


@dataclass(frozen=True, slots=True)
class Shape:
    """As in kernels.cpp, but for the tokens."""

    hidden: int
    heads: int
    kv_heads: int
    dim: int
    inner: int
