"""Tokenizers from folders: as their files say, never empty, and without torch."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from colab_llm_chat.errors import BrokenModel, TokenizerMissing, UnsupportedModel
from colab_llm_chat.models.tokenizer import load_tokenizer
from tests.tokenizers_made_here import CORPUS, KINDS, byte_level

TEXTS = (
    "こんにちは。",
    " hello  world ",
    "ＡＢＣ　１２３",
    "ﾆｬｰﾝ（尻尾を振る）ﾆﾞｬｯｶﾞﾊﾟ～",
    "猫😀が好き",
    "a\nb\tc",
    "ユーザー: やあ\nシステム: ",
    "",
)
NO_PREFIX = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
# The last two as rinna's GPT-NeoX models have them.
PIECES = (
    {"model_type": "unigram"},
    {"model_type": "bpe", "byte_fallback": True},
    {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", **NO_PREFIX},
    {"model_type": "unigram", "byte_fallback": True, **NO_PREFIX},
    {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "identity", **NO_PREFIX},
)


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def sentencepiece_folder(folder: Path, **training: Any) -> sentencepiece.SentencePieceProcessor:
    """A tokenizer as in the repositories of older Japanese models; returns SentencePiece's own."""
    write(folder, "corpus.txt", "\n".join(CORPUS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "spiece"), vocab_size=450, hard_vocab_limit=False,
        user_defined_symbols=["[CLS]", "[SEP]", "[MASK]"], unk_id=0, bos_id=1, eos_id=2, pad_id=3, pad_piece="[PAD]",
        minloglevel=2, **training,
    )  # fmt: skip
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]"}
    write(folder, "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, **special})
    write(folder, "config.json", {"model_type": "gpt_neox"})
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))


def random_texts(seed: int) -> list[str]:
    chosen = random.Random(seed)
    letters = "こんにちは。今日 猫が好き  helo wrd　ＡＢＣ１２3😀é\n\tｶﾞﾆｬｰﾝ～"
    # A half-width mark after a full-width kana is composed by SentencePiece alone; nobody types that.
    texts = ("".join(chosen.choices(letters, k=chosen.randrange(1, 30))) for _ in range(400))
    return [text.replace("ﾞ", "") for text in texts]


@pytest.mark.parametrize("training", PIECES)
def test_a_sentencepiece_file_gives_sentencepieces_own_ids(training: dict[str, Any], tmp_path: Path) -> None:
    own = sentencepiece_folder(tmp_path, **training)
    tokenizer = load_tokenizer(tmp_path)
    for text in (*TEXTS, *random_texts(seed=1)):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == own.encode(text)
        if training.get("byte_fallback"):
            assert tokenizer.decode(ids) == own.decode(ids)


@pytest.mark.parametrize("training", PIECES)
def test_a_folder_that_asks_for_lower_case_gets_it_and_keeps_its_special_tokens(
    training: dict[str, Any], tmp_path: Path
) -> None:
    own = sentencepiece_folder(tmp_path, **training)
    options = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, "tokenizer_config.json", {**options, "do_lower_case": True, "mask_token": "[MASK]"})
    tokenizer = load_tokenizer(tmp_path)
    for text in ("The Quick Brown FOX", "ＡＢＣ ÉÀ 猫 Σ", *random_texts(seed=2)):
        # Letter by letter, as transformers 4 did it: a Σ at a word's end is no ς.
        assert tokenizer.encode(text, add_special_tokens=False) == own.encode("".join(map(str.lower, text)))
    assert tokenizer.encode("[MASK]", add_special_tokens=False) == [own.piece_to_id("[MASK]")]


def test_special_tokens_of_a_sentencepiece_file_keep_their_ids(tmp_path: Path) -> None:
    sentencepiece_folder(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert tokenizer.encode("</s>", add_special_tokens=False) == [2]


def test_a_damaged_sentencepiece_file_is_told(tmp_path: Path) -> None:
    sentencepiece_folder(tmp_path)
    whole = (tmp_path / "spiece.model").read_bytes()
    for content in (b"", b"xxxx", whole[: len(whole) // 2]):
        (tmp_path / "spiece.model").write_bytes(content)
        with pytest.raises(BrokenModel):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_serialized_tokenizer_loads_as_transformers_loads_it(kind: str, tmp_path: Path) -> None:
    KINDS[kind]().save_pretrained(tmp_path)
    tokenizer, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token_id == theirs.eos_token_id
    for text in TEXTS:
        assert tokenizer.encode(text) == theirs.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == theirs.decode(theirs.encode(text))


@pytest.mark.parametrize("named", ["T5Tokenizer", "LlamaTokenizerFast", "GPTNeoXTokenizerFast", "NobodysTokenizer"])
def test_a_serialized_tokenizer_does_not_depend_on_the_class_named(named: str, tmp_path: Path) -> None:
    byte_level().save_pretrained(tmp_path)
    options = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, "tokenizer_config.json", {**options, "tokenizer_class": named})
    assert [load_tokenizer(tmp_path).encode(text) for text in TEXTS] == [byte_level().encode(text) for text in TEXTS]


def test_the_chat_template_comes_along(tmp_path: Path) -> None:
    byte_level("{{ messages[0].content }}!").save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).chat_template == "{{ messages[0].content }}!"


def test_no_padding_token_becomes_the_end_of_text(tmp_path: Path) -> None:
    byte_level().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<|endoftext|>"


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "LlamaTokenizer", "T5Tokenizer", "GPTNeoXTokenizer"])
def test_no_vocabulary_is_no_tokenizer(named: str, tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": named})
    write(tmp_path, "config.json", {"model_type": "gpt_neox"})
    with pytest.raises(TokenizerMissing):
        load_tokenizer(tmp_path)


def test_a_vocabulary_that_transformers_passes_over_is_told(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    write(tmp_path, "config.json", {"model_type": "gpt2"})
    write(tmp_path, "vocab.json", {})
    write(tmp_path, "merges.txt", "")
    with pytest.raises(BrokenModel):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0"}', '{"added_tokens": [], "model": {}}'])
def test_a_damaged_tokenizer_json_is_told(content: str, tmp_path: Path) -> None:
    byte_level().save_pretrained(tmp_path)
    write(tmp_path, "tokenizer.json", content)
    with pytest.raises(BrokenModel):
        load_tokenizer(tmp_path)


def test_a_model_in_the_hubs_cache_is_called_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "models--cats--small-cat" / "snapshots" / "0123abcd"
    folder.mkdir(parents=True)
    with pytest.raises(TokenizerMissing, match="cats/small-cat"):
        load_tokenizer(folder)


def test_code_of_its_own_is_not_run_unasked(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Own", None]}})
    write(tmp_path, "own.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
    write(tmp_path, "vocab.txt", "a\nb\n")
    with pytest.raises(UnsupportedModel) as refusal:
        load_tokenizer(tmp_path)
    assert "--trust-remote-code" in refusal.value.hint
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_with_code_and_a_serialized_form_needs_no_code(tmp_path: Path) -> None:
    byte_level().save_pretrained(tmp_path)
    options = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, "tokenizer_config.json", {**options, "auto_map": {"AutoTokenizer": ["own.Own", None]}})
    assert load_tokenizer(tmp_path).encode("a") == byte_level().encode("a")


def test_loading_a_tokenizer_loads_no_torch_that_transformers_does_not(tmp_path: Path) -> None:
    byte_level().save_pretrained(tmp_path)
    program = (
        "import sys, transformers.tokenization_utils_tokenizers; before = 'torch' in sys.modules; "
        f"from colab_llm_chat.models.load import load_tokenizer; load_tokenizer({str(tmp_path)!r}); "
        "sys.exit('torch' in sys.modules and not before)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_tokenizer_of_bytes_needs_no_vocabulary(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"})
    write(tmp_path, "config.json", {"model_type": "t5"})
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer("猫です").input_ids, skip_special_tokens=True) == "猫です"
