"""Positions of a decoder's rows that are not equally long: told to what adds learnt or sinusoidal ones to its ids.

Such a part is known by what its `forward` takes. Relative positions need none of this, and rotary ones are arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# What transformers calls the number of positions before the ids that are given.
PAST, IDS = "past_key_values_length", "position_ids"


class RowPositions:
    """Changes the parts of a decoder until `undo`."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        self._lengths: list[int] = []
        parts = [part for part in decoder.modules() if PAST in inspect.signature(part.forward).parameters]
        self._changed = [part for part in parts if part is not decoder]
        for part in self._changed:
            part.__dict__["forward"] = functools.partial(self._placed, part.forward, inspect.signature(part.forward))

    def undo(self) -> None:
        for part in self._changed:
            del part.__dict__["forward"]

    @contextmanager
    def of(self, lengths: list[int]) -> Iterator[None]:
        """While it lasts, one id a row is read, each after so many others."""
        self._lengths = lengths
        try:
            yield
        finally:
            self._lengths = []

    def _placed(self, forward: Callable[..., Any], signature: inspect.Signature, *args: Any, **kwargs: Any) -> Any:
        if not self._lengths:
            return forward(*args, **kwargs)
        rows, given, by_length = len(self._lengths), signature.bind(*args, **kwargs), {}
        for length in set(self._lengths):
            given.arguments[PAST] = length
            if isinstance(ids := given.arguments.get(IDS), torch.Tensor):
                given.arguments[IDS] = torch.full_like(ids, length)
            # [1, width], [1, 1, width] or [rows, 1, width]
            by_length[length] = forward(*given.args, **given.kwargs).expand(rows, 1, -1)
        return torch.stack([by_length[length][row] for row, length in enumerate(self._lengths)])
