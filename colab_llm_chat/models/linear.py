"""A linear layer on the CPU whose weight lies as oneDNN's kernels want it, and how fast that is beside a plain one.

Knows nothing of models: who has such layers, and which weights stay, is decided elsewhere.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers.pytorch_utils import Conv1D

# oneDNN chooses a layout by a number of rows: the one for hundreds is as good for a few, the one for 1 is bad for all.
ROWS_HINT = 256
# Numbers of rows that are measured, as one person's reply, several together and a prompt have them, each with the
# seconds that it may take: loading waits for them.
MEASURED_ROWS = {1: 0.14, 8: 0.04, 128: 0.05}
PASSES = 5
# On a busy machine a single call may wait for long, and fewer of them tell nothing, however long they took.
LEAST_CALLS = 16


class Ways(NamedTuple):
    """A linear layer by its plain weight and in another way."""

    inputs: int
    outputs: int
    plain: Callable[[torch.Tensor], torch.Tensor]
    other: Callable[[torch.Tensor], torch.Tensor]


class PackedLinear(torch.nn.Module):
    """What `nn.Linear` computes. Has the plain weight too, to be called for a single row, until `free_plain`.

    From then on `weight` tells shape, dtype and size; only its `to_dense()` tells the numbers.
    """

    def __init__(self, plain: Any) -> None:
        super().__init__()
        dense: torch.Tensor = plain.weight.detach()
        # GPT-2 multiplies by a matrix that lies the other way round.
        dense = dense.t().contiguous() if isinstance(plain, Conv1D) else dense
        self.out_features, self.in_features = dense.shape
        self.weight: torch.nn.Parameter = plain.weight
        self.bias = plain.bias
        self.packed: torch.Tensor | None
        packed = torch.ops.mkldnn._reorder_linear_weight(dense, ROWS_HINT)
        self.register_buffer("packed", packed, persistent=False)
        self.one_row_plain = False
        self.by_plain: Any = plain.forward
        self._multiply: Any = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]"""
        product: torch.Tensor
        product = self.by_plain(x) if self.one_row_plain and x.numel() == self.in_features else self.by_packed(x)
        return product

    def by_packed(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight if self.packed is None else self.packed
        product: torch.Tensor = self._multiply(x, weight, self.bias, "none", [], "")
        return product

    def free_plain(self) -> None:
        """Let go of the plain weight; whoever else has it must do so too."""
        packed: Any = self.packed
        # A parameter, as those are what a model counts.
        self.weight, self.packed = torch.nn.Parameter(packed, requires_grad=False), None


@torch.inference_mode()
def measured_speeds(layers: Sequence[PackedLinear]) -> dict[int, float]:
    """How many times as fast as plain ones the packed weights are, by number of rows; the layers must have both.

    To tell what happens in a model, the layers must together be larger than the caches.
    """
    return speeds([Ways(layer.in_features, layer.out_features, layer.by_plain, layer.by_packed) for layer in layers])


@torch.inference_mode()
def speeds(layers: Sequence[Ways], limits: Mapping[int, float] = MEASURED_ROWS) -> dict[int, float]:
    """How many times as fast as plain the other way is, by number of rows, each measured for so many seconds."""
    # Of many rows a large layer alone would take all of the time, and one figure tells little.
    small_first = sorted(layers, key=lambda layer: layer.inputs * layer.outputs)
    return {rows: _speed(layers if rows == 1 else small_first, rows, limit) for rows, limit in limits.items()}


def _speed(layers: Sequence[Ways], rows: int, seconds: float) -> float:
    taken: defaultdict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    end = time.perf_counter() + seconds
    for calls, layer in enumerate(itertools.chain.from_iterable(itertools.repeat(layers, PASSES)), start=1):
        x = torch.ones(rows, layer.inputs)
        began = time.perf_counter()
        layer.plain(x)
        between = time.perf_counter()
        layer.other(x)
        now = time.perf_counter()
        taken[layer.inputs, layer.outputs].append((between - began, now - between))
        if now > end and calls >= LEAST_CALLS:
            break
    plain, other = (sum(len(each) * _fast([one[i] for one in each]) for each in taken.values()) for i in (0, 1))
    return plain / other


def _fast(seconds: list[float]) -> float:
    """The tenth fastest of a hundred: on a busy machine most calls wait for other programs."""
    return sorted(seconds)[len(seconds) // 10]
