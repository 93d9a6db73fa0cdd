"""All layers in one call: which models are built so, and that nothing else is read as if it were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from colab_llm_chat.engine.sequence import Chunk, Sequence, Step
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.native.decoder import Decoder, Told, built_alike
from colab_llm_chat.models.native.kernels import Kernels, load_kernels
from colab_llm_chat.models.native.use import use_kernels
from colab_llm_chat.models.runners.native import DecoderRunner
from colab_llm_chat.settings import SamplingParams
from tests.test_families import module_kept
from tests.tiny_models import tiny_model

ROTARY = "apply_rotary_pos_emb"


@pytest.fixture
def kernels() -> Kernels:
    found = load_kernels()
    assert found is not None
    return found


@pytest.fixture
def llama(kernels: Kernels) -> Iterator[PreTrainedModel]:
    model = tiny_model("llama", scale=4)
    with module_kept(model, ROTARY):
        use_kernels(model, kernels)
        yield model


@torch.inference_mode()
def read(runner: Any, ids: list[int]) -> torch.Tensor:
    """Logits after a prompt, of which another chunk was read before."""
    row = Sequence(0, ids, SamplingParams())
    row.slot = runner.arena.take(len(ids), len(ids))
    for start, end in ((0, 9), (9, len(ids))):
        logits: torch.Tensor = runner.forward(Step([], Chunk(row, start, ids[start:end])))
    runner.arena.free(row.slot)
    return logits[-1]


def test_a_model_as_llama_is_taken(llama: PreTrainedModel, kernels: Kernels) -> None:
    assert built_alike(llama, kernels)


@pytest.mark.parametrize(
    ("family", "fields"),
    [("llama", {"hidden_act": "gelu"}), ("gpt2", {}), ("gemma2", {}), ("mixtral", {}), ("olmo2", {}), ("glm4", {})],
)
def test_a_model_built_otherwise_is_not(family: str, fields: dict[str, Any], kernels: Kernels) -> None:
    model = tiny_model(family, scale=4, **fields)
    with module_kept(model, ROTARY):
        use_kernels(model, kernels)
        assert not built_alike(model, kernels)


def test_without_kernels_in_its_parts_a_model_is_not_taken(kernels: Kernels) -> None:
    assert not built_alike(tiny_model("llama"), kernels)


@pytest.mark.parametrize("name", ["self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"])
def test_a_layer_of_another_shape_would_be_read_beyond_its_end(
    name: str, llama: PreTrainedModel, kernels: Kernels
) -> None:
    linear: Any = llama.get_submodule(f"model.layers.1.{name}")
    linear.weight = torch.nn.Parameter(linear.weight[:-8].contiguous())
    assert not built_alike(llama, kernels)


def test_a_norm_of_another_size_or_rounding_is_not_taken(llama: Any, kernels: Kernels) -> None:
    norm = llama.model.layers[1].input_layernorm.__dict__["forward"]
    norm.eps *= 2
    assert not built_alike(llama, kernels)
    norm.eps, norm.weight = norm.eps / 2, norm.weight[:-1]
    assert not built_alike(llama, kernels)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {0: Told(0.25, None, True)},
        {number: Told(0.25, None, number != 1) for number in range(8)},
        {number: Told(0.25 + number, None, True) for number in range(8)},
    ],
)
def test_attention_that_the_kernel_lacks_is_not_taken(
    told: dict[int, Told], llama: PreTrainedModel, kernels: Kernels
) -> None:
    with pytest.raises(TypeError, match="attention"):
        Decoder(llama, kernels).tell(told)


def test_a_chunk_of_more_rows_than_the_kernel_takes_goes_layer_by_layer_and_says_the_same(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, ids = choose_runner(llama, context_length=64), list(range(5, 30))
    assert isinstance(runner, DecoderRunner)
    calls: list[int] = []
    own = Decoder.logits
    monkeypatch.setattr(Decoder, "logits", lambda self, *a, **k: (calls.append(1), own(self, *a, **k))[1])
    at_once = read(runner, ids)
    assert len(calls) == 2
    monkeypatch.setattr(runner._decoder, "most", 9)
    torch.testing.assert_close(read(runner, ids), at_once, rtol=1e-4, atol=1e-4)
    assert len(calls) == 3
