"""Which of a conversation's turns fit into the window, found with few encodings of bounded length.

Knows no tokenizer: whoever asks counts the tokens of what it keeps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import neg

from ..protocol.messages import Message

LONGEST_TOKEN = 16  # characters; no text of some length comes near it on average
USUAL_TOKEN = 4
GUESSES = 4


def characters(messages: Sequence[Message]) -> int:
    """How long the messages are, at least: what a template writes around each of them is a token or more."""
    return sum(len(message.content) + _beside(message) + LONGEST_TOKEN for message in messages)


def _beside(message: Message) -> int:
    """Reasoning is not counted: templates leave that of older turns out."""
    return sum(len(call.name) + len(call.arguments) for call in message.tool_calls)


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """System messages, and whole turns: a user's message with the replies to it, tool calls and their results too."""
    system = [message for message in messages if message.role == "system"]
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "user" or (message.role != "system" and not turns):
            turns.append([message])
        elif message.role != "system":
            turns[-1].append(message)
    return system, turns or [[]]


def newest(turns: Sequence[Sequence[Message]], most: int) -> int:
    """From which turn on the rest has no more than so many characters: older ones are not worth encoding."""
    for at in range(len(turns) - 1, -1, -1):
        most -= characters(turns[at])
        if most < 0:
            return at + 1
    return 0


def first_that_fits(turns: Sequence[Sequence[Message]], limit: int, count: Callable[[int], int]) -> int:
    """From which turn on the prompt has at most `limit` tokens, the last one even if it has more.

    `count(at)` tells the tokens of the prompt that begins with turn `at`.
    """
    high = len(turns) - 1
    # The shortest prompt first: one that does not fit is refused after this one encoding.
    fits = count(high)
    if fits > limit:
        return high
    rest = [*accumulate(characters(turn) for turn in reversed(turns))][::-1]
    usual = bisect_left(rest, -USUAL_TOKEN * limit, key=neg)
    low, over, guesses = -1, 0, GUESSES
    while high - low > 1:
        if low < 0:
            # Nothing was too long yet. All turns at once may be four windows: they come after what fits usually.
            middle = usual if usual < high else 0
        elif guesses > 0:
            # Tokens grow about evenly with characters; where they do not, halving ends the search in time.
            share = (limit - fits) / (over - fits)
            wanted = rest[high] + share * (rest[low] - rest[high])
            middle = bisect_left(rest, -wanted, low + 1, high - 1, key=neg)
            guesses -= 1
        else:
            middle = (low + high) // 2
        tokens = count(middle)
        if tokens <= limit:
            high, fits = middle, tokens
        else:
            low, over = middle, tokens
    return high
