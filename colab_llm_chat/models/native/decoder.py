"""All layers of a decoder that is built as Llama is, in one call of a kernel: what lies between products costs little
then.

Knows a model by how it is built: pre-norm layers of attention and gated MLP. Whether that says all is told by its
logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import Structure, c_int64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from .kernels import Kernels
from .parts import FewRows, NormKernel, close

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


class Decoder:
    """The layers of one model. Raises TypeError for a model that is built otherwise, or whose layers got no kernels."""

    def __init__(self, model: PreTrainedModel, kernels: Kernels) -> None:
        self._run = kernels.decode
        base: Any = getattr(model, model.base_model_prefix, None)
        self._embed, self._rotary = (_part(base, name) for name in ("embed_tokens", "rotary_emb"))
        self._norm, self._head, layers = _part(base, "norm"), model.get_output_embeddings(), _part(base, "layers")
        self._linears: list[FewRows] = []
        self._eps: set[float] = set()
        self._layers = (Layer * len(layers))(*(self._layer(layer) for layer in layers))
        if len(self._eps) != 1:
            raise TypeError("norms of several kinds")
        self.most = min(one.most for one in self._linears)
        first, attention = layers[0].mlp.gate_proj, layers[0].self_attn
        self._dim = int(attention.head_dim)
        heads, kv_heads = (one.out_features // self._dim for one in (attention.q_proj, attention.k_proj))
        self._shape = (first.in_features, heads, kv_heads, self._dim, first.out_features)
        self._scale = 0.0

    def _layer(self, layer: Any) -> Layer:
        for name, wanted in PARTS.items():
            found = {one for one, _ in (layer.get_submodule(name) if name else layer).named_children()}
            if not wanted <= found <= wanted | MAY_HAVE.get(name, set()):
                raise TypeError(f"a layer of {', '.join(sorted(found))}")
        attention, mlp = layer.self_attn, layer.mlp
        x = torch.linspace(-4, 4, 9)
        if not close(mlp.act_fn(x), F.silu(x)):
            raise TypeError("another activation than SiLU")
        linears = {one: getattr(attention, f"{one}_proj") for one in "qkvo"}
        linears |= {one: getattr(mlp, f"{one}_proj") for one in ("gate", "up", "down")}
        norms = {"norm": layer.input_layernorm, "mlp_norm": layer.post_attention_layernorm}
        norms |= {one: getattr(attention, one) for one in ("q_norm", "k_norm") if hasattr(attention, one)}
        return Layer(**self._weights(linears), **{name: self._normed(norm) for name, norm in norms.items()})

    def _weights(self, linears: Mapping[str, Any]) -> dict[str, int | None]:
        if not all(isinstance(one, FewRows) for one in linears.values()):
            raise TypeError("linear layers without kernels")
        self._linears += linears.values()
        biases = {f"{name}_bias": None if one.bias is None else one.bias.data_ptr() for name, one in linears.items()}
        return {name: one.weight.data_ptr() for name, one in linears.items()} | biases

    def _normed(self, norm: Any) -> int:
        kernel = norm.__dict__.get("forward")
        if not isinstance(kernel, NormKernel):
            raise TypeError("norms without kernels")
        self._eps.add(kernel.eps)
        return kernel.weight.data_ptr()

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
        if cos.shape != (1, len(hidden), self._dim) or hidden.dtype != torch.float32:
            raise TypeError(f"rotary factors of {tuple(cos.shape)}")
        for layer, (keys, values) in zip(self._layers, arenas, strict=True):
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
        numbers = (next(iter(self._eps)), self._scale)
        self._run(hidden, self._layers, self._shape, turns=(cos, sin), reads=(where, spans), numbers=numbers)
        logits: torch.Tensor = self._head(self._norm(hidden if kept is None else hidden[kept]))
        return logits


def _part(base: Any, name: str) -> Any:
    if (found := getattr(base, name, None)) is None:
        raise TypeError(f"a model without {name}")
    return found
