"""The kernels as functions of tensors in fp32 on the CPU. Knows no modules of a model."""

from __future__ import annotations

import logging
from ctypes import CDLL, Array, c_int64
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch

from .build import NotBuilt, built_library, kernel_folder
from .trial import declare

log = logging.getLogger("colab_llm_chat")


class Kernels:
    """A loaded library. What it is given must be fp32 on the CPU, and its last dimension without gaps.

    All raise MemoryError where there is none left, `rms_norm` and `rotate` as PyTorch does.
    """

    def __init__(self, library: Path) -> None:
        """Raises OSError for a file that is no such library."""
        try:
            self._library = declare(CDLL(str(library)))
        except AttributeError as error:
            raise OSError(str(error)) from error
        for one in (self._library.linear, self._library.attend, self._library.decode):
            one.errcheck = cast(Any, _checked)
        self.most_rows: int = self._library.most_rows()

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [..., in] of 1 to `most_rows` rows, weight [out, in], bias [out] -> [..., out]"""
        out, inputs = weight.shape
        x = x.contiguous()
        y = torch.empty(*x.shape[:-1], out)
        added = None if bias is None else bias.data_ptr()
        self._library.linear(y.data_ptr(), x.data_ptr(), weight.data_ptr(), added, x.numel() // inputs, inputs, out)
        return y

    def attend(
        self,
        query: torch.Tensor,
        arenas: tuple[torch.Tensor, torch.Tensor],
        spans: torch.Tensor,
        *,
        scale: float,
        window: int | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """query [heads, T, dim], keys and values [positions, kv_heads, dim], spans [n, 4] -> [T, heads, dim].

        Of each span its first token among T, how many queries, and the positions from which and up to which the first
        of these sees. What belongs to no span is left as it is.
        """
        keys, values = arenas
        heads, tokens, dim = query.shape
        kv_heads, value_dim = values.shape[1:]
        out = torch.empty(tokens, heads, value_dim)
        added = None if sinks is None else sinks.data_ptr()
        read = [*(one.data_ptr() for one in (out, query, keys, values)), added]
        sizes = [len(spans), heads, kv_heads, dim, value_dim, query.stride(0), query.stride(1), window or 0]
        self._library.attend(*read, spans.data_ptr(), *sizes, scale)
        return out

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x [..., n], weight [n] -> x over its root mean square, times weight."""
        x = x.contiguous()
        out = torch.empty_like(x)
        size = weight.shape[0]
        self._library.rms_norm(out.data_ptr(), x.data_ptr(), weight.data_ptr(), x.numel() // size, size, eps)
        return out

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x [1, heads, T, dim] turned by cos and sin [1, T, dim], the first half of a head with its second."""
        _, heads, tokens, dim = x.shape
        out = torch.empty(1, tokens, heads, dim)
        turned = [one.data_ptr() for one in (out, x, cos, sin)]
        self._library.rotate(*turned, tokens, heads, dim, x.stride(1), x.stride(2))
        return out.transpose(1, 2)

    def decode(
        self,
        hidden: torch.Tensor,
        layers: Array[Any],
        shape: tuple[int, ...],
        *,
        turns: tuple[torch.Tensor, torch.Tensor],
        reads: tuple[torch.Tensor, torch.Tensor],
        numbers: tuple[float, float],
    ) -> None:
        """hidden [T, hidden] through all layers, in place; see decoder.py, and kernels.cpp for `shape` and `numbers`.

        `turns` are cos and sin [1, T, dim], `reads` the tokens' places in the arenas [T] and their spans [n, 4].
        """
        (cos, sin), (where, spans) = turns, reads
        sizes = (c_int64 * 6)(len(hidden), *shape)
        given = [one.data_ptr() for one in (cos, sin, where, spans)]
        self._library.decode(hidden.data_ptr(), layers, len(layers), sizes, *given, len(spans), *numbers)


def _checked(code: int, *call: Any) -> int:
    """As ctypes asks it after each call. Raises MemoryError, which the engine knows what to do about."""
    if code:
        raise MemoryError("no memory for what a kernel keeps meanwhile")
    return code


@cache
def load_kernels() -> Kernels | None:
    """Those of this machine, built at the first start; None where it cannot have them, which the log tells."""
    try:
        return Kernels(built_library(kernel_folder()))
    except (NotBuilt, OSError) as error:
        log.info("without kernels of its own, replies on this processor take longer: %s", error)
        return None
