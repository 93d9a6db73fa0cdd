"""Packed weights: the same numbers, no second copy of a weight, and plain layers wherever packed ones would not do."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from colab_llm_chat.engine.runner import FlatRunner
from colab_llm_chat.models import packed
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.load import load_model
from colab_llm_chat.models.packed import PackedLinear, pack_linears
from colab_llm_chat.settings import Settings
from tests.tiny_models import save_tiny_model, tiny_model

IDS = torch.arange(1, 40)[None]
TIED = {"tie_word_embeddings": True}


@torch.inference_mode()
def logits(model: PreTrainedModel) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def packed_layers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, PackedLinear) for module in model.modules())


def test_a_packed_layer_multiplies_as_a_plain_one() -> None:
    plain = torch.nn.Linear(96, 40)
    expected = plain.weight.detach().clone()
    layer = PackedLinear(plain, is_copy=False)
    assert (layer.in_features, layer.out_features, layer.weight.shape) == (96, 40, (40, 96))
    assert torch.equal(layer.weight.to_dense(), expected)
    wide = torch.randn(16, 192)
    for x in (wide[:1, :96], wide[:, ::2], wide[0, 96:], wide[None, :5, :96], wide[:0, :96], torch.randn(96, 3).t()):
        torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize(
    ("family", "fields"),
    [("llama", {}), ("gpt2", {}), ("gpt2", TIED), ("gemma2", {}), ("phi", {}), ("gpt_neox", {}), ("qwen3", {})],
)
def test_a_packed_model_gives_the_same_logits(family: str, fields: dict[str, Any]) -> None:
    model = tiny_model(family, scale=4, hidden_size=256, **fields)
    expected = logits(model)
    linear = sum(type(module) in (torch.nn.Linear, Conv1D) for module in model.modules())
    assert pack_linears(model) == packed_layers(model) == linear
    assert (logits(model) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_model_in_fp16_gives_the_same_logits() -> None:
    model = tiny_model("llama", scale=4).half()
    expected = logits(model)
    # None where the processor has no such kernel.
    assert pack_linears(model) in (0, 22)
    assert model.dtype == torch.float16
    assert (logits(model) - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_batched_engine_takes_a_packed_model(family: str) -> None:
    model = tiny_model(family, scale=4)
    assert pack_linears(model) > 0
    assert isinstance(choose_runner(model, context_length=128), FlatRunner)


def test_packing_takes_no_memory_and_the_model_tells_what_it_told() -> None:
    model = tiny_model("llama")
    before = model.num_parameters(), model.get_memory_footprint(), model.dtype, model.device
    head = model.get_output_embeddings()
    assert pack_linears(model) > 0
    assert (model.num_parameters(), model.get_memory_footprint(), model.dtype, model.device) == before
    assert head.weight is None
    assert isinstance(model.get_output_embeddings(), PackedLinear)


def test_a_head_that_is_also_the_embedding_is_copied_and_counted_once() -> None:
    model = tiny_model("gpt2", **TIED)
    parameters, size = model.num_parameters(), model.get_memory_footprint()
    pack_linears(model)
    embedding: Any = model.get_input_embeddings()
    assert model.num_parameters() == parameters
    assert model.get_memory_footprint() == size + embedding.weight.nbytes
    assert embedding.weight.layout == torch.strided


def test_a_head_that_is_also_the_embedding_stays_plain_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2", **TIED)
    monkeypatch.setattr(packed, "free_bytes", lambda device: 1000)
    assert pack_linears(model) == 12
    assert type(model.get_output_embeddings()) is torch.nn.Linear


def test_a_model_that_reads_its_weights_by_itself_gets_them_back(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("mamba")
    expected = logits(model)
    caplog.set_level("INFO")
    assert pack_linears(model) == packed_layers(model) == 0
    assert "stay plain" in caplog.text
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize(("family", "fields"), [("llama", {}), ("gpt2", {}), ("gpt2", TIED)])
def test_wrong_numbers_are_noticed_and_the_weights_come_back(
    family: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(family, scale=4, **fields)
    expected, weights = logits(model), {name: one.clone() for name, one in model.state_dict().items()}
    right = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda layer, x: right(layer, x) * 1.1)
    assert pack_linears(model) == 0
    assert torch.equal(logits(model), expected)
    assert all(torch.equal(one, weights[name]) for name, one in model.state_dict().items())
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == bool(fields)


def test_other_processors_keep_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert pack_linears(tiny_model("llama")) == 0


def test_a_layer_that_is_more_than_linear_stays_as_it_is() -> None:
    class Scaled(torch.nn.Linear):
        pass

    model = tiny_model("llama")
    model.set_output_embeddings(Scaled(64, 512, bias=False))
    assert pack_linears(model) == 21
    assert type(model.get_output_embeddings()) is Scaled


def test_loading_packs_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "colab_llm_chat")
    loaded = load_model(save_tiny_model(tmp_path, "llama"), settings=Settings(device="cpu"))
    assert packed_layers(loaded.model) == 22
    assert sum("packed the weights of 22" in record.getMessage() for record in caplog.records) == 1
    assert loaded.facts.parameters == tiny_model("llama").num_parameters()
