"""Which files of a model repository are needed, and whether they are all there.

One set of weights (safetensors, else pickled PyTorch), the configuration and the tokenizer; no second copy of
the weights in another format. It knows names and sizes only, not where the files come from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from ..errors import BrokenModel, LoadError, UnsupportedModel

_SHARD = re.compile(r".*-\d+-of-(\d+)\.(safetensors|bin)")
# Checkpoint name, its shards (some repositories number after the suffix) and its index, in order of preference.
_FORMATS = (
    ("model.safetensors", re.compile(r"model(\.safetensors)?-\d+-of-\d+\.safetensors"), "model.safetensors.index.json"),
    ("pytorch_model.bin", re.compile(r"pytorch_model-\d+-of-\d+\.bin"), "pytorch_model.bin.index.json"),
)
ADAPTER = "adapter_config.json"
PIPELINE = "model_index.json"
EMBEDDINGS = "modules.json"
WHICH_FOLDER = "Give the folder that holds config.json, the weights and the tokenizer."
MORE_MODELS = "Pick a text-generation model: https://huggingface.co/models?pipeline_tag=text-generation lists them."
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".spm", ".tokenizer")
# adapter_config.json beside a model would make transformers put the adapter on; the others are no part of a model.
_UNWANTED = {ADAPTER, "trainer_state.json", "requirements.txt", "README.txt", "LICENSE.txt"}
_WEIGHT_SUFFIXES = (
    *(".safetensors", ".bin", ".gguf", ".ggml", ".onnx", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz"),
    *(".mlmodel", ".tflite", ".llamafile"),
)


def choose_files(names: Collection[str], *, model_id: str, trust_remote_code: bool) -> list[str]:
    """The names out of a repository's list that loading needs; UnsupportedModel when it has no usable weights."""
    weights = weights_among(names)
    if not weights:
        raise no_weights(names, model_id)
    if "config.json" not in names:
        raise UnsupportedModel(
            f"{model_id} has weights but no config.json, so it is not in the transformers format.",
            hint="Pick a repository of the same model in the transformers format, with config.json.",
        )
    return sorted({*weights, *(name for name in names if _is_text(name, trust_remote_code))})


def weights_among(names: Collection[str]) -> list[str]:
    """The one set of weights that is loaded, with its index; empty when there is none."""
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


def no_weights(names: Collection[str], model_id: str, *, base: str = "") -> UnsupportedModel:
    """What a repository or folder without loadable weights is; `base` is the model that it was made from, if known."""
    found = sorted(name for name in names if name.endswith(_WEIGHT_SUFFIXES))
    listed = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
    if ADAPTER in names:
        return UnsupportedModel(
            f"{model_id} holds only adapter weights ({ADAPTER}), not a whole model.",
            hint=f"Load its base: -m {base}" if base else "Load its base; the adapter's Hub page names it.",
        )
    if EMBEDDINGS in names:
        return embedding_model(model_id)
    if PIPELINE in names:
        return UnsupportedModel(
            f"{model_id} is a diffusers pipeline ({PIPELINE}): it makes pictures or sound and does not write text.",
            hint=MORE_MODELS,
        )
    if found and all(name.endswith(".gguf") for name in found):
        named = f": most likely {base}" if base else ""
        return UnsupportedModel(
            f"{model_id} holds only GGUF weights ({listed}), which are for llama.cpp; here safetensors are needed.",
            hint=f"Pick the repository of the same model with safetensors weights{named}.",
        )
    return UnsupportedModel(
        f"{model_id} has no weights that can be loaded here: needed are model*.safetensors or pytorch_model*.bin, "
        f"it has {listed or 'no weights at all'}."
    )


def embedding_model(name: str) -> UnsupportedModel:
    """For those made with sentence-transformers, whatever network they hold."""
    return UnsupportedModel(
        f"{name} is an embedding model ({EMBEDDINGS}): it turns text into vectors and does not write any.",
        hint=MORE_MODELS,
    )


def no_weights_in(folder: Path, name: str) -> LoadError:
    """The same of a folder, which may also just be incomplete."""
    names = [path.name for path in folder.iterdir()]
    if not names:
        return BrokenModel(f"The folder {name!r} is empty.", hint=WHICH_FOLDER)
    if not {ADAPTER, PIPELINE, EMBEDDINGS}.intersection(names) and not any(
        name.endswith(_WEIGHT_SUFFIXES) for name in names
    ):
        return BrokenModel(f"{name} holds no weights: none of model.safetensors, pytorch_model.bin or their indices.")
    base = base_of((folder / ADAPTER).read_bytes()) if ADAPTER in names else ""
    return no_weights(names, name, base=base)


def base_of(adapter_config: bytes) -> str:
    """The base model that an adapter's config names; empty where it names none."""
    try:
        return str(json.loads(adapter_config)["base_model_name_or_path"] or "")
    except (ValueError, KeyError, TypeError):
        return ""


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
