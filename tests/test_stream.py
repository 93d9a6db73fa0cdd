from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_llm_chat.engine.reports import Progress
from colab_llm_chat.protocol.messages import ChatRequest, Message
from colab_llm_chat.settings import SamplingParams
from colab_llm_chat.text.decode import SpaceCleaner
from colab_llm_chat.text.deltas import ReplyText
from colab_llm_chat.text.prompts import PromptEncoder
from colab_llm_chat.text.stream import TextStream
from tests.tokenizers_made_here import KINDS, of_kind

FAMILY = "👨‍👩‍👧"
ALPHABETS = (
    "abc XYZ.,!?'\n\t0123",
    "あいうがぱアイウガパー々",
    "ｱｲｳｶﾞﾊﾟﾆｬｰﾝ（）",
    "猫好天気𠮟葛󠄀",
    "👨👩👧‍🏽❤️🇯🇵😀⌚",
    "\x00\x1b\u0301\u3099\u200d\ufeff",
)
WORDS = ("n't", " 's", " ' ", "User:", "\n", "です。", FAMILY, "🇯🇵", "  ", "<|im_end|>", "\ufffd")
texts = st.lists(
    st.one_of(*(st.text(alphabet, max_size=6) for alphabet in ALPHABETS), st.sampled_from(WORDS)), max_size=12
).map("".join)
seeds = st.integers(0, 10**6)
many = settings(deadline=None, max_examples=60)


def encoded(kind: str, text: str) -> list[int]:
    return of_kind(kind).encode(text, add_special_tokens=False)


def in_pieces(ids: list[int], seed: int) -> list[list[int]]:
    draw, pieces = random.Random(seed), []
    while ids:
        size = draw.choice((0, 1, 1, 2, 5, 40))
        pieces.append(ids[:size])
        ids = ids[size:]
    return pieces


def streamed(stream: TextStream, pieces: list[list[int]]) -> list[str]:
    return [*map(stream.feed, pieces), stream.flush()]


def before_first(text: str, stop: list[str]) -> str:
    return text[: min((text.find(one) for one in stop if one in text), default=len(text))]


@pytest.mark.parametrize("kind", KINDS)
@many
@given(text=texts, seed=seeds)
def test_pieces_joined_are_the_full_decode(kind: str, text: str, seed: int) -> None:
    ids = encoded(kind, text)
    out = streamed(TextStream(of_kind(kind)), in_pieces(ids, seed))
    assert "".join(out) == of_kind(kind).decode(ids, skip_special_tokens=True)


@settings(deadline=None, max_examples=1000)
@given(text=st.text(" .'ntsa", max_size=14))
def test_spaces_are_cleaned_as_in_the_whole_text(text: str) -> None:
    cleaner = SpaceCleaner(of_kind("WordPiece"))
    cleaned = "".join([*map(cleaner.feed, text), cleaner.flush()])
    assert cleaned == of_kind("WordPiece").clean_up_tokenization(text)


@pytest.mark.parametrize("kind", KINDS)
@many
@given(data=st.data(), text=texts, seed=seeds)
def test_text_ends_at_the_first_stop_string(kind: str, data: st.DataObject, text: str, seed: int) -> None:
    ids = encoded(kind, text)
    full = of_kind(kind).decode(ids, skip_special_tokens=True)
    places = st.tuples(st.integers(0, max(0, len(full) - 1)), st.integers(1, 6))
    inside = places.map(lambda place: full[place[0] : sum(place)])
    stop = data.draw(st.lists(st.one_of(inside, texts.map(lambda one: one[:4])).filter(bool), max_size=4))
    stream = TextStream(of_kind(kind), stop=stop)
    assert "".join(streamed(stream, in_pieces(ids, seed))) == before_first(full, stop)
    assert stream.stopped == any(one in full for one in stop)


@pytest.mark.parametrize("kind", KINDS)
@many
@given(text=texts, seed=seeds)
def test_leading_white_space_is_stripped_once_under_every_cut(kind: str, text: str, seed: int) -> None:
    ids = encoded(kind, f"\n \n{text}")
    stream = TextStream(of_kind(kind), stop=["\nUser:"], strip_leading=True)
    full = before_first(of_kind(kind).decode(ids, skip_special_tokens=True), ["\nUser:"])
    assert "".join(streamed(stream, in_pieces(ids, seed))) == full.lstrip()


@pytest.mark.parametrize("kind", ["byte-level BPE", "BPE with byte fallback", "unigram"])
@many
@given(start=texts, rest=texts, seed=seeds)
def test_a_text_carried_on_keeps_its_spaces(kind: str, start: str, rest: str, seed: int) -> None:
    ids = encoded(kind, f"a{start}b") + encoded(kind, f" {rest}")
    cut = len(encoded(kind, f"a{start}b"))
    stream = TextStream(of_kind(kind), prefix_ids=ids[:cut])
    decode = of_kind(kind).decode
    whole = decode(ids, skip_special_tokens=True)
    assert "".join(streamed(stream, in_pieces(ids[cut:], seed))) == whole[len(decode(ids[:cut], True)) :]


@pytest.mark.parametrize("kind", KINDS)
@many
@given(ids=st.lists(st.integers(0, 600), max_size=30), seed=seeds)
def test_the_cut_never_changes_the_text_of_any_ids(kind: str, ids: list[int], seed: int) -> None:
    whole = "".join(streamed(TextStream(of_kind(kind)), [ids]))
    assert "".join(streamed(TextStream(of_kind(kind)), in_pieces(ids, seed))) == whole


@many
@given(ids=st.lists(st.integers(0, 600), max_size=60))
def test_any_bytes_decode_as_the_tokenizer_shows_them(ids: list[int]) -> None:
    tokenizer = of_kind("byte-level BPE")
    assert "".join(streamed(TextStream(tokenizer), [ids])) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
@many
@given(text=texts)
def test_no_piece_holds_half_a_character(kind: str, text: str) -> None:
    ids = encoded(kind, text.replace("\ufffd", ""))
    assert "\ufffd" not in "".join(streamed(TextStream(of_kind(kind)), [[one] for one in ids]))


@pytest.mark.parametrize("kind", ["byte-level BPE", "BPE with byte fallback", "unigram"])
@pytest.mark.parametrize("whole", [FAMILY, "👍🏽", "❤️", "🇯🇵", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"])
def test_emoji_sequences_come_in_one_piece(kind: str, whole: str) -> None:
    out = streamed(TextStream(of_kind(kind)), [[one] for one in encoded(kind, f"a{whole}{whole}b")])
    assert "".join(piece for piece in out if any(part in piece for part in whole)).count(whole) == 2
    assert all(len(piece.replace(whole, "")) < 2 for piece in out)


@pytest.mark.parametrize("text", ["こんにちは。猫が好きです", "ﾆｬｰﾝ（ﾆﾞ", "Hello, world", "1 2.5"])
def test_ordinary_text_is_never_held(text: str) -> None:
    tokenizer, fed, shown = of_kind("byte-level BPE"), [], ""
    stream = TextStream(tokenizer, stop=["\nUser:"])
    for token_id in encoded("byte-level BPE", text):
        fed.append(token_id)
        shown += stream.feed([token_id])
        assert shown == tokenizer.decode(fed).rstrip("\ufffd")


def test_an_endless_emoji_is_not_held_for_ever() -> None:
    stream = TextStream(of_kind("byte-level BPE"))
    assert stream.feed(encoded("byte-level BPE", "👩‍" * 40)) != ""


def test_endless_broken_bytes_are_not_held_for_ever() -> None:
    broken = of_kind("byte-level BPE").convert_tokens_to_ids("Ģ")
    stream = TextStream(of_kind("byte-level BPE"))
    assert stream.feed([broken] * 500).count("\ufffd") > 450


def test_a_later_shorter_stop_waits_for_an_earlier_longer_one() -> None:
    ids = encoded("byte-level BPE", "xabz")
    assert "".join(streamed(TextStream(of_kind("byte-level BPE"), stop=["abc", "b"]), [[one] for one in ids])) == "xa"


def test_nothing_comes_after_a_stop_string() -> None:
    kind = "byte-level BPE"
    stream = TextStream(of_kind(kind), stop=["User:"])
    assert stream.feed(encoded(kind, "hi User: more")) == "hi "
    assert (stream.stopped, stream.feed(encoded(kind, "x")), stream.flush()) == (True, "", "")


def test_the_cost_of_a_token_does_not_grow_with_the_reply() -> None:
    class Counting:
        decoded = 0

        def __getattr__(self, name: str) -> object:
            return getattr(of_kind("unigram"), name)

        def decode(self, ids: list[int], **options: bool) -> str:
            Counting.decoded += len(ids)
            return of_kind("unigram").decode(ids, **options)

    ids = encoded("unigram", "こんにちは the end 龍です。" * 200)
    streamed(TextStream(Counting()), [[one] for one in ids])  # type: ignore[arg-type]
    assert Counting.decoded < 10 * len(ids)


def test_a_reply_that_ends_in_mid_character_ends_before_it() -> None:
    tokenizer = of_kind("byte-level BPE")
    encoder = PromptEncoder(tokenizer)
    request = ChatRequest(messages=(Message("user", "hi"),), sampling=SamplingParams())
    prompt = encoder.encode(request, context_length=256)
    reply = ReplyText(tokenizer, prompt, encoder.parser(request, prompt))
    ids = encoded("byte-level BPE", "a🐈")
    assert len(ids) > 2
    fed = reply.feed(Progress(token_ids=tuple(ids[:-1])))
    assert fed.text + reply.flush().text == "a"
