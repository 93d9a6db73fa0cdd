"""The linear layers of a model on the CPU, with packed weights wherever those are faster on this machine.

Knows no family of models: what a model makes of packed layers is tried on the spot, and one that does not take them
gets its plain ones back.
"""

from __future__ import annotations

import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .hardware import free_bytes
from .linear import PackedLinear, measured_speeds
from .places import Place, linear_places, sample
from .proof import short_logits, unchanged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")

Measure = Callable[[Sequence[PackedLinear]], Mapping[int, float]]

# A weight that is needed plain too, as a head that is also the embedding, stays in memory beside its packed copy.
# Keys and values need memory more, so copies get only a share of what is free.
COPY_SHARE = 0.25


@dataclass(slots=True)
class _Packing:
    """A linear layer in its place, whether something else has its weight too, and its packed form once made."""

    place: Place
    shared: bool
    packed: PackedLinear | None = None

    def made(self) -> PackedLinear:
        self.packed = self.packed or PackedLinear(self.place.plain)
        return self.packed

    def pack(self, *, one_row_plain: bool) -> None:
        layer = self.made()
        layer.one_row_plain = one_row_plain
        self.place.put(layer)
        if not (self.shared or one_row_plain):
            # Now, so that little is in memory twice.
            layer.free_plain()
            self.place.plain.weight = None

    def unpack(self) -> None:
        if self.place.plain.weight is None:
            self.place.give_back(self.made().weight.to_dense())
        self.place.put(self.place.plain)


def pack_linears(model: PreTrainedModel, *, measure: Measure = measured_speeds) -> int:
    """Pack the linear layers of a model on the CPU if that is faster here; returns how many.

    Where plain weights are faster for a single row, and both fit, both are kept. None is packed where build, processor
    or dtype have no such kernel, or where the model does not give the same logits then; and none of a quantised model,
    whose time goes elsewhere. A packed model can be run, but not saved.
    """
    room = COPY_SHARE * free_bytes(torch.device("cpu"))
    layers = _packings(model, room)
    wanted = short_logits(model) if layers else None
    if wanted is None:
        return 0
    began = time.perf_counter()
    measured_ones = sample([layer.place for layer in layers], room)
    speeds = measure([layer.made() for layer in layers if layer.place in measured_ones])
    form, why = _form(speeds, both_fit=sum(layer.place.nbytes for layer in layers) <= room)
    measured = ", ".join(f"{speed:.2f} at {rows}" for rows, speed in speeds.items())
    if form != "plain":
        for layer in layers:
            layer.pack(one_row_plain=form == "both")
        if not unchanged(model, wanted):
            for layer in layers:
                layer.unpack()
            form, why = "plain", f"{type(model).__name__} does not take packed ones"
    seconds = time.perf_counter() - began
    told = "%d linear layers: %s weights, as %s (speed of packed over plain ones by rows: %s; %.1f s)"
    log.info(told, len(layers), form, why, measured, seconds)
    return 0 if form == "plain" else len(layers)


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


def _packings(model: PreTrainedModel, room: float) -> list[_Packing]:
    """Layers whose kernels may be faster with another layout: measured on x86 only."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return []
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    layers = []
    for place in linear_places(model):
        shared = uses[id(place.plain.weight)] > 1
        if not shared or place.nbytes <= room:
            room -= place.nbytes if shared else 0
            layers.append(_Packing(place, shared))
    return layers
