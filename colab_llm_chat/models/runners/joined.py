"""What an encoder-decoder model knows of several rows, joined so that one forward steps them all.

Rows end at the same position: before a shorter one are zeros that nobody attends to. Each step is written in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

# Positions of the decoder that are made room for at once.
AHEAD = 64
Part = tuple["Joined", int, int]


class RoomyLayer(DynamicLayer):
    """Keys and values [rows, heads, positions, head_dim] of a layer, with room for more of them."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        begin: Any = super().__init__
        begin()
        self.lazy_initialization(keys, values)
        self._room = keys, values
        self.keep(keys.shape[-2])

    def keep(self, length: int) -> None:
        """Have the first so many positions only."""
        keys, values = self._room
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            keys, values = (torch.nn.functional.pad(one, (0, 0, 0, max(AHEAD, start // 2))) for one in self._room)
            self._room = keys, values
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:end] = new
        self.keep(end)
        return self._room[0][:, :, :end], self._room[1][:, :, :end]


@dataclass(slots=True, eq=False)
class Joined:
    """`source` [rows, most, width] is what the encoder made of `source_lengths` ids; `before` each row's zeros."""

    cache: EncoderDecoderCache
    source: torch.Tensor
    source_lengths: list[int]
    before: list[int]

    @property
    def length(self) -> int:
        return int(self.cache.get_seq_length())

    def read(self, at: int) -> int:
        """How many ids of a row have keys and values."""
        return self.length - self.before[at]

    def keep(self, length: int) -> None:
        layers: list[Any] = self.cache.self_attention_cache.layers
        for layer in layers:
            layer.keep(length)

    @property
    def source_mask(self) -> torch.Tensor:
        lengths = torch.tensor(self.source_lengths, device=self.source.device)
        return (torch.arange(self.source.shape[1], device=self.source.device) < lengths[:, None]).long()

    @property
    def next_mask(self) -> torch.Tensor:
        """[rows, length + 1]: what the next position attends to."""
        before = torch.tensor(self.before, device=self.source.device)
        return (torch.arange(self.length + 1, device=self.source.device) >= before[:, None]).long()


@dataclass(slots=True)
class _Group:
    """Rows at places `old` of a `joined`, all of which end at its position `end`, and where they go."""

    joined: Joined
    end: int
    old: list[int]
    new: list[int]


def join(parts: list[Part]) -> Joined:
    """Rows, each from a `Joined` and its place there, with its first so many ids."""
    groups: dict[tuple[int, int], _Group] = {}
    for new, (joined, old, read) in enumerate(parts):
        end = joined.before[old] + read
        group = groups.setdefault((id(joined), end), _Group(joined, end, [], []))
        group.old.append(old)
        group.new.append(new)
    length, lengths = max(part[2] for part in parts), [joined.source_lengths[old] for joined, old, _ in parts]
    return _joined(list(groups.values()), [length - read for *_, read in parts], length=length, source_lengths=lengths)


def _joined(groups: list[_Group], before: list[int], *, length: int, source_lengths: list[int]) -> Joined:
    own, cross, most = DynamicCache(), DynamicCache(), max(source_lengths)
    caches: list[Any] = [group.joined.cache for group in groups]
    for number in range(len(caches[0])):
        layers = [cache.self_attention_cache.layers[number] for cache in caches]
        keys = _ending(groups, [layer.keys for layer in layers], length)
        own.layers.append(RoomyLayer(keys, _ending(groups, [layer.values for layer in layers], length)))
        layers = [cache.cross_attention_cache.layers[number] for cache in caches]
        keys = _beginning(groups, [layer.keys for layer in layers], most)
        cross.layers.append(RoomyLayer(keys, _beginning(groups, [layer.values for layer in layers], most)))
    source = _beginning(groups, [group.joined.source for group in groups], most)
    joined = Joined(EncoderDecoderCache(own, cross), source, source_lengths, before)
    joined.keep(length)
    return joined


def _ending(groups: list[_Group], tensors: list[torch.Tensor], length: int) -> torch.Tensor:
    """Each group's tensor [rows, heads, positions, head_dim] in one, where all rows end at `length`; room behind it."""
    made = _zeros(groups, tensors[0], length + AHEAD)
    for group, tensor in zip(groups, tensors, strict=True):
        count = min(group.end, length)
        made[group.new, :, length - count : length] = tensor[group.old, :, group.end - count : group.end]
    return made


def _beginning(groups: list[_Group], tensors: list[torch.Tensor], most: int) -> torch.Tensor:
    """Each group's tensor [rows, ..., positions, width] in one with `most` positions, where all rows begin together."""
    made = _zeros(groups, tensors[0], most)
    for group, tensor in zip(groups, tensors, strict=True):
        count = min(most, tensor.shape[-2])
        made[group.new, ..., :count, :] = tensor[group.old, ..., :count, :]
    return made


def _zeros(groups: list[_Group], like: torch.Tensor, positions: int) -> torch.Tensor:
    rows = sum(len(group.new) for group in groups)
    return like.new_zeros(rows, *like.shape[1:-2], positions, like.shape[-1])
