"""Models and tokenizers from folders: what loads, how, and one clear error for what does not."""

from __future__ import annotations

import json
import pickle
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    LEDConfig,
    MambaConfig,
    T5EncoderModel,
    dynamic_module_utils,
)

from colab_llm_chat.errors import BrokenModel, ModelTooLarge, UnsupportedModel, UsageError
from colab_llm_chat.models import facts, hardware, load
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.facts import context_length_of, source_length_of
from colab_llm_chat.models.load import LoadedModel, load_model
from colab_llm_chat.models.load_errors import loading_error
from colab_llm_chat.models.runners.flat import FlatRunner
from colab_llm_chat.settings import Settings
from tests.tiny_models import save_tiny_model, tiny_model

TOWERS = {"vision-encoder-decoder": {"encoder": {"model_type": "vit"}, "decoder": {"model_type": "gpt2"}}}


def loaded(folder: Path, **settings: Any) -> LoadedModel:
    return load_model(folder, settings=Settings(model_id=str(folder), **settings))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("llama"), "llama", hidden_size=128, num_attention_heads=4)


@pytest.fixture
def broken(llama: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be broken."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


def test_the_facts_are_the_models_own(llama: Path) -> None:
    facts = loaded(llama).facts
    assert (facts.architecture, facts.context_length, facts.eos_token_ids) == ("LlamaForCausalLM", 256, [0])
    assert (facts.device, facts.dtype, facts.quantization) == ("cpu", "float32", "none")
    assert json.loads(json.dumps(facts.to_dict()))["parameters"] > 0


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "qwen3", "phi", "mamba"])
def test_every_family_loads(family: str, tmp_path: Path) -> None:
    assert loaded(save_tiny_model(tmp_path, family)).facts.vocab_size == 512


def test_progress_ends_at_one(llama: Path) -> None:
    seen: list[float] = []
    load_model(llama, settings=Settings(), on_progress=lambda fraction, _: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize(("quantization", "layer"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_bitsandbytes_makes_the_weights_smaller_on_the_cpu_too(
    llama: Path, quantization: str, layer: str, caplog: pytest.LogCaptureFixture
) -> None:
    smaller, plain = loaded(llama, quantization=quantization), loaded(llama)
    assert layer in {type(module).__name__ for module in smaller.model.modules()}
    assert smaller.facts.weight_bytes < plain.facts.weight_bytes
    assert "slowly" in caplog.text
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        difference = (smaller.model(ids).logits - plain.model(ids).logits).abs().max()
    assert difference < 0.5


def test_layers_that_cannot_be_packed_for_the_cpu_stay_whole(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, "llama", hidden_size=64, intermediate_size=96)
    model = loaded(folder, quantization="4bit").model
    kinds = {name.rsplit(".", 1)[-1]: type(module).__name__ for name, module in model.named_modules()}
    assert (kinds["down_proj"], kinds["up_proj"], kinds["lm_head"]) == ("Linear", "Linear4bit", "Linear")
    with torch.inference_mode():
        assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()


def test_auto_is_no_quantisation_on_the_cpu(llama: Path) -> None:
    assert loaded(llama, quantization="auto").facts.quantization == "none"


def test_a_model_quantised_already_is_loaded_as_it_is(
    llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded(llama, quantization="4bit").model.save_pretrained(tmp_path)
    again = loaded(tmp_path, quantization="8bit")
    assert "Linear4bit" in {type(module).__name__ for module in again.model.modules()}
    assert "already quantised" in caplog.text


def test_the_dtype_can_be_chosen(llama: Path) -> None:
    assert loaded(llama, dtype="bfloat16").facts.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_the_gpu_decides_the_number_format(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware.choose_dtype(Settings(), torch.device("cuda:0"), model_type="gemma2") == dtype


def test_a_model_that_overflows_fp16_computes_in_bf16_on_an_older_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    chosen = hardware.choose_dtype(Settings(), torch.device("cuda:0"), model_type="gemma3_text")
    assert chosen == torch.bfloat16
    asked = Settings(dtype="float16")
    assert hardware.choose_dtype(asked, torch.device("cuda:0"), model_type="gemma3_text") == torch.float16


def test_cuda_asked_for_on_a_machine_without_is_a_usage_error(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no usable GPU"):
        loaded(llama, device="cuda")


def test_a_model_larger_than_the_memory_is_refused_before_it_loads(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "free_bytes", lambda device: 1000)
    with pytest.raises(ModelTooLarge, match="GB free"):
        loaded(llama)


def break_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5000])


def break_weights_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{ not json")


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_a_layer(folder: Path) -> None:
    file = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "layers.1.mlp" not in name}
    save_file(kept, file, metadata={"format": "pt"})


def change_a_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))


def remove_a_shard(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="200KB")
    (folder / "model.safetensors").unlink()
    for file in (folder / "shards").iterdir():
        shutil.move(file, folder / file.name)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


@pytest.mark.parametrize(
    "break_it",
    [
        break_weights, break_weights_header, break_config, remove_config, remove_weights,
        remove_a_layer, change_a_size, remove_a_shard,
    ],
)  # fmt: skip
def test_broken_files_are_told_in_one_error(broken: Path, break_it: Any) -> None:
    break_it(broken)
    with pytest.raises(BrokenModel) as told:
        loaded(broken)
    assert "model" in told.value.message
    assert "\n" not in told.value.message


class Attack:
    """What a pickle may do when it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickled_weights_load_only_without_code(broken: Path, tmp_path: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(weights, broken / "pytorch_model.bin")
    assert loaded(broken).facts.parameters > 0
    mark = tmp_path / "mark"
    with (broken / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"lm_head.weight": Attack(mark)}, file, protocol=2)
    with pytest.raises(BrokenModel, match="holds code") as told:
        loaded(broken)
    assert "safetensors" in told.value.hint
    assert not mark.exists()


def test_code_of_the_models_own_is_not_run_unasked(broken: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (broken / "own.py").write_text(f"open({str(mark)!r}, 'w')")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel) as told:
        loaded(broken)
    assert "--trust-remote-code" in told.value.hint
    assert not mark.exists()


def test_code_of_the_models_own_runs_when_asked(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (broken / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((broken / "config.json").read_text())
    named = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": named}))
    assert loaded(broken, trust_remote_code=True).facts.architecture == "Own"


def test_an_unknown_architecture_says_to_update(broken: Path) -> None:
    (broken / "config.json").write_text(json.dumps({"model_type": "of_next_year"}))
    with pytest.raises(UnsupportedModel, match="of_next_year"):
        loaded(broken)


@pytest.mark.parametrize("model_type", ["whisper", "vision-encoder-decoder", "speech_to_text"])
def test_an_encoder_that_reads_no_text_is_refused(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **TOWERS.get(model_type, {})}))
    with pytest.raises(UnsupportedModel, match=r"works on (sound|pictures)") as told:
        loaded(tmp_path)
    assert "text-generation" in told.value.hint


@pytest.mark.parametrize(
    ("family", "length", "source_length", "start", "eos"), [("t5", 2048, 2048, 0, [1]), ("bart", 256, 256, 2, [2])]
)
def test_an_encoder_decoder_loads_and_tells_how_its_replies_begin(
    family: str, length: int, source_length: int, start: int, eos: list[int], tmp_path: Path
) -> None:
    facts = loaded(save_tiny_model(tmp_path, family)).facts
    assert facts.is_encoder_decoder
    assert (facts.context_length, facts.source_length) == (length, source_length)
    assert (facts.decoder_start_token_id, facts.eos_token_ids) == (start, eos)
    assert facts.forced_bos_token_id == (3 if family == "bart" else None)


def test_what_an_encoder_may_read_can_be_more_than_its_decoder_may_write() -> None:
    config = LEDConfig(max_encoder_position_embeddings=4096, max_decoder_position_embeddings=300)
    assert (context_length_of(config), source_length_of(config)) == (300, 4096)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_an_encoder_decoder_can_be_quantised(quantization: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, "flan_t5", d_model=128, d_ff=128, d_kv=32)
    smaller, plain = loaded(folder, quantization=quantization), loaded(folder)
    assert smaller.facts.weight_bytes < plain.facts.weight_bytes
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        found, wanted = (one.model(input_ids=ids, decoder_input_ids=ids).logits for one in (smaller, plain))
    assert (found - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_an_encoder_without_its_decoder_is_refused(tmp_path: Path) -> None:
    T5EncoderModel(tiny_model("t5").config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="reads text and does not write any"):
        loaded(tmp_path)


def test_the_context_length_is_found_under_each_name() -> None:
    assert context_length_of(tiny_model("gpt2").config) == 256
    assert context_length_of(MambaConfig()) == facts.UNKNOWN_CONTEXT_LENGTH


def test_yarn_stretches_the_context_length() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 10_000.0}
    assert context_length_of(tiny_model("llama", rope_parameters=rope).config) == 1024
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    assert context_length_of(tiny_model("llama", rope_parameters=rope).config) == 256


def test_end_of_text_comes_from_both_configs(broken: Path) -> None:
    (broken / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 3]}))
    assert loaded(broken).facts.eos_token_ids == [0, 3, 5]


@pytest.mark.parametrize(("total", "chosen"), [(15.8e9, "4bit"), (23.8e9, "none"), (42e9, "none")])
def test_auto_quantises_on_a_gpu_with_less_than_24_gb(
    total: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=total))
    assert hardware.choose_quantization(Settings(quantization="auto"), torch.device("cuda:0")) == chosen


def test_half_a_weight_file_is_named(broken: Path) -> None:
    break_weights(broken)
    with pytest.raises(BrokenModel, match=r"model\.safetensors is not whole"):
        loaded(broken)


def test_wrong_shapes_are_told_without_talk_of_python_arguments(broken: Path) -> None:
    change_a_size(broken)
    with pytest.raises(BrokenModel, match=r"shapes that its config\.json asks for"):
        loaded(broken)


@pytest.mark.parametrize("change", [{"hidden_size": "large"}, {"rope_parameters": {"rope_type": "none such"}}])
def test_a_config_with_wrong_values_is_told(change: dict[str, Any], broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(BrokenModel):
        loaded(broken)


@pytest.mark.parametrize("config", [BertConfig, DistilBertConfig])
def test_a_model_that_does_not_write_is_refused(config: Any, tmp_path: Path) -> None:
    fields = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    AutoModelForMaskedLM.from_config(config(vocab_size=64, **fields)).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel):
        loaded(tmp_path)


def test_loading_is_silent(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded(llama)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_no_memory_for_a_tensor_is_told_as_such() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**58)
    error = loading_error(failure.value, "model")
    assert isinstance(error, ModelTooLarge)
    assert "4bit" in error.hint


def test_a_model_that_also_sees_is_loaded_for_its_text(tmp_path: Path) -> None:
    eyes = {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    eyes |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    config = AutoConfig.for_model("mistral3", text_config=tiny_model("mistral").config.to_dict(), vision_config=eyes)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    model = loaded(tmp_path)
    assert (model.facts.vocab_size, model.facts.context_length) == (512, 256)
    assert isinstance(choose_runner(model.model, context_length=256), FlatRunner)


FREED_AND_TAKEN_AGAIN = """
import resource
from colab_llm_chat.models.hardware import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        [bytes([1]) * 2**20 for _ in range(60)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="only glibc can be told so")
def test_memory_that_was_freed_is_kept_by_the_process() -> None:
    command = [sys.executable, "-c", FREED_AND_TAKEN_AGAIN]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    before, after = map(int, done.stdout.split())
    assert before > 1000 > 10 * after
