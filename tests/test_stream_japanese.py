"""Japanese as it streams, with tokenizers of each kind: shown with the token that completes it, and never broken.

What may still grow is another matter: a picture waits for its joiners and modifiers, so that no half emoji is shown.
A letter does not wait for a combining mark, nor a half-width kana for its dakuten: the mark follows with its token.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Tokenizer, TextStreamer

from colab_llm_chat.models.tokenizer import load_tokenizer
from colab_llm_chat.text.stream import TextStream
from colab_llm_chat.text.token_text import TokenTexts
from tests.model_twins import RINNAS, RINNAS_NEOX
from tests.tokenizers_made_here import CORPUS, of_kind

# Kana, kanji, half-width katakana with their marks, combining marks, full-width and plain letters, spaces.
LETTERS = "あいうがぱゃっーアイヴ゛々〆猫好天気𠮟葛ｱｲｶﾞﾊﾟﾆｬｰﾝ（）。、か\u3099は\u309ae\u0301 　abc XYZ12"
# Those that the tiny vocabularies without bytes have.
KNOWN = "".join(sorted({*"".join(CORPUS)} - {"\n"}))
FAMILY = "👨\u200d👩\u200d👧"
many = settings(deadline=None, max_examples=40)


def from_pieces(write: Callable[[Path], None], *, as_t5: bool = False) -> tuple[Any, Any]:
    """The product's tokenizer of a SentencePiece file, and SentencePiece's own."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
        if as_t5:
            T5Tokenizer.from_pretrained(folder, extra_ids=4).save_pretrained(folder)
        return load_tokenizer(folder), own


@cache
def made(kind: str) -> tuple[Any, Any]:
    """A tokenizer, and SentencePiece's own where it is of such a file."""
    if kind == "rinna's unigrams":
        return from_pieces(RINNAS_NEOX)
    if kind == "rinna's GPT-2":
        return from_pieces(partial(RINNAS, lower=False))
    if kind == "T5's":
        return from_pieces(partial(RINNAS, lower=False), as_t5=True)
    return of_kind(kind), None


BYTES = ("byte-level BPE", "BPE with byte fallback", "unigram", "rinna's unigrams")
PIECES = ("rinna's GPT-2", "T5's")


def ids_of(kind: str, text: str) -> list[int]:
    return list(made(kind)[0].encode(text, add_special_tokens=False))


def streamed(kind: str, ids: list[int], seed: int | None = None) -> list[str]:
    """What comes of each feed, and of the end: one id at a time, or cut by chance."""
    draw, stream, out = random.Random(seed), TextStream(made(kind)[0]), []
    while ids:
        size = 1 if seed is None else draw.choice((1, 2, 3, 7))
        out.append(stream.feed(ids[:size]))
        ids = ids[size:]
    return [*out, stream.flush()]


def complete(kind: str, ids: list[int]) -> str:
    """The whole characters in the bytes of these tokens, without the space that some tokenizers put in front."""
    tokenizer = made(kind)[0]
    text = b"".join(map(TokenTexts(tokenizer).data, ids)).decode("utf-8", "ignore")
    return text.removeprefix(" ") if tokenizer.convert_ids_to_tokens(ids_of(kind, "a"))[0][0] == "▁" else text


def texts_for(kind: str) -> st.SearchStrategy[str]:
    return st.text(LETTERS if kind in BYTES else KNOWN, max_size=20)


@pytest.mark.parametrize("kind", [*BYTES, *PIECES])
@many
@given(data=st.data())
def test_every_character_is_shown_with_the_token_that_completes_it(kind: str, data: st.DataObject) -> None:
    ids, stream, shown = ids_of(kind, data.draw(texts_for(kind))), TextStream(made(kind)[0]), ""
    for at, token_id in enumerate(ids):
        shown += stream.feed([token_id])
        assert shown == complete(kind, ids[: at + 1])
    assert stream.flush() == ""


@pytest.mark.parametrize("kind", [*BYTES, *PIECES])
@many
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_however_it_is_cut_the_text_is_whole_and_keeps_its_spaces(kind: str, data: st.DataObject, seed: int) -> None:
    tokenizer, own = made(kind)
    ids = ids_of(kind, data.draw(texts_for(kind)))
    out = streamed(kind, ids, seed)
    assert "".join(out) == tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in piece for piece in out)
    if kind == "rinna's unigrams":
        assert "".join(out) == own.decode(ids)


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("text", ["こんにちは、ネコちゃん", "ﾆｬｰﾝ（ｶﾞﾊﾟ）", "𠮟葛", "はか\u3099は\u309a", "e\u0301a"])
def test_ids_of_single_bytes_show_each_letter_once_and_at_once(kind: str, text: str) -> None:
    ids = single_bytes(kind, text)
    out = streamed(kind, ids)
    assert [piece for piece in out if piece] == list(text)
    last_bytes = [len(text[: at + 1].encode()) - 1 for at in range(len(text))]
    assert [at for at, piece in enumerate(out) if piece] == last_bytes


def single_bytes(kind: str, text: str) -> list[int]:
    """The text as tokens of one byte each, as models write what their vocabulary lacks."""
    tokenizer = made(kind)[0]
    data = {TokenTexts(tokenizer).data(at): at for piece, at in sorted(tokenizer.get_vocab().items())}
    bytewise = {piece: at for piece, at in tokenizer.get_vocab().items() if piece.startswith("<0x")}
    return [bytewise[f"<0x{byte:02X}>"] if bytewise else data[bytes([byte])] for byte in text.encode()]


@pytest.mark.parametrize("kind", BYTES)
def test_a_mark_follows_its_letter_and_a_picture_waits_for_its_whole(kind: str) -> None:
    marked = [piece for piece in streamed(kind, single_bytes(kind, "か\u3099e\u0301ｶﾞ")) if piece]
    assert marked == ["か", "\u3099", "e", "\u0301", "ｶ", "ﾞ"]
    pictures = [piece for piece in streamed(kind, single_bytes(kind, f"猫{FAMILY}👍🏽❤\ufe0f🇯🇵。")) if piece]
    assert pictures == ["猫", FAMILY, "👍🏽", "❤\ufe0f", "🇯🇵", "。"]


def test_kana_come_at_once_where_transformers_own_streamer_waits_for_a_space() -> None:
    tokenizer = made("byte-level BPE")[0]
    ids, theirs = ids_of("byte-level BPE", "ねこはかわいい"), list[str]()
    streamer = TextStreamer(tokenizer)
    for token_id in ids:
        with redirect_stdout(io.StringIO()) as told:
            streamer.put(_Id(token_id))
        theirs.append(told.getvalue())
    assert not any(theirs)
    assert "".join(streamed("byte-level BPE", ids)[:-1]) == "ねこはかわいい"


class _Id:
    """What TextStreamer takes, without torch."""

    shape = (1,)

    def __init__(self, token_id: int) -> None:
        self._id = token_id

    def tolist(self) -> list[int]:
        return [self._id]
