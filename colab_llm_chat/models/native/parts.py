"""The parts of a model that kernels compute: linear layers for few rows, RMS norms and rotary positions.

Knows no family of models: what a part computes is tried on the spot.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers.pytorch_utils import Conv1D

from ..proof import CANNOT_RUN
from .kernels import Kernels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROTARY = "apply_rotary_pos_emb"
# What a part and its kernel may differ by on numbers around one.
ROUNDING = 1e-4

Undo = Callable[[], object]


class FewRows(torch.nn.Linear):
    """`nn.Linear` with a kernel for up to `most` rows; more of them go to PyTorch's own."""

    def __init__(self, plain: Any, kernels: Kernels) -> None:
        """Shares the weight of a linear layer; that of a Conv1D lies the other way round and is copied."""
        turned = isinstance(plain, Conv1D)
        out, inputs = reversed(plain.weight.shape) if turned else plain.weight.shape
        super().__init__(inputs, out, bias=False, device="meta")
        self.weight = torch.nn.Parameter(plain.weight.t().contiguous(), False) if turned else plain.weight
        self.bias = plain.bias
        self.most = kernels.most_rows
        self._multiply = kernels.linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]"""
        few = x.shape[-1:] == (self.in_features,) and 0 < x.numel() <= self.most * self.in_features
        return self.by_kernel(x) if few and _plain_numbers(x) else self.by_plain(x)

    def by_kernel(self, x: torch.Tensor) -> torch.Tensor:
        return self._multiply(x, self.weight, self.bias)

    def by_plain(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class NormKernel:
    """In place of the `forward` of an RMS norm."""

    def __init__(
        self, own: Callable[..., Any], kernels: Kernels, weight: torch.Tensor, eps: float, *, one_more: bool
    ) -> None:
        """`one_more`: multiply by one more than the weight, as Gemma's norms do."""
        self._own, self._compute, self.weight, self.eps, self.one_more = own, kernels.rms_norm, weight, eps, one_more

    def __call__(self, x: torch.Tensor, *more: Any, **options: Any) -> Any:
        if more or options or not _plain_numbers(x) or x.shape[-1] != self.weight.shape[0]:
            return self._own(x, *more, **options)
        return self._compute(x, 1 + self.weight if self.one_more else self.weight, self.eps)


class RotaryKernel:
    """In place of the function by which a family of models turns queries and keys by their positions."""

    def __init__(self, own: Callable[..., Any], kernels: Kernels) -> None:
        self.own, self._turn = own, kernels.rotate

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *more: Any, **options: Any
    ) -> Any:
        # Of several rows all may have the same positions.
        whole = all(one.dim() == 4 and (1, *one.shape[2:]) == cos.shape == sin.shape for one in (q, k))
        whole = whole and len(q) == len(k) == 1
        # A family may turn only a part of each head, or lay out its numbers otherwise.
        if more or options or not whole or not all(map(_plain_numbers, (q, k, cos, sin))):
            return self.own(q, k, cos, sin, *more, **options)
        cos, sin = cos.contiguous(), sin.contiguous()
        return self._turn(q, cos, sin), self._turn(k, cos, sin)


def _plain_numbers(x: torch.Tensor) -> bool:
    """Whether a kernel may read them."""
    return x.dtype == torch.float32 and x.is_cpu and x.stride(-1) == 1 and not torch.is_grad_enabled()


@torch.inference_mode()
def use_norms(model: PreTrainedModel, kernels: Kernels) -> Iterator[Undo]:
    """Let all RMS norms that compute what the kernel does use it."""
    for module in model.modules():
        weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
        named = type(module).__name__.endswith("RMSNorm") and "forward" not in module.__dict__
        if not (named and isinstance(eps, float) and isinstance(weight, torch.Tensor) and weight.dim() == 1):
            continue
        if not weight.is_cpu or weight.dtype != torch.float32:
            continue
        x = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0))
        for one_more in (False, True):
            kernel = NormKernel(module.forward, kernels, weight.detach(), eps, one_more=one_more)
            if _computes(module, x, kernel(x)):
                module.__dict__["forward"] = kernel
                yield partial(module.__dict__.pop, "forward")
                break


def _computes(module: torch.nn.Module, x: torch.Tensor, found: torch.Tensor) -> bool:
    """Whether a norm gives this; some want more than what they norm."""
    try:
        return close(found, module(x))
    except CANNOT_RUN:
        return False


def close(found: Any, wanted: Any) -> bool:
    return isinstance(wanted, torch.Tensor) and torch.allclose(found, wanted, rtol=ROUNDING, atol=ROUNDING)


@torch.inference_mode()
def use_rotary(model: PreTrainedModel, kernels: Kernels) -> Iterator[Undo]:
    """Let the family's function for rotary positions use the kernel, where it computes what that does."""
    for space in {sys.modules.get(type(module).__module__) for module in model.modules()}:
        own = getattr(space, ROTARY, None)
        own = getattr(own, "own", own)
        if own is None or not _turns_halves(own, kernels):
            continue
        setattr(space, ROTARY, RotaryKernel(own, kernels))
        yield partial(setattr, space, ROTARY, own)


def _turns_halves(own: Callable[..., Any], kernels: Kernels) -> bool:
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 5, heads, 16, generator=draw).transpose(1, 2) for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 5, 16, generator=draw)
    try:
        pairs = list(zip(RotaryKernel(own, kernels)(q, k, cos, sin), own(q, k, cos, sin), strict=True))
    except CANNOT_RUN:
        return False
    return all(close(*pair) for pair in pairs)
