"""All layers of a decoder that is built as Llama is, in one call of a kernel: what lies between products costs little
then.

Knows a model by how it is built: pre-norm layers of attention and gated MLP. Whether that says all is told by its
logits.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ctypes import Structure, c_int64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

from .kernels import Kernels
from .parts import FewRows, NormKernel, close

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")

PARTS = {
    "": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
# What an attention may have besides: a norm for each head's queries and keys.
MAY_HAVE = {"self_attn": {"q_norm", "k_norm"}}


@dataclass(frozen=True, slots=True)
class Told:
    """What a layer's attention was told when the model ran as it is."""

    scale: float
    window: int | None
    plain: bool
    """Neither a soft cap nor sinks."""


class Layer(Structure):
    """As in kernels.cpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("norm", "q", "q_bias", "k", "k_bias", "v", "v_bias", "q_norm", "k_norm")),
        *((name, c_void_p) for name in ("o", "o_bias", "mlp_norm", "gate", "gate_bias", "up", "up_bias")),
        *((name, c_void_p) for name in ("down", "down_bias", "keys", "values")),
        ("window", c_int64),
    )


class Shape(NamedTuple):
    """As in kernels.cpp, but for the tokens."""

    hidden: int
    heads: int
    kv_heads: int
    dim: int
    inner: int


def _shape(layer: Any) -> Shape:
    try:
        dim = int(layer.self_attn.head_dim)
        queries, keys, gate = layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.gate_proj
        heads, kv_heads = queries.out_features // dim, keys.out_features // dim
        shape = Shape(gate.in_features, heads, kv_heads, dim, gate.out_features)
    except AttributeError as error:
        raise TypeError(f"a layer without {error.name}") from error
    if heads % kv_heads or dim % 2:
        raise TypeError(f"{heads} heads of {dim} over {kv_heads}")
    return shape


class Decoder:
    """The layers of one model. Raises TypeError for a model that is built otherwise, or whose layers got no kernels."""

    def __init__(self, model: PreTrainedModel, kernels: Kernels) -> None:
        self._run = kernels.decode
        base: Any = getattr(model, model.base_model_prefix, None)
        self._embed, self._rotary = (_part(base, name) for name in ("embed_tokens", "rotary_emb"))
        self._norm, self._head, layers = _part(base, "norm"), model.get_output_embeddings(), _part(base, "layers")
        self._eps: set[float] = set()
        self._most: set[int] = set()
        # The kernel has no more than their places.
        self._held: list[torch.Tensor] = []
        if not len(layers):
            raise TypeError("a model without layers")
        self._shape = _shape(layers[0])
        self._layers = (Layer * len(layers))(*(self._layer(layer) for layer in layers))
        if len(self._eps) != 1:
            raise TypeError("norms of several kinds")
        self.most = min(self._most)
        self._scale = 0.0

    def _layer(self, layer: Any) -> Layer:
        for name, wanted in PARTS.items():
            found = {one for one, _ in (layer.get_submodule(name) if name else layer).named_children()}
            if not wanted <= found <= wanted | MAY_HAVE.get(name, set()):
                raise TypeError(f"a layer of {', '.join(sorted(found))}")
        attention, mlp, shape = layer.self_attn, layer.mlp, self._shape
        x = torch.linspace(-4, 4, 9)
        if not close(mlp.act_fn(x), F.silu(x)):
            raise TypeError("another activation than SiLU")
        asked, cached = shape.heads * shape.dim, shape.kv_heads * shape.dim
        parts: dict[str, int | None] = {
            "norm": self._normed(layer.input_layernorm, shape.hidden),
            **self._weights("q", attention.q_proj, asked, shape.hidden),
            **self._weights("k", attention.k_proj, cached, shape.hidden),
            **self._weights("v", attention.v_proj, cached, shape.hidden),
            **self._weights("o", attention.o_proj, shape.hidden, asked),
            "mlp_norm": self._normed(layer.post_attention_layernorm, shape.hidden),
            **self._weights("gate", mlp.gate_proj, shape.inner, shape.hidden),
            **self._weights("up", mlp.up_proj, shape.inner, shape.hidden),
            **self._weights("down", mlp.down_proj, shape.hidden, shape.inner),
        }
        heads = {one: getattr(attention, one) for one in MAY_HAVE["self_attn"] if hasattr(attention, one)}
        return Layer(**parts, **{name: self._normed(norm, shape.dim) for name, norm in heads.items()})

    def _weights(self, name: str, linear: Any, outputs: int, inputs: int) -> dict[str, int | None]:
        """A linear layer's numbers. The kernel reads as many as the first layer has: another shape would be beyond."""
        if not isinstance(linear, FewRows) or linear.weight.shape != (outputs, inputs):
            raise TypeError(f"another {name} than a linear layer of {inputs} to {outputs} with a kernel")
        self._most.add(linear.most)
        bias = None if linear.bias is None else self._place(linear.bias)
        return {name: self._place(linear.weight), f"{name}_bias": bias}

    def _normed(self, norm: Any, size: int) -> int:
        kernel = norm.__dict__.get("forward")
        if not isinstance(kernel, NormKernel) or kernel.one_more or kernel.weight.shape != (size,):
            raise TypeError(f"another norm than one of {size} with a kernel")
        self._eps.add(kernel.eps)
        return self._place(kernel.weight)

    def _place(self, numbers: torch.Tensor) -> int:
        self._held.append(numbers.detach())
        return numbers.data_ptr()

    def tell(self, told: Mapping[int, Told]) -> None:
        """What the layers' attention was told, by their numbers. Raises TypeError where the kernel lacks some of it."""
        every = [told.get(number) for number in range(len(self._layers))]
        scales = {one.scale for one in every if one is not None and one.plain}
        if len(scales) != 1 or any(one is None or not one.plain for one in every):
            raise TypeError("attention that the kernel lacks")
        (self._scale,) = scales
        for layer, one in zip(self._layers, every, strict=True):
            layer.window = one.window or 0 if one is not None else 0

    def logits(
        self,
        inputs: torch.Tensor,
        kept: torch.Tensor | None,
        *,
        arenas: list[tuple[torch.Tensor, torch.Tensor]],
        where: torch.Tensor,
        spans: torch.Tensor,
    ) -> torch.Tensor:
        """inputs [2, T], ids and positions -> logits [len(kept), vocab], or of all T.

        `arenas` [positions, kv_heads, dim] of each layer's keys and values, `where` [T] the tokens' places in them,
        `spans` as `Kernels.attend` has them.
        """
        hidden: torch.Tensor = self._embed(inputs[0]).contiguous()
        cos, sin = (one.contiguous() for one in self._rotary(hidden[None], inputs[1:]))
        if cos.shape != (1, len(hidden), self._shape.dim) or hidden.dtype != torch.float32:
            raise TypeError(f"rotary factors of {tuple(cos.shape)}")
        for layer, (keys, values) in zip(self._layers, arenas, strict=True):
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
        numbers = (next(iter(self._eps)), self._scale)
        self._run(hidden, self._layers, self._shape, turns=(cos, sin), reads=(where, spans), numbers=numbers)
        logits: torch.Tensor = self._head(self._norm(hidden if kept is None else hidden[kept]))
        return logits


def built_alike(model: PreTrainedModel, kernels: Kernels) -> bool:
    """Whether a model's layers are such as the kernel computes."""
    try:
        Decoder(model, kernels)
    except TypeError as error:
        log.debug("%s has its layers one by one: %s", type(model).__name__, error)
        return False
    return True


def _part(base: Any, name: str) -> Any:
    if (found := getattr(base, name, None)) is None:
        raise TypeError(f"a model without {name}")
    return found
