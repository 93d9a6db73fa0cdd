"""Folders of encoder-decoder models as they lie on the Hub, without weights: tokenizers of each kind, trained here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from transformers import BartTokenizer, MBart50Tokenizer, MBartTokenizer, NllbTokenizer, T5Tokenizer
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M_CODES
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB_CODES

from tests.tokenizers_made_here import CORPUS, byte_level

T5_TASKS = {
    "summarization": {"prefix": "summarize: ", "max_length": 200},
    "translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 300},
    "translation_en_to_fr": {"prefix": "translate English to French: ", "max_length": 300},
    "translation_en_to_ro": {"prefix": "translate English to Romanian: ", "max_length": 300},
}
T5_SPECIAL = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def train_pieces(path: Path, *, kind: str = "unigram", **ids: int) -> None:
    """A SentencePiece file of the corpus."""
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=file,
            vocab_size=300,
            model_type=kind,
            hard_vocab_limit=False,
            character_coverage=1.0,
            minloglevel=2,
            **ids,
        )


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def config(folder: Path, model_type: str, **fields: Any) -> None:
    write(folder, "config.json", {"model_type": model_type, "is_encoder_decoder": True, **fields})


def nllb_tokenizer(folder: Path, **options: Any) -> None:
    """facebook/nllb-200-distilled-600M: pairs from SentencePiece in tokenizer.json, its languages special tokens."""
    train_pieces(folder / "sentencepiece.bpe.model", kind="bpe")
    tokenizer = NllbTokenizer.from_pretrained(str(folder), extra_special_tokens=list(NLLB_CODES), **options)
    tokenizer.save_pretrained(str(folder))


def nllb(folder: Path, **options: Any) -> None:
    """A folder with that tokenizer."""
    nllb_tokenizer(folder, **options)
    config(folder, "m2m_100", decoder_start_token_id=2)


def m2m(folder: Path) -> None:
    """facebook/m2m100_418M: a vocabulary beside SentencePiece, `__ja__`; no tokenizer.json."""
    path = folder / "sentencepiece.bpe.model"
    train_pieces(path)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    names = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(at) for at in range(3, pieces.get_piece_size()))]
    write(folder, "vocab.json", {piece: at for at, piece in enumerate(names)})
    codes = [f"__{code}__" for code in M2M_CODES["m2m100"]]
    named = {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": codes}
    write(folder, "tokenizer_config.json", named)
    config(folder, "m2m_100", decoder_start_token_id=2)


def mbart50(folder: Path) -> None:
    """facebook/mbart-large-50-many-to-many-mmt: `ja_XX` before the text."""
    train_pieces(folder / "sentencepiece.bpe.model")
    MBart50Tokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))
    config(folder, "mbart", decoder_start_token_id=2)


def mbart(folder: Path) -> None:
    """facebook/mbart-large-en-ro: 25 languages, the source's after the text, the target's first in the reply."""
    train_pieces(folder / "sentencepiece.bpe.model")
    MBartTokenizer.from_pretrained(str(folder), src_lang="en_XX", tgt_lang="ro_RO").save_pretrained(str(folder))
    config(folder, "mbart")


def t5(folder: Path, **fields: Any) -> None:
    """google-t5/t5-small: unigrams in tokenizer.json, `</s>` after a text, the tasks in its config."""
    train_pieces(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    T5Tokenizer.from_pretrained(str(folder), **T5_SPECIAL).save_pretrained(str(folder))
    config(folder, "t5", **{"decoder_start_token_id": 0, "task_specific_params": T5_TASKS, **fields})


def t5_of_pieces(folder: Path) -> None:
    """google/t5-v1_1-small: the SentencePiece file alone, and no tasks."""
    train_pieces(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    write(folder, "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, **T5_SPECIAL})
    config(folder, "t5", decoder_start_token_id=0)


def bart(folder: Path) -> None:
    """facebook/bart-large-cnn: byte-level pairs between `<s>` and `</s>`; replies begin with `</s><s>`."""
    vocabulary = json.loads(byte_level().backend_tokenizer.to_str())["model"]
    names = ["<s>", "<pad>", "</s>", "<unk>", *(name for name in vocabulary["vocab"] if not name.startswith("<|"))]
    pieces = {name: at for at, name in enumerate([*names, "<mask>"])}
    merges = [tuple(merge) for merge in vocabulary["merges"]]
    BartTokenizer(vocab=pieces, merges=merges).save_pretrained(str(folder))
    config(folder, "bart", decoder_start_token_id=2, forced_bos_token_id=0)


def marian(folder: Path) -> None:
    """Helsinki-NLP/opus-mt-en-jap: a SentencePiece file for each side, one vocabulary, replies begin with `<pad>`."""
    for name in ("source.spm", "target.spm"):
        train_pieces(folder / name)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    names = ["</s>", "<unk>", *(pieces.id_to_piece(at) for at in range(3, pieces.get_piece_size())), "<pad>"]
    write(folder, "vocab.json", {piece: at for at, piece in enumerate(names)})
    named = {"tokenizer_class": "MarianTokenizer", "source_lang": "eng", "target_lang": "jap"}
    write(folder, "tokenizer_config.json", named)
    config(folder, "marian", decoder_start_token_id=len(names) - 1)


KINDS: dict[str, Callable[[Path], None]] = {
    "nllb": nllb,
    "m2m": m2m,
    "mbart50": mbart50,
    "mbart": mbart,
    "t5": t5,
    "t5_of_pieces": t5_of_pieces,
    "bart": bart,
    "marian": marian,
}
