"""A model's layers made so that the compiler sees each as one graph.

What touches the arena and what multiplies by packed weights become operators, into which the compiler does not look.
Does not know whether a model takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

import torch
from transformers import AttentionInterface

from .linear import PackedLinear

if TYPE_CHECKING:
    from .runners.flat import FlatRunner

NAMESPACE = "colab_llm_chat"
# Layers that share a graph hand it their numbers; 0 and 1 would get graphs of their own.
FIRST_NUMBER = 2
# One graph a layer or none: cut in pieces they take minutes to compile and are slower than uncompiled. Kernels of the
# compiler have another pool of threads on the CPU, which fights with PyTorch's own.
HOW: dict[str, Any] = {"dynamic": True, "fullgraph": True, "options": {"cpp.threads": 1}}


class OneGraph:
    """What is changed in a model and its runner. The operators are as long there as this is."""

    def __init__(self, runner: FlatRunner, layers: list[torch.nn.Module]) -> None:
        self._runner, self._layers = runner, layers
        self._attention: Any = runner.attention
        self._store: Any = runner.arena.update
        self._numbered = [one for layer in layers for one in numbered(layer)]
        self._packed = [one for layer in layers for one in layer.modules() if isinstance(one, PackedLinear)]
        self._library = torch.library.Library(NAMESPACE, "FRAGMENT")
        self._define(
            "attend(Tensor q, Tensor k, Tensor v, Tensor? sinks, SymInt number, float? scaling, SymInt? window, "
            "float? softcap) -> Tensor",
            self._attend,
            lambda q, k, v, *rest: q.new_empty(1, q.shape[2], q.shape[1], v.shape[3]),
        )
        self._define(
            "multiply(Tensor x, SymInt number, SymInt features) -> Tensor",
            self._multiply,
            lambda x, number, features: x.new_empty(*x.shape[:-1], features),
        )

    def _define(self, schema: str, compute: Callable[..., Any], fake: Callable[..., Any]) -> None:
        name = schema.partition("(")[0]
        self._library.define(schema)
        # The library is kept by this, which it must not keep.
        method: Any = WeakMethod(compute)
        self._library.impl(name, lambda *given: method()(*given), "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=self._library)

    def _attend(self, q: Any, k: Any, v: Any, sinks: Any, number: int, *how: Any) -> torch.Tensor:
        """Store a layer's new keys and values, then attend: in one, for the compiler knows of no arena."""
        module = self._numbered[number - FIRST_NUMBER]
        keys, values = self._store(k, v, module.layer_idx)
        scaling, window, softcap = how
        out: torch.Tensor = self._attention(module, q, keys, values, None, scaling, window, softcap, sinks)[0]
        return out

    def _multiply(self, x: torch.Tensor, number: int, features: int) -> torch.Tensor:
        return PackedLinear.forward(self._packed[number - FIRST_NUMBER], x)

    def begin(self) -> None:
        """From now on the layers compile themselves when they are called."""
        for places in (self._numbered, self._packed):
            for number, module in enumerate(places, start=FIRST_NUMBER):
                module.__dict__["compiled_number"] = number
        for packed in self._packed:
            packed.__dict__["forward"] = MethodType(_multiplied, packed)
        self._runner.arena.__dict__["update"] = _handed_on
        AttentionInterface.register(self._attention.name, _attended)
        self._runner.model_changed()
        for layer in self._layers:
            layer.compile(**HOW)

    def finish(self) -> None:
        """What is compiled stays; whatever else occurs runs uncompiled."""
        for layer in self._layers:
            layer._compiled_call_impl = torch._dynamo.run(layer._call_impl)
        # The operators end with their library.
        self._runner.arena.__dict__["compiled"] = self

    def undo(self) -> None:
        for layer in self._layers:
            layer._compiled_call_impl = None
        for packed in self._packed:
            del packed.__dict__["forward"]
        del self._runner.arena.__dict__["update"]
        AttentionInterface.register(self._attention.name, self._attention)
        self._runner.model_changed()


def _multiplied(layer: Any, x: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = torch.ops.colab_llm_chat.multiply(x, layer.compiled_number, layer.out_features)
    return product


def _handed_on(k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of the arena's `update`: the operator stores them."""
    return k, v


def _attended(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *mask: Any, **how: Any) -> Any:
    """In place of the runner's attention, called as that is."""
    if any(one is not None for one in (*mask, how.get("attention_mask"))):
        raise ValueError("this model hands a mask of its own to its attention")
    told = [how.get(name) for name in ("scaling", "sliding_window", "softcap")]
    return torch.ops.colab_llm_chat.attend(query, key, value, how.get("s_aux"), module.compiled_number, *told), None


def numbered(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts of a layer that know its number, its attention among them."""
    return [one for one in layer.modules() if isinstance(getattr(one, "layer_idx", None), int)]
