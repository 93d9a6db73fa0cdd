"""Single tokens as bytes, for tokenizers of each kind, and log-probabilities that wait for their text."""

from __future__ import annotations

import pytest

from colab_llm_chat.engine.reports import Logprobs
from colab_llm_chat.text.token_text import HeldLogprobs, TokenTexts
from tests.tokenizers_made_here import byte_fallback, byte_level, of_kind

TEXT = "Hello, the 猫です 🐈 ﾆｬｰﾝ"


@pytest.mark.parametrize("kind", ["byte-level BPE", "BPE with byte fallback", "unigram"])
def test_the_bytes_of_a_texts_tokens_are_the_text(kind: str) -> None:
    tokenizer = of_kind(kind)
    texts = TokenTexts(tokenizer)
    data = b"".join(texts.data(token_id) for token_id in tokenizer.encode(TEXT, add_special_tokens=False))
    assert data.decode().lstrip() == TEXT


@pytest.mark.parametrize("kind", ["BPE with byte fallback", "unigram"])
def test_a_piece_of_several_spaces_has_all_of_them(kind: str) -> None:
    tokenizer = of_kind(kind)
    assert TokenTexts(tokenizer).data(tokenizer.convert_tokens_to_ids("▁▁")) == b"  "


def test_a_part_of_a_character_keeps_its_byte() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("🐈", add_special_tokens=False)
    one = TokenTexts(tokenizer).logprob(ids[0], Logprobs(-0.5, ((ids[0], -0.5),)))
    assert "🐈".encode().startswith(one.data)
    assert (one.logprob, one.top[0].data) == (-0.5, one.data)


def test_an_id_beyond_the_vocabulary_has_no_bytes() -> None:
    assert TokenTexts(byte_fallback()).data(100_000) == b""


def test_logprobs_go_out_with_the_text_of_their_tokens() -> None:
    tokenizer = byte_level()
    held = HeldLogprobs(TokenTexts(tokenizer))
    ids = tokenizer.encode("Hello, world", add_special_tokens=False)
    held.feed(ids, [Logprobs(-1.0, ())] * len(ids))
    assert held.release("") == ()
    first = held.release("Hello")
    assert "".join(one.text for one in first) == "Hello"
    assert "".join(one.text for one in first + held.flush()) == "Hello, world"


def test_what_a_stop_string_cut_off_never_goes_out() -> None:
    tokenizer = byte_level()
    held = HeldLogprobs(TokenTexts(tokenizer))
    for word in ("Hello", " END"):
        ids = tokenizer.encode(word, add_special_tokens=False)
        held.feed(ids, [Logprobs(-1.0, ())] * len(ids))
    assert "".join(one.text for one in held.release("Hello")) == "Hello"
    assert held.release("") == ()
