"""Rotary factors that depend on how long a text is, for steps in which texts of many lengths run at once.

transformers chooses them by the longest text of a batch, so that one row would change what another one says.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..engine.sequence import Step

# Flags at first: rows and a chunk. A larger step takes more.
FLAGS = 2048


class LongRotary:
    """longrope: one set of factors for texts of up to `switch` ids and one for longer ones, by each row's own length.

    Keys turned by one set are of no use to the other: a text that grows beyond is read again, as `generate` does.
    """

    def __init__(self, module: torch.nn.Module, switch: int, like: torch.Tensor) -> None:
        self.switch = switch
        self._short, self._long = (_fixed(copy.deepcopy(module), length, like) for length in (switch, switch + 1))
        # One buffer for good, which captured graphs may read.
        self._flags = torch.zeros(FLAGS, 1, dtype=torch.bool, device=like.device)

    def begin(self, step: Step) -> None:
        """Note which tokens of a step belong to long texts."""
        flags = [query.row.long for query in step.queries]
        if step.chunk is not None:
            flags += [step.chunk.sequence.long] * len(step.chunk.ids)
        if len(flags) > len(self._flags):
            self._flags = self._flags.new_zeros(len(flags), 1)
        self._flags[: len(flags), 0] = torch.tensor(flags, device=self._flags.device)

    def __call__(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [1, T, dim] for positions [1, T]."""
        flags = self._flags[: position_ids.shape[1]]
        (short_cos, short_sin), (long_cos, long_sin) = self._short(x, position_ids), self._long(x, position_ids)
        return torch.where(flags, long_cos, short_cos), torch.where(flags, long_sin, short_sin)


def steady_rotary(model: PreTrainedModel, context_length: int) -> tuple[list[LongRotary], list[torch.nn.Module]]:
    """Let no text's rotary factors depend on another's; what chooses by row, and what was changed for `restore_rotary`.

    Dynamic NTK, for which each length has factors of its own, gets those of the longest conversation.
    """
    by_row, changed = [], []
    like = torch.zeros(1, 1, 1, device=model.device, dtype=model.dtype)
    for module in list(model.modules()):
        kind = getattr(module, "rope_type", None)
        if not isinstance(kind, str) or not ("dynamic" in kind or kind == "longrope"):
            continue
        rope = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
        switch = rope.get("original_max_position_embeddings")
        # Beside the class's own, which `restore_rotary` lets show again.
        if kind == "longrope" and isinstance(switch, int) and switch < context_length:
            by_row.append(LongRotary(module, switch, like))
            module.__dict__["forward"] = by_row[-1]
        else:
            module.__dict__["forward"] = _fixed(copy.deepcopy(module), context_length, like)
        changed.append(module)
    return by_row, changed


def restore_rotary(changed: list[torch.nn.Module]) -> None:
    for module in changed:
        del module.__dict__["forward"]


def _fixed(module: torch.nn.Module, length: int, like: torch.Tensor) -> torch.nn.Module:
    """The module with the factors of a text of such a length, for good."""
    module(like, torch.tensor([[length - 1]], device=like.device))
    # Any other kind would choose again at the next call.
    module.__dict__["rope_type"] = "default"
    return module
