"""What an encoder-decoder model's small files tell of how it wants its text. None for models of any other kind.

Knows no tokenizer and no language by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .families import model_names, read_object

_TRANSLATION = re.compile(r"translation_([a-z]{2,3})_to_([a-z]{2,3})")
_PAIRS = ("marian", "fsmt")
_FLAN = re.compile(r"(?<![a-z])flan(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seq2Seq:
    """`prefixes` by pairs of language codes as the config has them (`en`, `de`): what it was trained with before a
    text. `translates_only` is of models for one pair, which need no codes. `language_last`: the language of a text is
    told after it, as before NLLB's tokenizer was corrected.
    """

    prefixes: Mapping[tuple[str, str], str]
    takes_instructions: bool
    translates_only: bool
    language_last: bool


def seq2seq_of(model_id: str, folder: Path) -> Seq2Seq | None:
    """By the folder's config; None where it is no encoder-decoder."""
    config = read_object(folder / "config.json")
    if config.get("is_encoder_decoder") is not True:
        return None
    tokenizer = read_object(folder / "tokenizer_config.json")
    return Seq2Seq(
        prefixes=_prefixes(config.get("task_specific_params")),
        takes_instructions=any(_FLAN.search(name) for name in model_names(model_id, folder, config)),
        translates_only=config.get("model_type") in _PAIRS,
        language_last=tokenizer.get("legacy_behaviour") is True,
    )


def _prefixes(tasks: Any) -> dict[tuple[str, str], str]:
    found = {}
    for name, task in tasks.items() if isinstance(tasks, dict) else ():
        pair, prefix = _TRANSLATION.fullmatch(name), task.get("prefix") if isinstance(task, dict) else None
        if pair and isinstance(prefix, str):
            found[(pair[1], pair[2])] = prefix
    return found
