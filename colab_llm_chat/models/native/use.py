"""Which parts of a model kernels compute: those where they are faster here, if its logits stay what they are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..hardware import free_bytes
from ..linear import Ways, speeds
from ..places import Place, linear_places, sample
from ..proof import short_logits, unchanged
from .kernels import Kernels, load_kernels
from .parts import FewRows, Undo, use_norms, use_rotary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")

Measure = Callable[[Sequence[FewRows]], Mapping[int, float]]

# Of smaller weights the calls are measured, of which a kernel for all layers spares nearly all.
WORTH_MEASURING = 2**25
# Numbers of rows that are measured, each with the seconds that it may take: loading waits for them.
MEASURED_ROWS = {1: 0.08, 4: 0.05, 12: 0.05, 32: 0.05, 64: 0.05, 128: 0.1}
# What seems slower is measured again: on a shared machine one busy moment would cost speed for as long as it runs.
SECOND_LOOKS = 2


def kernels_for(model: PreTrainedModel) -> Kernels | None:
    """The kernels, if this model's numbers are of their kind: fp32 on the CPU."""
    return load_kernels() if model.device.type == "cpu" and model.dtype == torch.float32 else None


def measured_speeds(layers: Sequence[FewRows]) -> Mapping[int, float]:
    """How many times as fast as PyTorch the kernel is, by number of rows."""
    most = min(layer.most for layer in layers)
    limits = {rows: seconds for rows, seconds in MEASURED_ROWS.items() if rows <= most}
    ways = [Ways(one.in_features, one.out_features, one.by_plain, one.by_kernel) for one in layers]
    found = speeds(ways, limits)
    for _ in range(SECOND_LOOKS):
        slow = {rows: limits[rows] for rows, speed in found.items() if speed < 1}
        found |= {rows: max(speed, found[rows]) for rows, speed in speeds(ways, slow).items()}
    return found


def use_kernels(model: PreTrainedModel, kernels: Kernels, *, measure: Measure = measured_speeds) -> bool:
    """Let kernels compute what they can of a model; True where its linear layers are among that.

    Linear layers up to as many rows as they are measured to be faster. A model with other logits then gets its own
    parts back.
    """
    places, wanted = linear_places(model), short_logits(model)
    if wanted is None:
        return False
    began = time.perf_counter()
    small = sum(place.nbytes for place in places) < WORTH_MEASURING
    found = {} if small else measure(_layers(sample(places, free_bytes(torch.device("cpu"))), kernels))
    most = kernels.most_rows if small else _most(found)
    undo: list[Undo] = [*use_norms(model, kernels), *use_rotary(model, kernels)]
    undo += _use_linears(places if most else [], kernels, most)
    if right := unchanged(model, wanted):
        told = ", ".join(f"{speed:.2f} at {rows}" for rows, speed in found.items()) or "too small to be measured"
        linears = f"linear layers up to {most} rows (speed over PyTorch's by rows: {told})"
        seconds = time.perf_counter() - began
        log.info("kernels compute %d parts, %s; %.1f s", len(undo), linears if places else "no linear layers", seconds)
    else:
        log.info("%s does not take kernels", type(model).__name__)
        for one in undo:
            one()
    return right and bool(places) and most > 0


def _layers(places: Sequence[Place], kernels: Kernels) -> list[FewRows]:
    return [FewRows(place.plain, kernels) for place in places]


def _most(found: Mapping[int, float]) -> int:
    """Up to how many rows the kernel is faster, without exception."""
    most = 0
    for rows in sorted(found):
        if found[rows] < 1:
            break
        most = rows
    return most


def _use_linears(places: Sequence[Place], kernels: Kernels, most: int) -> Iterator[Undo]:
    for place in places:
        layer = FewRows(place.plain, kernels)
        layer.most = most
        place.put(layer)
        if layer.weight is not place.plain.weight:
            # Now, so that little is in memory twice.
            place.plain.weight = None
        yield partial(_restore, place, layer)


def _restore(place: Place, layer: FewRows) -> None:
    if place.plain.weight is None:
        place.give_back(layer.weight)
    place.put(place.plain)
