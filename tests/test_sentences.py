from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colab_llm_chat.text.sentences import SentenceCutter

texts = st.text("aあ 。！？.!?…」)3\n")


def halves(text: str) -> tuple[str, str]:
    """What goes out after the soft deadline, letter by letter, and what is kept."""
    cutter = SentenceCutter()
    out = "".join(cutter.feed(letter, soft=True) for letter in text)
    return out, cutter.flush()


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("そうです。つぎ", "そうです。"),
        ("「そうです。」つぎ", "「そうです。」"),
        ("本当？！はい", "本当？！"),
        ("It is. Next", "It is."),
        ('He said "Yes!" Next', 'He said "Yes!"'),
        ("Pi is 3.14 or so", ""),
        ("1. First", ""),
        ("see a.b and x?y=1", ""),
        ("one\ntwo", "one"),
        ("すごい!次は", "すごい!"),
        ("そう…ね", "そう…"),
        ("**はい。** 次", "**はい。**"),
    ],
)
def test_whole_sentences_go_out(text: str, whole: str) -> None:
    assert halves(text) == (whole, text[len(whole) :])


def test_a_sentence_counts_when_its_next_character_is_known() -> None:
    cutter = SentenceCutter()
    assert (cutter.feed("はい。", soft=True), cutter.at_sentence_end) == ("", False)
    assert (cutter.feed("」", soft=True), cutter.at_sentence_end) == ("", False)
    assert (cutter.feed("次", soft=True), cutter.at_sentence_end) == ("はい。」", True)


def test_before_the_soft_deadline_all_goes_out() -> None:
    cutter = SentenceCutter()
    assert cutter.feed("half a sen", soft=False) == "half a sen"
    assert not cutter.at_sentence_end


def test_a_sentence_begun_before_the_soft_deadline_ends_after_it() -> None:
    cutter = SentenceCutter()
    cutter.feed("half a sen", soft=False)
    assert cutter.feed("tence. And", soft=True) == "tence."
    assert cutter.at_sentence_end


def test_an_end_shown_before_the_soft_deadline_is_known_after_it() -> None:
    cutter = SentenceCutter()
    cutter.feed("It is.", soft=False)
    assert (cutter.feed(" And", soft=True), cutter.at_sentence_end) == ("", True)


def test_at_the_hard_deadline_half_a_sentence_is_dropped() -> None:
    cutter = SentenceCutter()
    assert cutter.feed("はい。そう", soft=True) == "はい。"
    assert (cutter.cut(), cutter.flush()) == ("", "")


def test_at_the_hard_deadline_a_sentence_that_just_ended_goes_out() -> None:
    cutter = SentenceCutter()
    assert cutter.feed("はい。そう。", soft=True) == "はい。"
    assert (cutter.cut(), cutter.at_sentence_end) == ("そう。", True)


def test_at_the_hard_deadline_all_goes_out_if_no_sentence_has_ended() -> None:
    cutter = SentenceCutter()
    cutter.feed("ﾆｬｰﾝ（尻尾", soft=True)
    assert cutter.cut() == "ﾆｬｰﾝ（尻尾"


def test_at_the_hard_deadline_the_rest_goes_out_if_half_a_sentence_is_shown() -> None:
    cutter = SentenceCutter()
    cutter.feed("はい。そ", soft=False)
    cutter.feed("うで", soft=True)
    assert cutter.cut() == "うで"


@given(text=texts, soft=st.integers(0, 20))
def test_nothing_is_lost_when_the_reply_ends_by_itself(text: str, soft: int) -> None:
    cutter = SentenceCutter()
    out = "".join(cutter.feed(letter, soft=at >= soft) for at, letter in enumerate(text))
    assert out + cutter.flush() == text


@given(text=texts)
def test_the_cut_into_feeds_changes_nothing(text: str) -> None:
    at_once = SentenceCutter()
    assert (at_once.feed(text, soft=True), at_once.flush()) == halves(text)
