"""A folder's tokenizer, or one clear error saying why not. Imports no torch, but transformers 5.15 does.

transformers builds many tokenizers anew from a vocabulary by the rules of their named class. That loses what such a
class does not know, and where the vocabulary is missing or broken it gives an empty tokenizer without a word.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BrokenModel, LoadError, TokenizerMissing
from .load_errors import first_line, own_code, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("colab_llm_chat")

CONFIG = "tokenizer_config.json"
SERIALIZED = "tokenizer.json"
VOCABULARIES = (
    "*.model",
    "vocab.json",
    "vocab-*.json",
    "vocab.txt",
    "*.tokenizer",
    "*.tiktoken",
    "tekken.json",
    "*.bpe",
    "*.vocab",
)
FEWEST_WORDS = 8
# It knows all bytes without a file.
WITHOUT_VOCABULARY = "ByT5Tokenizer"


def load_tokenizer(folder: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; without a padding token it gets its end-of-text token.

    Raises TokenizerMissing, BrokenModel for files that cannot be read, UnsupportedModel where it needs its own code.
    """
    folder = Path(folder)
    options = check_tokenizer(folder, trust_remote_code=trust_remote_code)
    try:
        tokenizer = _load(folder, options, trust_remote_code)
    except LoadError:
        raise
    # The tokenizers library raises bare Exceptions for a damaged file.
    except Exception as error:
        log.debug("the tokenizer cannot be read", exc_info=error)
        raise BrokenModel(f"The tokenizer of {shown(folder)} cannot be read: {first_line(error)}") from error
    if len(tokenizer) - len(set(tokenizer.all_special_tokens)) < FEWEST_WORDS:
        raise BrokenModel(f"The tokenizer of {shown(folder)} is empty: its vocabulary file is missing or damaged.")
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_tokenizer(folder: Path, *, trust_remote_code: bool, name: str = "") -> dict[str, Any]:
    """What tokenizer_config.json says, after a look whether there are files to load; `name` is the model's for people.

    Raises TokenizerMissing, UnsupportedModel where it needs its own code, BrokenModel for a config that is no JSON.
    """
    name = name or shown(folder)
    options = _read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    has_code = _has_code(options)
    if (has_code and trust_remote_code) or (folder / SERIALIZED).is_file():
        return options
    if has_code:
        raise own_code(f"The tokenizer of {name}")
    there = any(path for pattern in VOCABULARIES for path in folder.glob(pattern))
    if not there and options.get("tokenizer_class") != WITHOUT_VOCABULARY:
        raise TokenizerMissing(f"{name} holds no tokenizer: neither {SERIALIZED} nor a vocabulary.")
    return options


def _has_code(options: dict[str, Any]) -> bool:
    own = options.get("auto_map")
    return isinstance(own, dict) and "AutoTokenizer" in own


def _load(folder: Path, options: dict[str, Any], trust_remote_code: bool) -> PreTrainedTokenizerBase:
    if _has_code(options) and trust_remote_code:
        return _by_named_class(folder, trust_remote_code)
    if (folder / SERIALIZED).is_file():
        _read_object(folder / SERIALIZED)
        return _serialized(folder)
    pieces = sorted(folder.glob("*.model"))
    if pieces and options.get("tokenizer_class") == "T5Tokenizer":
        return _from_pieces(folder, pieces[0], options)
    return _by_named_class(folder, trust_remote_code)


def _serialized(folder: Path) -> PreTrainedTokenizerBase:
    """As written in tokenizer.json, whatever class is named: the file is the whole tokenizer."""
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    tokenizer: PreTrainedTokenizerBase = TokenizersBackend.from_pretrained(str(folder), local_files_only=True)
    return tokenizer


def _from_pieces(folder: Path, pieces: Path, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Older Japanese models name T5's class for the SentencePiece file, but share neither its ids nor its rules."""
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    from .pieces import read_pieces

    special = {name: value for name, value in options.items() if name.endswith("_token") and value is not None}
    template = folder / "chat_template.jinja"
    chat_template = template.read_text(encoding="utf-8") if template.is_file() else options.get("chat_template")
    tokenizer: PreTrainedTokenizerBase = TokenizersBackend(
        # Some were trained on lower case alone and say so; T5's class never heeded it.
        tokenizer_object=read_pieces(pieces, lower_case=options.get("do_lower_case") is True),
        chat_template=chat_template,
        **special,
    )
    return tokenizer


def _by_named_class(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=trust_remote_code, local_files_only=True
    )
    return tokenizer


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenModel(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise BrokenModel(f"{path} holds no JSON object.")
    return content
