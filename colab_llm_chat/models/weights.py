"""A folder's weight files, before anything is loaded: which ones, whether they are whole, how much they hold.

Reads names and headers only. Imports no torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BrokenModel
from .hub_files import no_weights_in
from .load_errors import shown

# Single file, then index of shards: the order in which transformers looks.
CHECKPOINTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# As the format sets it.
LONGEST_HEADER = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """`parameters` is None for pickled files: only loading them would tell."""

    stored_bytes: int
    parameters: int | None


def inspect_weights(folder: Path) -> Weights:
    """Raises BrokenModel, naming the file, when one is missing, cut short or something else."""
    files = _files(folder)
    for path in files:
        if not path.is_file():
            raise BrokenModel(f"{shown(folder)} lacks {path.name}, which its index names.")
    counts = [_parameters(path) if path.suffix == ".safetensors" else None for path in files]
    known = [count for count in counts if count is not None]
    return Weights(
        stored_bytes=sum(path.stat().st_size for path in files),
        parameters=sum(known) if len(known) == len(counts) else None,
    )


def _files(folder: Path) -> list[Path]:
    for single, index in CHECKPOINTS:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _shards(folder / index)
    raise no_weights_in(folder, shown(folder))


def _shards(index: Path) -> list[Path]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({index.parent / name for name in names})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenModel(f"{index} is no index of weight files ({type(error).__name__}).") from error


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file: 8 bytes of header length, the header as JSON, then the tensors."""
    size = path.stat().st_size
    if size == 0:
        raise BrokenModel(f"{path} is empty (0 bytes).")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if 8 + length <= size and length <= LONGEST_HEADER else b""
        tensors: list[dict[str, Any]] = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
        parameters = sum(int(math.prod(entry["shape"])) for entry in tensors)
    except OSError as error:
        raise BrokenModel(f"{path} cannot be read: {error.strerror}.", hint="Make the file readable.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise BrokenModel(f"{path} is no safetensors file, or its beginning is damaged.") from error
    if end != size:
        raise BrokenModel(f"{path} is not whole: it has {size:,} bytes, its header says {end:,}.")
    return parameters
