"""Ids to text through a short window: the whole reply's decoding, at a cost that does not grow with its length.

Knows what tokenizers' decoders do at the edges of a text; knows nothing of stop strings or of when to show text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
LONGEST_WAITING = 32

# The characters of the patterns that PreTrainedTokenizerBase.clean_up_tokenization replaces, each starting at a space.
_CLEANED = frozenset(" .?!,'nmtsver")


class IdDecoder:
    """Ids to text, one id at a time, by decoding a short window: the ids that wait and the ones just before them.

    The ones before make decoders that treat the first piece of a text otherwise (a dropped space, a kept `##`)
    give the same text as for the whole reply.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prefix_ids: Sequence[int] = (),
        shown_ids: frozenset[int] = frozenset(),
    ) -> None:
        """`shown_ids`: special tokens that are decoded to their names."""
        self._tokenizer = tokenizer
        self._shown = shown_ids
        self._before: list[int] = []
        self._before_text = ""
        self._waiting: list[int] = []
        self._waiting_text = ""
        self._given = 0
        self._start_from(prefix_ids)

    def feed(self, token_id: int) -> str:
        """The characters that are complete with this id."""
        if token_id in self._shown:
            return self.flush() + str(self._tokenizer.convert_ids_to_tokens(token_id))
        text = self._text_of([*self._waiting, token_id])
        if text == self._waiting_text and self._hides(token_id):
            return ""
        self._waiting.append(token_id)
        self._waiting_text = text
        complete = len(text.rstrip(REPLACEMENT))
        if 0 < complete == len(text) or len(self._waiting) >= LONGEST_WAITING:
            return self._settle()
        new = text[self._given : max(self._given, complete)]
        self._given += len(new)
        return new

    def flush(self) -> str:
        """The characters that stay incomplete, as the tokenizer shows them."""
        return self._settle() if self._waiting else ""

    def _settle(self) -> str:
        new = self._waiting_text[self._given :]
        self._before, self._waiting = self._waiting, []
        self._before_text, self._waiting_text, self._given = self._decode(self._before), "", 0
        return new

    def _text_of(self, waiting: list[int]) -> str:
        text = self._decode(self._before + waiting)
        if text.startswith(self._before_text):
            return text[len(self._before_text) :]
        # A byte-fallback decoder shows a run of bytes as replacement characters while its last one is incomplete.
        return self._decode(waiting)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _hides(self, token_id: int) -> bool:
        """Special tokens and ids beyond the vocabulary; not a piece whose text shows only with the next one."""
        if self._tokenizer.convert_ids_to_tokens(token_id) is None:
            return True
        return not self._decode([token_id]) and bool(self._tokenizer.decode([token_id], skip_special_tokens=False))

    def _start_from(self, prefix_ids: Sequence[int]) -> None:
        shown = [token_id for token_id in prefix_ids[-LONGEST_WAITING:] if not self._hides(token_id)]
        for count in range(1, len(shown) + 1):
            text = self._decode(shown[-count:])
            if text and REPLACEMENT not in text:
                self._before, self._before_text = shown[-count:], text
                return


def cleans_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether decoding takes out the spaces before punctuation; asked of the tokenizer, as BPE ones only claim it."""
    if not tokenizer.clean_up_tokenization_spaces:
        return False
    ids = tokenizer.encode("a . b , c 's d", add_special_tokens=False)
    return bool(tokenizer.decode(ids) != tokenizer.decode(ids, clean_up_tokenization_spaces=False))


class SpaceCleaner:
    """`clean_up_tokenization` over a text that comes in pieces."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._held = ""

    def feed(self, text: str) -> str:
        """The text up to the last place that no replaced pattern can span."""
        held = self._held + text
        end = len(held)
        while end > 0 and held[end - 1] in _CLEANED and not self._parts(held, end):
            end -= 1
        self._held = held[end:]
        return self._clean(held[:end])

    def flush(self) -> str:
        text, self._held = self._held, ""
        return self._clean(text)

    @staticmethod
    def _parts(text: str, at: int) -> bool:
        """Patterns begin with a space; `" ' "` has a second one, and its loss may join an `n` to the quote."""
        return at < len(text) and text[at] == " " and text[at - 1] not in " 'n"

    def _clean(self, text: str) -> str:
        return str(self._tokenizer.clean_up_tokenization(text))
