"""Where kernels compute parts of a model: the same logits and ids, or the model as it was.

Replies in batches are compared with `generate` family by family in test_families.py.
"""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.sequence import Sequence as Row
from colab_llm_chat.engine.sequence import Step
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.linear import Ways
from colab_llm_chat.models.load import load_model
from colab_llm_chat.models.native import use
from colab_llm_chat.models.native.kernels import Kernels, load_kernels
from colab_llm_chat.models.native.parts import ROTARY, FewRows, NormKernel, RotaryKernel, use_norms
from colab_llm_chat.models.native.use import kernels_for, measured_speeds, use_kernels
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.models.runners.native import NativeRunner
from colab_llm_chat.settings import Settings, TokenRules
from tests.test_engine import CONTEXT, greedy, run
from tests.tiny_models import generated, save_tiny_model, tiny_model

FAMILIES = (
    "llama", "qwen3", "gemma2", "gemma3_text", "gemma3", "gpt2", "gpt_neox", "phi", "phi3", "mixtral", "gpt_oss", "opt",
)  # fmt: skip
# What turns its queries and keys in the way of the kernel, and what has RMS norms.
ROTATED = ("llama", "qwen3", "gemma2", "gemma3_text", "gemma3", "gpt_neox", "phi", "phi3", "mixtral")
NORMED = ("llama", "qwen3", "gemma2", "gemma3_text", "gemma3", "phi3", "mixtral", "gpt_oss")
IDS = torch.arange(1, 31)[None]
# Greedy replies to these go round in circles, of which drafts are made.
CIRCLES = ([5, 6, 7, 8] * 4, [9, 3, 9, 3, 9, 3, 9], [1, 2, 3])


@pytest.fixture(autouse=True)
def own_functions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny models are measured like large ones; families get their own functions back."""
    monkeypatch.setattr(use, "WORTH_MEASURING", 1)
    yield
    for space in list(sys.modules.values()):
        kernel = getattr(space, "__dict__", {}).get(ROTARY)
        if isinstance(kernel, RotaryKernel):
            setattr(space, ROTARY, kernel.own)


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    found = load_kernels()
    assert found is not None
    return found


def finds(**speeds: float) -> Callable[[Sequence[FewRows]], Mapping[int, float]]:
    """As if kernels had been measured to be so fast by rows."""
    return lambda layers: {int(rows.removeprefix("at_")): speed for rows, speed in speeds.items()}


FASTER, SLOWER = finds(at_1=1.5, at_64=1.2), finds(at_1=0.9, at_64=1.5)


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    """After a prompt read whole, after one of more rows than kernels take, and after single ids."""
    asked = [IDS, IDS.repeat(1, 4), IDS[:, :1], IDS[:, 3:4]]
    return torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in asked])


def rotary_functions(model: PreTrainedModel) -> list[Any]:
    names = sorted({type(module).__module__ for module in model.modules()})
    return [found for name in names if (found := getattr(sys.modules[name], ROTARY, None))]


def parts(model: PreTrainedModel) -> dict[str, Any]:
    """What a model is made of: its modules with all they have, its weights, and its family's function."""
    made: dict[str, Any] = {name: (type(one), sorted(one.__dict__)) for name, one in model.named_modules()}
    return made | {"functions": rotary_functions(model)}


def is_plain(module: torch.nn.Module) -> bool:
    return type(module) in (torch.nn.Linear, Conv1D)


def how_many(model: PreTrainedModel, kind: type | Callable[[Any], bool]) -> int:
    fits = (lambda module: isinstance(module, kind)) if isinstance(kind, type) else kind
    return sum(fits(module) for module in model.modules())


# Single parts


@torch.no_grad()
@pytest.mark.parametrize("kind", [torch.nn.Linear, lambda inputs, outputs: Conv1D(outputs, inputs)])
def test_a_layer_multiplies_as_a_plain_one(kind: Any, kernels: Kernels) -> None:
    plain = kind(70, 41)
    layer, wide = FewRows(plain, kernels), torch.randn(100, 140)
    assert (layer.in_features, layer.out_features, layer.bias is plain.bias) == (70, 41, True)
    shapes = (wide[:1, :70], wide[:, :70], wide[:9, ::2], wide[0, 70:], wide[None, None, :5, :70], wide[:0, :70])
    for x in (*shapes, torch.randn(70, 3).t(), torch.randn(2, 5, 70).transpose(0, 1)):
        torch.testing.assert_close(layer(x), plain(x.contiguous()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("x", [torch.zeros(2, 35), torch.zeros(4, 140), torch.zeros(()), torch.zeros(1, 70).double()])
def test_what_a_plain_layer_refuses_is_refused(x: torch.Tensor, kernels: Kernels) -> None:
    layer = FewRows(torch.nn.Linear(70, 41), kernels)
    with torch.no_grad(), pytest.raises(RuntimeError):
        layer(x)


def test_up_to_its_bound_a_layer_goes_by_the_kernel_and_never_with_gradients(kernels: Kernels) -> None:
    layer: Any = FewRows(torch.nn.Linear(70, 41), kernels)
    layer.most, seen = 4, []
    layer.by_plain, layer.by_kernel = (lambda x: seen.append("plain")), (lambda x: seen.append("kernel"))
    with torch.no_grad():
        for shape in ((70,), (1, 4, 70), (2, 2, 70), (5, 70), (0, 70)):
            layer(torch.zeros(shape))
        layer(torch.zeros(70, 2).t())
    layer(torch.zeros(1, 70))
    assert seen == ["kernel", "kernel", "kernel", "plain", "plain", "plain", "plain"]


def test_gradients_are_pytorchs_own(kernels: Kernels) -> None:
    model = tiny_model("llama", scale=4)
    model(input_ids=IDS).logits.sum().backward()
    expected = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    assert use_kernels(model, kernels, measure=FASTER)
    model(input_ids=IDS).logits.sum().backward()
    assert len(expected) == len(list(model.parameters()))
    for name, one in model.named_parameters():
        torch.testing.assert_close(one.grad, expected[name])


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2])
def test_several_rows_at_the_same_positions_are_all_turned(rows: int, kernels: Kernels) -> None:
    q, k = torch.randn(rows, 4, 5, 16), torch.randn(rows, 2, 5, 16)
    cos, sin = torch.randn(2, 1, 5, 16)
    found = RotaryKernel(modeling_llama.apply_rotary_pos_emb, kernels)(q, k, cos, sin)
    for one, wanted in zip(found, modeling_llama.apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        torch.testing.assert_close(one, wanted)


@torch.no_grad()
def test_a_norm_that_computes_something_else_keeps_its_own_forward(kernels: Kernels) -> None:
    class HalfRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) / 2

    class GatedRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(hidden_states) * gate

    kinds = (HalfRMSNorm, GatedRMSNorm, LlamaRMSNorm)
    norms: Any = torch.nn.ModuleList(
        [*(kind(16) for kind in kinds), LlamaRMSNorm(16).half(), LlamaRMSNorm(16).to("meta")]
    )
    undo = list(use_norms(norms, kernels))
    assert ["forward" in norm.__dict__ for norm in norms] == [False, False, True, False, False]
    for one in undo:
        one()
    assert not any("forward" in norm.__dict__ for norm in norms)


# Whole models


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_kernels_gives_its_own_logits(family: str, kernels: Kernels) -> None:
    model = tiny_model(family, scale=4)
    expected, linear = logits(model), how_many(model, is_plain)
    assert use_kernels(model, kernels, measure=FASTER)
    assert (how_many(model, FewRows), how_many(model, is_plain)) == (linear, 0)
    normed = how_many(model, lambda module: isinstance(module.__dict__.get("forward"), NormKernel))
    assert normed == how_many(model, lambda module: type(module).__name__.endswith("RMSNorm"))
    assert (normed > 0) == (family in NORMED)
    assert any(isinstance(one, RotaryKernel) for one in rotary_functions(model)) == (family in ROTATED)
    assert (logits(model) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "gpt_oss"])
def test_with_drafts_replies_are_those_of_generate(family: str, kernels: Kernels) -> None:
    model = tiny_model(family, scale=4, tie_word_embeddings=False)
    model.set_attn_implementation("eager")
    expected = {i: generated(model, list(ids), 60) for i, ids in enumerate(CIRCLES)}
    assert use_kernels(model, kernels, measure=FASTER)
    runner: Any = choose_runner(model, context_length=CONTEXT)
    drafted: list[list[int]] = []
    runner.chunk_size, look_up = 16, runner.draft

    def draft(step: Step) -> None:
        look_up(step)
        drafted.extend(row.drafts for row in step.rows)

    runner.draft = draft
    asked = [Row(i, list(ids), greedy(60), rules=TokenRules(ignore_eos=True)) for i, ids in enumerate(CIRCLES)]
    assert run(Engine(runner, max_rows=3, context_length=CONTEXT), asked, late=1) == expected
    assert isinstance(runner, NativeRunner)
    assert any(drafted)


def wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(Kernels, name)
    monkeypatch.setattr(Kernels, name, lambda *given, **how: right(*given, **how) * 1.1)


@pytest.mark.parametrize(
    ("family", "fields"), [("llama", {}), ("gpt2", {}), ("gpt2", {"tie_word_embeddings": True}), ("gemma2", {})]
)
def test_wrong_products_are_noticed_and_the_model_gets_its_own_parts_back(
    family: str,
    fields: dict[str, Any],
    kernels: Kernels,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "colab_llm_chat")
    model = tiny_model(family, scale=4, **fields)
    expected, made = logits(model), parts(model)
    weights = {name: one.clone() for name, one in model.state_dict().items()}
    wrong("linear", monkeypatch)
    assert not use_kernels(model, kernels, measure=FASTER)
    assert f"{type(model).__name__} does not take kernels" in caplog.text
    assert parts(model) == made
    assert torch.equal(logits(model), expected)
    assert all(torch.equal(one, weights[name]) for name, one in model.state_dict().items())
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("kernel", ["rms_norm", "attend"])
def test_a_part_whose_own_kernel_is_wrong_goes_without(
    kernel: str, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama", scale=4)
    wrong(kernel, monkeypatch)
    assert use_kernels(model, kernels, measure=FASTER)
    normed = how_many(model, lambda module: "forward" in module.__dict__)
    assert normed == (0 if kernel == "rms_norm" else 7)
    assert how_many(model, FewRows) == 22


@pytest.mark.parametrize("family", ["gpt2", "gpt_oss"])
def test_wrong_attention_is_noticed(family: str, kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family, scale=4)
    wrong("attend", monkeypatch)
    assert type(choose_runner(model, context_length=CONTEXT)) is FlatRunner


def test_layers_in_one_call_that_give_other_logits_are_noticed(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama", scale=4)
    assert use_kernels(model, kernels, measure=FASTER)
    monkeypatch.setattr(Kernels, "decode", lambda *given, **how: None)
    assert type(choose_runner(model, context_length=CONTEXT)) is NativeRunner


def test_a_wrong_rotation_leaves_the_familys_own(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    own, model = modeling_llama.apply_rotary_pos_emb, tiny_model("llama", scale=4)
    wrong("rotate", monkeypatch)
    assert use_kernels(model, kernels, measure=FASTER)
    assert modeling_llama.apply_rotary_pos_emb is own


def test_kernels_that_are_measured_slower_leave_plain_layers(kernels: Kernels) -> None:
    model = tiny_model("llama", scale=4)
    expected = logits(model)
    assert not use_kernels(model, kernels, measure=SLOWER)
    assert (how_many(model, FewRows), how_many(model, is_plain)) == (0, 22)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_kernels_take_as_many_rows_as_they_are_faster_without_exception(kernels: Kernels) -> None:
    model = tiny_model("llama")
    assert use_kernels(model, kernels, measure=finds(at_1=1.5, at_4=1.1, at_12=0.9, at_64=2.0))
    assert {module.most for module in model.modules() if isinstance(module, FewRows)} == {4}


def test_small_models_are_not_measured(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use, "WORTH_MEASURING", 2**25)
    model = tiny_model("llama")
    assert use_kernels(model, kernels, measure=lambda layers: pytest.fail("measured"))
    assert {module.most for module in model.modules() if isinstance(module, FewRows)} == {kernels.most_rows}


def test_the_measured_speeds_are_ratios_of_times(kernels: Kernels) -> None:
    speeds = measured_speeds([FewRows(torch.nn.Linear(96, 40), kernels), FewRows(Conv1D(40, 96), kernels)])
    assert list(speeds) == [rows for rows in (1, 4, 12, 32, 64, 128) if rows <= kernels.most_rows]
    assert all(0 < speed < float("inf") for speed in speeds.values())


def test_what_seems_slower_is_measured_again(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[list[int]] = []

    def speeds(ways: Sequence[Ways], limits: Mapping[int, float]) -> dict[int, float]:
        looks.append(list(limits))
        # A busy moment at the first look; 64 rows are slower indeed.
        return {rows: 0.9 if rows == 64 or (rows == 4 and len(looks) == 1) else 1.5 for rows in limits}

    monkeypatch.setattr(use, "speeds", speeds)
    found = measured_speeds([FewRows(torch.nn.Linear(96, 40), kernels)])
    assert looks[1:] == [[4, 64], [64]]
    assert [rows for rows, speed in found.items() if speed < 1] == [64]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_stay_tied_and_are_in_memory_once(family: str, tied: bool, kernels: Kernels) -> None:
    model: Any = tiny_model(family, tie_word_embeddings=tied)
    told = model.num_parameters(), model.get_memory_footprint(), set(model.state_dict())
    held = {name: weakref.ref(one.weight) for name, one in model.named_modules() if is_plain(one)}
    turned = {name for name, one in model.named_modules() if type(one) is Conv1D}
    assert use_kernels(model, kernels, measure=FASTER)
    gc.collect()
    assert (model.num_parameters(), model.get_memory_footprint(), set(model.state_dict())) == told
    for name, one in held.items():
        assert one() is (None if name in turned else model.get_submodule(name).weight)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_formats_get_no_kernels(dtype: torch.dtype) -> None:
    model: Any = tiny_model("llama")
    model.to(dtype)
    assert kernels_for(model) is None


def test_the_layers_of_a_quantised_model_stay_as_they_are(kernels: Kernels) -> None:
    model: Any = tiny_model("llama")
    model.is_quantized = True
    assert not use_kernels(model, kernels, measure=FASTER)
    assert how_many(model, is_plain) == 22


def test_a_model_that_fails_is_left_as_it_is(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    made = parts(model)
    monkeypatch.setattr(type(model), "forward", lambda *given, **how: int("no number"))
    assert not use_kernels(model, kernels, measure=FASTER)
    assert parts(model) == made


@pytest.mark.parametrize("compile_it", [False, True])
def test_loading_puts_kernels_in_but_where_the_compiler_comes_after(compile_it: bool, tmp_path: Any) -> None:
    settings = Settings(device="cpu", compile=compile_it)
    loaded = load_model(save_tiny_model(tmp_path, "llama"), settings=settings)
    assert bool(how_many(loaded.model, lambda module: "forward" in module.__dict__)) != compile_it


def test_the_library_knows_how_many_rows_it_takes(kernels: Kernels) -> None:
    x, weight = torch.randn(kernels.most_rows, 33), torch.randn(7, 33)
    torch.testing.assert_close(kernels.linear(x, weight, None), F.linear(x, weight), rtol=1e-4, atol=1e-4)
