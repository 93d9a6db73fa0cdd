"""Packed weights: the same numbers, plain weights wherever those are measured faster, or packed ones would not do."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from colab_llm_chat.models import packed, places
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.linear import PackedLinear, measured_speeds
from colab_llm_chat.models.load import load_model
from colab_llm_chat.models.native import use
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.settings import Settings
from tests.tiny_models import save_tiny_model, tiny_model

IDS = torch.arange(1, 40)[None]
TIED = {"tie_word_embeddings": True}
Measure = Callable[[Sequence[PackedLinear]], dict[int, float]]


def finds(*speeds: float) -> Measure:
    """As if packed weights had been measured to be so fast beside plain ones at one row, several and a prompt."""
    return lambda layers: dict(zip((1, 8, 128), speeds, strict=True))


# Named by what is chosen then.
PACKED, BOTH, PLAIN = finds(1.0, 1.9, 0.9), finds(0.7, 1.0, 1.1), finds(1.5, 0.9, 1.0)


def pack_linears(model: PreTrainedModel, measure: Measure = PACKED) -> int:
    return packed.pack_linears(model, measure=measure)


@torch.inference_mode()
def logits(model: PreTrainedModel) -> torch.Tensor:
    """After a prompt read whole, and after single ids."""
    found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits[0]
    single = [model(input_ids=IDS[:, i : i + 1], use_cache=False).logits[0] for i in range(3)]
    return torch.cat([found, *single])


def packed_layers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, PackedLinear) for module in model.modules())


@pytest.mark.parametrize("one_row_plain", [False, True])
@pytest.mark.parametrize("kind", [torch.nn.Linear, lambda inputs, outputs: Conv1D(outputs, inputs)])
def test_a_packed_layer_multiplies_as_a_plain_one(kind: Any, one_row_plain: bool) -> None:
    plain = kind(96, 40)
    layer = PackedLinear(plain)
    layer.one_row_plain = one_row_plain
    assert (layer.in_features, layer.out_features) == (96, 40)
    wide = torch.randn(16, 192)
    with torch.inference_mode():
        for x in (
            wide[:1, :96],
            wide[:, ::2],
            wide[0, 96:],
            wide[None, :5, :96],
            wide[:0, :96],
            torch.randn(96, 3).t(),
        ):
            torch.testing.assert_close(layer(x), plain(x))


def test_a_layer_without_its_plain_weight_still_has_its_numbers() -> None:
    layer = PackedLinear(torch.nn.Linear(96, 40))
    expected = layer.weight.detach().clone()
    layer.free_plain()
    assert layer.weight.shape == (40, 96)
    assert torch.equal(layer.weight.to_dense(), expected)


def test_a_single_row_goes_by_the_plain_weight_where_that_is_faster() -> None:
    layer: Any = PackedLinear(torch.nn.Linear(96, 40))
    layer.one_row_plain = True
    seen: list[str] = []
    layer.by_plain = lambda x: seen.append("plain")
    layer.by_packed = lambda x: seen.append("packed")
    for shape in ((1, 1, 96), (96,), (1, 2, 96), (3, 96), (0, 96)):
        layer(torch.zeros(shape))
    assert seen == ["plain", "plain", "packed", "packed", "packed"]


def test_the_measured_speeds_are_ratios_of_times() -> None:
    speeds = measured_speeds([PackedLinear(torch.nn.Linear(96, 40)), PackedLinear(Conv1D(40, 96))])
    assert list(speeds) == [1, 8, 128]
    assert all(0 < speed < float("inf") for speed in speeds.values())


@pytest.mark.parametrize("measure", [PACKED, BOTH, PLAIN, measured_speeds])
@pytest.mark.parametrize(
    ("family", "fields"),
    [("llama", {}), ("gpt2", {}), ("gpt2", TIED), ("gemma2", {}), ("phi", {}), ("gpt_neox", {}), ("qwen3", {})],
)
def test_every_choice_gives_the_same_logits(family: str, fields: dict[str, Any], measure: Measure) -> None:
    model = tiny_model(family, scale=4, hidden_size=256, **fields)
    expected = logits(model)
    linear = sum(type(module) in (torch.nn.Linear, Conv1D) for module in model.modules())
    # What is truly measured may come out either way.
    possible = {PACKED: [linear], BOTH: [linear], PLAIN: [0]}.get(measure, [0, linear])
    found = pack_linears(model, measure)
    assert found == packed_layers(model)
    assert found in possible
    assert (logits(model) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_formats_stay_plain_and_are_not_even_multiplied(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = tiny_model("llama")
    model.to(dtype)
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda layer, x: pytest.fail("multiplied"))
    assert pack_linears(model) == packed_layers(model) == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_batched_engine_takes_a_packed_model(family: str) -> None:
    model = tiny_model(family, scale=4)
    assert pack_linears(model) > 0
    assert isinstance(choose_runner(model, context_length=128), FlatRunner)


def test_both_weights_are_kept_where_plain_ones_are_faster_for_one_row() -> None:
    model: Any = tiny_model("gpt2")
    told, size = (model.num_parameters(), set(model.state_dict())), model.get_memory_footprint()
    weights = {name: one.data_ptr() for name, one in model.named_parameters()}
    copies = sum(one.weight.nbytes for one in model.modules() if type(one) in (torch.nn.Linear, Conv1D))
    assert pack_linears(model, BOTH) == 13
    assert {name: one.data_ptr() for name, one in model.named_parameters()} == weights
    assert (model.num_parameters(), set(model.state_dict())) == told
    assert model.get_memory_footprint() == size + copies


def test_plain_weights_alone_stay_where_both_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(packed, "free_bytes", lambda device: 100_000)
    assert pack_linears(tiny_model("llama"), BOTH) == 0
    assert "memory is too short for both" in caplog.text


@pytest.mark.parametrize(("bound", "least", "most"), [(100_000, 50_000, 100_000), (1, 8192, 8192)])
def test_what_is_measured_has_a_bound_but_is_never_nothing(
    bound: int, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def measure(layers: Sequence[PackedLinear]) -> dict[int, float]:
        sizes.extend(layer.weight.nbytes for layer in layers)
        return PACKED(layers)

    monkeypatch.setattr(places, "MEASURED_BYTES", bound)
    assert pack_linears(tiny_model("llama"), measure) == 22
    assert least <= sum(sizes) <= most


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
    assert "plain weights, as MambaForCausalLM does not take packed ones" in caplog.text
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


@pytest.mark.parametrize(("measure", "chosen"), [(PACKED, "packed"), (BOTH, "both"), (PLAIN, "plain")])
def test_loading_says_once_what_was_chosen_and_why(
    measure: Measure, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "colab_llm_chat")
    monkeypatch.setattr(packed, "pack_linears", partial(packed.pack_linears, measure=measure))
    monkeypatch.setattr(use, "kernels_for", lambda model: None)
    loaded = load_model(save_tiny_model(tmp_path, "llama"), settings=Settings(device="cpu"))
    assert packed_layers(loaded.model) == (0 if chosen == "plain" else 22)
    (line,) = [one for one in map(logging.LogRecord.getMessage, caplog.records) if "linear layers" in one]
    assert line.startswith(f"22 linear layers: {chosen} weights, as ")
    assert f"{measure([])[8]:.2f} at 8" in line
    assert loaded.facts.parameters == tiny_model("llama").num_parameters()
