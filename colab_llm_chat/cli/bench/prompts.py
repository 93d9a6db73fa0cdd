"""Messages of an exact number of tokens, the same for every peer, new in every round: no cache can know them."""

from __future__ import annotations

import random
import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
# Where a tokenizer joins characters, a letter more or less may change the count by two.
TRIES = 40


def letters(seed: str, count: int) -> str:
    chosen = random.Random(seed)
    return "".join(chosen.choice(string.ascii_lowercase + " ") for _ in range(count))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    """The ids of a conversation, up to where the reply begins."""
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def message_of(tokenizer: PreTrainedTokenizerBase, seed: str, tokens: int) -> list[Message]:
    """A conversation of one message whose prompt has so many ids, or as near as the tokenizer lets it."""
    count = tokens
    for _ in range(TRIES):
        # White space at the ends is cut off by some templates.
        messages = [{"role": "user", "content": "x" + letters(seed, max(count - 2, 0)) + "x"}]
        missing = tokens - len(prompt_ids(tokenizer, messages))
        if missing == 0 or count + missing < 2:
            break
        count += missing
    return messages
