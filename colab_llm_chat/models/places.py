"""The linear layers of a model on the CPU, and where each hangs, for whoever computes them in another way.

Knows no family of models, and not what is put in their place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of the weights, so many are measured: where a model is larger than the caches, these are as well.
MEASURED_BYTES = 256_000_000


@dataclass(slots=True, eq=False)
class Place:
    """A linear layer and where it hangs."""

    parent: torch.nn.Module
    name: str
    plain: Any

    @property
    def nbytes(self) -> int:
        return int(self.plain.weight.nbytes)

    def put(self, layer: torch.nn.Module) -> None:
        setattr(self.parent, self.name, layer)

    def give_back(self, weight: torch.Tensor) -> None:
        """Let the plain layer have its weight again, which is [out, in] here."""
        weight = weight.t().contiguous() if isinstance(self.plain, Conv1D) else weight
        self.plain.weight = torch.nn.Parameter(weight, requires_grad=False)


def linear_places(model: PreTrainedModel) -> list[Place]:
    """Layers that are exactly linear, in fp32 on the CPU: a subclass may compute something else, and a hook may expect
    a plain weight. None of a quantised model, whose time goes elsewhere.
    """
    if getattr(model, "is_quantized", False):
        return []
    return [
        Place(parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) in (torch.nn.Linear, Conv1D) and _takes_another_way(layer)
    ]


def _takes_another_way(layer: Any) -> bool:
    # fp32 only: virtual machines may advertise AMX and not let it run, and then the first product in bf16 or fp16 ends
    # the process, here while it only loads.
    weight = layer.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()
    return plain and not layer._forward_hooks and not hasattr(layer, "_hf_hook")


def sample(places: Sequence[Place], room: float) -> list[Place]:
    """Layers of all kinds, the same for each start, that may for a moment be in memory twice; at least one."""
    left = min(MEASURED_BYTES, room)
    chosen = []
    for place in random.Random(0).sample(places, len(places)):
        if place.nbytes <= left:
            left -= place.nbytes
            chosen.append(place)
    return chosen or [min(places, key=lambda place: place.nbytes)]
