"""Linear layers of a model on the CPU, their weights laid out once at load as oneDNN's kernels want them.

Knows no family of models: what a model makes of packed layers is tried on the spot, and one that does not take them
gets its plain ones back.
"""

from __future__ import annotations

import logging
import platform
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from .choose import CANNOT_RUN, COARSE_ROUNDING, PROMPTS, ROUNDING
from .hardware import free_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")

# oneDNN chooses a layout by a number of rows: the one for hundreds is as good for a few, the one for 1 is bad for all.
ROWS_HINT = 256
# A weight that something else reads too, as a head that is also the embedding, stays in memory beside its packed copy.
# The head is often the largest layer; but keys and values need memory more, so the copy gets only a share of it.
COPY_SHARE = 0.25


class PackedLinear(torch.nn.Module):
    """What `nn.Linear` computes. Its weight tells shape, dtype and size; only `to_dense()` tells its numbers."""

    def __init__(self, plain: Any, *, is_copy: bool) -> None:
        super().__init__()
        dense: torch.Tensor = plain.weight.detach()
        # GPT-2 multiplies by a matrix that lies the other way round.
        packed = _pack(dense.t().contiguous() if isinstance(plain, Conv1D) else dense)
        self.out_features, self.in_features = packed.shape
        if is_copy:
            # Not a parameter: those are counted, and these numbers are counted where they are read plain.
            self.register_buffer("weight", packed, persistent=False)
        else:
            self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.bias = plain.bias
        self._multiply: Any = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]"""
        product: torch.Tensor = self._multiply(x, self.weight, self.bias, "none", [], "")
        return product


@dataclass(frozen=True, slots=True)
class _Place:
    """A linear layer, where it hangs, and whether something else has its weight too."""

    parent: torch.nn.Module
    name: str
    plain: Any
    shared: bool

    def pack(self) -> None:
        setattr(self.parent, self.name, PackedLinear(self.plain, is_copy=self.shared))
        if not self.shared:
            # Now, so that never more than one layer is in memory twice.
            self.plain.weight = None

    def unpack(self) -> None:
        if not self.shared:
            dense = getattr(self.parent, self.name).weight.to_dense()
            dense = dense.t().contiguous() if isinstance(self.plain, Conv1D) else dense
            self.plain.weight = torch.nn.Parameter(dense, requires_grad=False)
        setattr(self.parent, self.name, self.plain)


def pack_linears(model: PreTrainedModel) -> int:
    """Replace the linear layers of a model on the CPU by packed ones; returns how many.

    None where build, processor or dtype have no such kernel, or where the model does not give the same logits then;
    and none of a quantised model, whose time goes elsewhere. A packed model can be run, but not saved.
    """
    quantised = getattr(model, "is_quantized", False)
    places = [] if quantised else [place for place in _places(model) if _has_kernel(place.plain)]
    began = time.perf_counter()
    wanted = _logits(model) if places else None
    if wanted is None:
        return 0
    for place in places:
        place.pack()
    found = _logits(model)
    if found is None or not _alike(found, wanted, coarse=model.dtype != torch.float32):
        log.info("%s does not take packed weights: its layers stay plain", type(model).__name__)
        for place in places:
            place.unpack()
        return 0
    log.info("packed the weights of %d linear layers in %.1f s", len(places), time.perf_counter() - began)
    return len(places)


def _pack(dense: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(dense, ROWS_HINT)
    return packed


def _places(model: PreTrainedModel) -> list[_Place]:
    """Layers that are exactly linear: a subclass may compute something else, and a hook may expect a plain weight."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    room = COPY_SHARE * free_bytes(torch.device("cpu"))
    places = []
    for parent in model.modules():
        for name, layer in parent.named_children():
            if type(layer) not in (torch.nn.Linear, Conv1D) or layer._forward_hooks or hasattr(layer, "_hf_hook"):
                continue
            weight: Any = layer.weight
            shared = uses[id(weight)] > 1
            if not shared or weight.nbytes <= room:
                room -= weight.nbytes if shared else 0
                places.append(_Place(parent, name, layer, shared))
    return places


def _has_kernel(layer: torch.nn.Module) -> bool:
    """Whether oneDNN multiplies by this layer's weight faster than PyTorch does: measured on x86 only."""
    weight: Any = layer.weight
    if weight.device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    backend: Any = torch.backends.mkldnn
    if not backend.is_available():
        return False
    mkldnn: Any = torch.ops.mkldnn
    if weight.dtype == torch.bfloat16:
        return bool(mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32 or (weight.dtype == torch.float16 and bool(mkldnn._is_mkldnn_fp16_supported()))


@torch.inference_mode()
def _logits(model: PreTrainedModel) -> list[torch.Tensor] | None:
    """The last logits of prompts of several lengths, by which kernels are chosen; None where the model fails."""
    prompts = [*PROMPTS, PROMPTS[0][:1]]
    try:
        return [model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].float() for prompt in prompts]
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except CANNOT_RUN as error:
        log.debug("no logits of %s", type(model).__name__, exc_info=error)
        return None


def _alike(found: list[torch.Tensor], wanted: list[torch.Tensor], *, coarse: bool) -> bool:
    rounding = COARSE_ROUNDING if coarse else ROUNDING
    return all(
        bool((one - other).abs().max() <= rounding * other.abs().max().clamp(min=1e-6))
        for one, other in zip(found, wanted, strict=True)
    )
