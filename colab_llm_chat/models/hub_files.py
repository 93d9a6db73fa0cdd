"""Which files of a model repository are needed, and whether they are all there.

One set of weights (safetensors, else pickled PyTorch), the configuration and the tokenizer; no second copy of
the weights in another format. It knows names and sizes only, not where the files come from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from ..errors import UnsupportedModel

_SHARD = re.compile(r".*-\d+-of-(\d+)\.(safetensors|bin)")
# Checkpoint name, its shards (some repositories number after the suffix) and its index, in order of preference.
_FORMATS = (
    ("model.safetensors", re.compile(r"model(\.safetensors)?-\d+-of-\d+\.safetensors"), "model.safetensors.index.json"),
    ("pytorch_model.bin", re.compile(r"pytorch_model-\d+-of-\d+\.bin"), "pytorch_model.bin.index.json"),
)
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab")
# adapter_config.json beside a model would make transformers put the adapter on; the others are no part of a model.
_UNWANTED = {"adapter_config.json", "trainer_state.json", "requirements.txt", "README.txt", "LICENSE.txt"}
_WEIGHT_SUFFIXES = (
    *(".safetensors", ".bin", ".gguf", ".ggml", ".onnx", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz"),
    *(".mlmodel", ".tflite", ".llamafile"),
)


def choose_files(names: Collection[str], *, model_id: str, trust_remote_code: bool) -> list[str]:
    """The names out of a repository's list that loading needs; UnsupportedModel when it has no usable weights."""
    weights = _weights(names)
    if not weights:
        raise _no_weights(names, model_id)
    if "config.json" not in names:
        raise UnsupportedModel(
            f"{model_id} has weights but no config.json, so it is not in the transformers format.",
            hint="Pick a repository of the same model in the transformers format, with config.json.",
        )
    return sorted({*weights, *(name for name in names if _is_text(name, trust_remote_code))})


def _weights(names: Collection[str]) -> list[str]:
    for single, shard, index in _FORMATS:
        if single in names:
            return [single]
        shards = [name for name in names if shard.fullmatch(name)]
        if shards:
            return [*shards, index] if index in names else shards
    return []


def _is_text(name: str, trust_remote_code: bool) -> bool:
    if name.startswith("additional_chat_templates/") and name.count("/") == 1:
        return name.endswith(".jinja")
    if "/" in name or name in _UNWANTED or ".index." in name:
        return False
    return name.endswith(_TEXT_SUFFIXES) or (trust_remote_code and name.endswith(".py"))


def _no_weights(names: Collection[str], model_id: str) -> UnsupportedModel:
    if "adapter_config.json" in names:
        return UnsupportedModel(
            f"{model_id} is an adapter (adapter_config.json), not a whole model.",
            hint="Give the base model's id; the adapter's Hub page names it.",
        )
    found = sorted(name for name in names if name.endswith(_WEIGHT_SUFFIXES))
    listed = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
    return UnsupportedModel(
        f"{model_id} has no weights that can be loaded here: needed are model*.safetensors or pytorch_model*.bin, "
        f"it has {listed or 'no weights at all'}."
    )


def missing_files(folder: Path, chosen: Collection[str]) -> list[str]:
    """The chosen files that `folder` lacks, and the shards that the chosen ones say must be there too."""
    expected = set(chosen)
    for name in chosen:
        if name.endswith(".index.json") and (folder / name).is_file():
            expected.update(_indexed(folder / name))
    missing = sorted(name for name in expected if not (folder / name).is_file())
    return missing or _uncounted(chosen)


def _indexed(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        # A broken index is reported where the weights are read; here it names nothing.
        return set()


def _uncounted(chosen: Collection[str]) -> list[str]:
    """Each shard's name says how many there are; numbers count from 1 or from 0."""
    shards = [match for name in chosen if (match := _SHARD.fullmatch(name))]
    lacking = int(shards[0].group(1)) - len(shards) if shards else 0
    return [f"{lacking} more like {shards[0].group()}"] if lacking > 0 else []
