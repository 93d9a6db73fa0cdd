"""Weight files looked at before loading: which file is at fault is said by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from colab_llm_chat.errors import BrokenModel
from colab_llm_chat.models.weights import inspect_weights
from tests.tiny_models import tiny_model


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model-00002-of-00004.safetensors").is_file()
    return tmp_path


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_parameters_are_counted_from_headers(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    weights = inspect_weights(tmp_path)
    assert weights.parameters == model.num_parameters()
    assert weights.stored_bytes == (tmp_path / "model.safetensors").stat().st_size


def test_shards_are_counted_together(sharded: Path) -> None:
    assert inspect_weights(sharded).parameters == tiny_model("llama").num_parameters()


def test_a_second_copy_in_another_format_is_not_counted(sharded: Path) -> None:
    before = inspect_weights(sharded)
    torch.save({}, sharded / "pytorch_model.bin")
    assert inspect_weights(sharded) == before


def test_pickled_weights_are_sized_but_not_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 100)
    weights = inspect_weights(tmp_path)
    assert (weights.stored_bytes, weights.parameters) == (100, None)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "a few bytes": lambda whole: whole[:20],
    "cut short": lambda whole: whole[:-1],
    "too long": lambda whole: whole + b"x",
    "another file": lambda whole: b"<!DOCTYPE html><html></html>" * 10,
    "huge header": lambda whole: b"\xff" * 8 + whole[8:],
    "no offsets": lambda whole: (12).to_bytes(8, "little") + b'{"a": {"b":1}}'[:12],
    "a pointer": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(damage: str, sharded: Path) -> None:
    path = sharded / "model-00002-of-00004.safetensors"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(BrokenModel, match="model-00002-of-00004"):
        inspect_weights(sharded)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00003-of-00004.safetensors").unlink()
    with pytest.raises(BrokenModel, match="model-00003-of-00004"):
        inspect_weights(sharded)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_named(index: str, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BrokenModel, match="index"):
        inspect_weights(sharded)


def test_no_weights_at_all_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(BrokenModel, match=r"no weights: none of model\.safetensors"):
        inspect_weights(tmp_path)
