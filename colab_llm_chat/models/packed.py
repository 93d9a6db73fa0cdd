"""The linear layers of a model on the CPU, with packed weights wherever those are faster on this machine.

Knows no family of models: what a model makes of packed layers is tried on the spot, and one that does not take them
gets its plain ones back.
"""

from __future__ import annotations

import logging
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from .choose import CANNOT_RUN, PROMPTS, ROUNDING
from .hardware import free_bytes
from .linear import PackedLinear, measured_speeds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")

Measure = Callable[[Sequence[PackedLinear]], Mapping[int, float]]

# A weight that is needed plain too, as a head that is also the embedding, stays in memory beside its packed copy.
# Keys and values need memory more, so copies get only a share of what is free.
COPY_SHARE = 0.25
# Of the weights, so many are measured: where a model is larger than the caches, these are as well.
MEASURED_BYTES = 256_000_000


@dataclass(slots=True)
class _Place:
    """A linear layer, where it hangs, whether something else has its weight too, and its packed form once made."""

    parent: torch.nn.Module
    name: str
    plain: Any
    shared: bool
    packed: PackedLinear | None = None

    @property
    def nbytes(self) -> int:
        return int(self.plain.weight.nbytes)

    def made(self) -> PackedLinear:
        self.packed = self.packed or PackedLinear(self.plain)
        return self.packed

    def pack(self, *, one_row_plain: bool) -> None:
        layer = self.made()
        layer.one_row_plain = one_row_plain
        setattr(self.parent, self.name, layer)
        if not (self.shared or one_row_plain):
            # Now, so that little is in memory twice.
            layer.free_plain()
            self.plain.weight = None

    def unpack(self) -> None:
        if self.plain.weight is None:
            dense = self.made().weight.to_dense()
            dense = dense.t().contiguous() if isinstance(self.plain, Conv1D) else dense
            self.plain.weight = torch.nn.Parameter(dense, requires_grad=False)
        setattr(self.parent, self.name, self.plain)


def pack_linears(model: PreTrainedModel, *, measure: Measure = measured_speeds) -> int:
    """Pack the linear layers of a model on the CPU if that is faster here; returns how many.

    Where plain weights are faster for a single row, and both fit, both are kept. None is packed where build, processor
    or dtype have no such kernel, or where the model does not give the same logits then; and none of a quantised model,
    whose time goes elsewhere. A packed model can be run, but not saved.
    """
    room = COPY_SHARE * free_bytes(torch.device("cpu"))
    places = [] if getattr(model, "is_quantized", False) else _places(model, room)
    wanted = _logits(model) if places else None
    if wanted is None:
        return 0
    began = time.perf_counter()
    speeds = measure([place.made() for place in _sample(places, room)])
    form, why = _form(speeds, both_fit=sum(place.nbytes for place in places) <= room)
    measured = ", ".join(f"{speed:.2f} at {rows}" for rows, speed in speeds.items())
    if form != "plain":
        for place in places:
            place.pack(one_row_plain=form == "both")
        if not _alike(_logits(model), wanted):
            for place in places:
                place.unpack()
            form, why = "plain", f"{type(model).__name__} does not take packed ones"
    seconds = time.perf_counter() - began
    told = "%d linear layers: %s weights, as %s (speed of packed over plain ones by rows: %s; %.1f s)"
    log.info(told, len(places), form, why, measured, seconds)
    return 0 if form == "plain" else len(places)


def _form(speeds: Mapping[int, float], *, both_fit: bool) -> tuple[str, str]:
    """Packed, plain or both weights, and why: by how many times as fast packed ones are at some numbers of rows."""
    one, *more = (speeds[rows] for rows in sorted(speeds))
    if max(more) <= 1:
        return "plain", "packed ones are not faster at several rows"
    if one >= 1:
        return "packed", "plain ones are nowhere needed"
    if both_fit:
        return "both", "plain ones are faster at one row"
    return "plain", "they are faster at one row and memory is too short for both"


def _sample(places: list[_Place], room: float) -> list[_Place]:
    """Layers of all kinds, the same for each start, that may for a moment be in memory twice; at least one."""
    left = min(MEASURED_BYTES, room)
    sample = []
    for place in random.Random(0).sample(places, len(places)):
        if place.nbytes <= left:
            left -= place.nbytes
            sample.append(place)
    return sample or [min(places, key=lambda place: place.nbytes)]


def _places(model: PreTrainedModel, room: float) -> list[_Place]:
    """Layers that are exactly linear: a subclass may compute something else, and a hook may expect a plain weight."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    places = []
    for parent in model.modules():
        for name, layer in parent.named_children():
            if type(layer) not in (torch.nn.Linear, Conv1D) or layer._forward_hooks or hasattr(layer, "_hf_hook"):
                continue
            place = _Place(parent, name, layer, shared=uses[id(layer.weight)] > 1)
            if _has_kernel(layer) and (not place.shared or place.nbytes <= room):
                room -= place.nbytes if place.shared else 0
                places.append(place)
    return places


def _has_kernel(layer: torch.nn.Module) -> bool:
    """Whether oneDNN may be faster with this layer's weight than PyTorch is: measured on x86 only."""
    weight: Any = layer.weight
    # fp32 only: virtual machines may advertise AMX and not let it run, and then the first product in bf16 or fp16 ends
    # the process, here while it only loads.
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    return platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()


@torch.inference_mode()
def _logits(model: PreTrainedModel) -> torch.Tensor | None:
    """The last logits of a short prompt of several ids, which packed weights multiply; None where the model fails."""
    try:
        prompt = torch.tensor([PROMPTS[1]])
        decoder = {"decoder_input_ids": prompt} if model.config.is_encoder_decoder else {}
        logits: torch.Tensor = model(input_ids=prompt, **decoder, use_cache=False).logits[0, -1]
        return logits
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except CANNOT_RUN as error:
        log.debug("no logits of %s", type(model).__name__, exc_info=error)
        return None


def _alike(found: torch.Tensor | None, wanted: torch.Tensor) -> bool:
    return found is not None and bool((found - wanted).abs().max() <= ROUNDING * wanted.abs().max().clamp(min=1e-6))
