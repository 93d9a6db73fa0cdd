"""The forms of chat models whose repositories ship no chat template: which family a model is of, by name and config.

A new family is a file in chat_templates and a row here. Knows nothing of prompts, messages or the engine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parent / "chat_templates"
# A repository's folder in the Hub client's cache.
CACHED = "models--"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One way to write a conversation.

    `pattern` finds the model's name; `model_types` those that its config may have, () any; `template` is the file's
    name. What is plain text in this form: `labels` begin a line and a turn, before a colon; `own_labels` too, but
    an answer may write them; `tags` stand anywhere. `tokens` must be in the tokenizer, `ends` end a reply where they
    are. `newline` is the piece that stands for a newline. `opened`: the tokenizer's own beginning comes first.
    """

    name: str
    pattern: str
    template: str
    model_types: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    own_labels: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    newline: str = ""
    opened: bool = True

    @property
    def chat_template(self) -> str:
        return (TEMPLATES / f"{self.template}.jinja").read_text(encoding="utf-8")

    def fits(self, name: str, model_type: str) -> bool:
        of_type = not (self.model_types and model_type) or model_type in self.model_types
        return of_type and re.search(self.pattern, name, re.IGNORECASE) is not None

    def give_to(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """The tokenizer gets the template, and reads its piece for newlines as a newline."""
        tokenizer.chat_template = self.chat_template
        if self.newline:
            _read_as_newline(tokenizer, self.newline)


_ALPACA_JAPANESE = ("### 指示", "### 入力", "### 応答")
_ALPACA = ("### Instruction", "### Input", "### Response")

# The first that fits; a base model of the same maker must fit none.
FAMILIES = (
    Family(
        name="ChatML",
        pattern=r"chatml|open-?hermes|dolphin",
        template="chatml",
        tokens=("<|im_start|>", "<|im_end|>"),
        ends=("<|im_end|>", "<|im_start|>"),
    ),
    Family(
        name="Llama 2",
        pattern=r"elyza-japanese-(code)?llama-.*instruct|llama-2-\d+b-chat",
        template="llama_2",
        model_types=("llama",),
        tags=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    ),
    Family(
        name="rinna GPT-NeoX",
        pattern=r"japanese-gpt-neox-3\.6b-instruction",
        template="rinna_gpt_neox",
        model_types=("gpt_neox",),
        labels=("ユーザー", "システム"),
        newline="<NL>",
        opened=False,
    ),
    Family(
        name="rinna bilingual GPT-NeoX",
        pattern=r"bilingual-gpt-neox-4b-instruction",
        template="rinna_bilingual",
        model_types=("gpt_neox",),
        labels=("ユーザー", "システム"),
        opened=False,
    ),
    Family(
        name="youri-chat",
        pattern=r"youri-7b-chat",
        template="youri_chat",
        model_types=("llama",),
        labels=("ユーザー", "システム"),
        own_labels=("設定",),
        opened=False,
    ),
    Family(
        name="Japanese Alpaca",
        pattern=r"(youri|nekomata)-\d+b-instruction",
        template="alpaca_japanese",
        model_types=("llama", "qwen"),
        labels=_ALPACA_JAPANESE,
        opened=False,
    ),
    Family(
        name="weblab",
        pattern=r"weblab-10b-instruction",
        template="weblab",
        model_types=("gpt_neox",),
        labels=_ALPACA_JAPANESE,
        opened=False,
    ),
    Family(
        name="Gemma",
        pattern=r"gemma.*-it\b",
        template="gemma",
        tokens=("<start_of_turn>", "<end_of_turn>"),
        ends=("<end_of_turn>", "<start_of_turn>"),
    ),
    Family(
        name="phi-2",
        pattern=r"^phi-2$",
        template="phi_2",
        model_types=("phi",),
        labels=("Instruct",),
        own_labels=("Output",),
    ),
    Family(
        name="Open-Assistant",
        pattern=r"oasst|open-?assistant",
        template="open_assistant",
        tokens=("<|prompter|>", "<|assistant|>"),
        ends=("<|prompter|>",),
    ),
    Family(
        name="Dolly",
        pattern=r"dolly-v[12]",
        template="dolly",
        model_types=("gpt_neox", "gptj"),
        labels=_ALPACA,
        ends=("### End",),
    ),
    Family(
        name="StableLM-Tuned-Alpha",
        pattern=r"stablelm-tuned-alpha",
        template="stablelm_tuned",
        model_types=("gpt_neox",),
        tokens=("<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>"),
        ends=("<|USER|>", "<|ASSISTANT|>", "<|SYSTEM|>", "<|padding|>"),
    ),
    Family(
        name="Alpaca",
        pattern=r"^(stanford[-_])?alpaca\b",
        template="alpaca",
        model_types=("llama",),
        labels=_ALPACA,
    ),
)


def family_for(tokenizer: PreTrainedTokenizerBase, model_id: str, folder: str | Path) -> Family | None:
    """The family whose form this model needs; None where it brings a template of its own, or nothing tells a family."""
    if tokenizer.chat_template:
        return None
    family = family_of(model_id, Path(folder))
    added = {one.content for one in tokenizer.added_tokens_decoder.values()}
    return family if family is not None and added.issuperset(family.tokens) else None


def turn_ends(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Tokens that end a turn in the tokenizer's own template, where it marks turns as a family that is known.

    Many a model's files name only the end of a whole text, and it would go on to play the other side.
    """
    template = str(tokenizer.chat_template or "")
    marked = [family for family in FAMILIES if family.tokens and all(token in template for token in family.tokens)]
    return frozenset(end for family in marked for end in family.ends)


def family_of(model_id: str, folder: Path) -> Family | None:
    """By the model's name, else by what a folder of the user's tells: its own name, and the model that it was."""
    config = read_object(folder / "config.json")
    model_type = str(config.get("model_type") or "")
    for name in model_names(model_id, folder, config):
        found = next((family for family in FAMILIES if family.fits(name, model_type)), None)
        if found is not None:
            return found
    return None


def model_names(model_id: str, folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """What a model is called: by its id, and where that is a folder by what its files and places tell."""
    yield _last_part(model_id)
    if not os.path.isdir(os.path.expanduser(model_id)):
        return
    places = folder.resolve()
    yield places.name
    yield from (_last_part(part) for part in reversed(places.parts) if part.startswith(CACHED))
    yield _last_part(str(config.get("_name_or_path") or ""))


def _last_part(name: str) -> str:
    """`NAME` of `OWNER/NAME`, of `OWNER--NAME`, as folders are named here and in the client's cache, and of a path."""
    return re.split(r"/|--", name.rstrip("/"))[-1]


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the model's; an empty one where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_as_newline(tokenizer: PreTrainedTokenizerBase, piece: str) -> None:
    from tokenizers import AddedToken, decoders

    # An id that is new would be one that the model has no embedding for.
    if tokenizer.convert_tokens_to_ids(piece) in (None, tokenizer.unk_token_id):
        return
    # As an added token its name in a message can be told from the newline itself.
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False)])
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        before = [backend.decoder] if backend.decoder is not None else []
        backend.decoder = decoders.Sequence([*before, decoders.Replace(piece, "\n")])
