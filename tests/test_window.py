"""The search for the turns that fit: always the exact cut, with few counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from colab_llm_chat.protocol.messages import Message
from colab_llm_chat.text.window import first_that_fits, newest, split_turns

TOKENS = st.lists(st.integers(0, 300), min_size=1, max_size=400)


def turns_of(sizes: list[int]) -> list[list[Message]]:
    return [[Message("user", "a" * size)] for size in sizes]


@given(TOKENS, st.integers(0, 20_000), st.sampled_from([1, 0, 7]))
def test_the_cut_is_where_one_turn_more_would_be_too_many(tokens: list[int], limit: int, rate: int) -> None:
    turns = turns_of([size * rate % 251 for size in tokens])
    counted: list[int] = []

    def count(at: int) -> int:
        counted.append(at)
        return sum(tokens[at:]) + 5

    at = first_that_fits(turns, limit, count)
    last = len(tokens) - 1
    assert at == last or count(at) <= limit
    assert at == 0 or count(at - 1) > limit or at == last
    assert len(set(counted)) <= 2 + 4 + 9 + 2


def test_one_count_is_enough_where_even_the_last_turn_is_too_long() -> None:
    counted: list[int] = []
    assert first_that_fits(turns_of([1] * 2_000), 10, lambda at: counted.append(at) or 11) == 1_999
    assert counted == [1_999]


def test_turns_of_even_length_need_few_counts() -> None:
    counted: list[int] = []
    at = first_that_fits(turns_of([50] * 2_000), 4_000, lambda at: counted.append(at) or (2_000 - at) * 21 + 9)
    assert (2_000 - at) == 190
    assert len(counted) <= 5


def test_older_turns_than_the_characters_allow_are_left_out() -> None:
    turns = turns_of([5, 4, 3])
    assert [newest(turns, most + 3 * 16) for most in (100, 12, 11)] == [0, 0, 1]
    assert [newest(turns, most) for most in (16 + 3, 16 + 2)] == [2, 3]


def test_a_turn_is_a_users_message_with_the_replies_to_it() -> None:
    roles = ("assistant", "system", "user", "assistant", "assistant", "user")
    system, turns = split_turns([Message(role, "x") for role in roles])  # type: ignore[arg-type]
    assert (len(system), [len(turn) for turn in turns]) == (1, [1, 3, 1])
