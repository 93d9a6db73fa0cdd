"""Single tokens as text and bytes, and when the log-probabilities of a reply's tokens may go out.

Knows no engine and no wire; what a token may be a part of is text/stream's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from ..protocol.messages import TokenLogprob
from .decode import REPLACEMENT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..engine.reports import Logprobs

SPACE = "▁"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """What each id of one tokenizer stands for by itself."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)

    def data(self, token_id: int) -> bytes:
        """The token's bytes: for some only a part of a character."""
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(piece, str):
            return b""
        one_byte = _BYTE_PIECE.fullmatch(piece)
        if one_byte:
            return bytes([int(one_byte[1], 16)])
        text = str(self._tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if REPLACEMENT in text and all(letter in _byte_of_letter() for letter in piece):
            return bytes(_byte_of_letter()[letter] for letter in piece)
        # Decoders drop a space of a text's first piece, and here every piece is the first.
        spaces = len(piece) - len(piece.lstrip(SPACE))
        if spaces and not text.startswith(SPACE):
            text = " " * spaces + text.lstrip(" ")
        return text.encode("utf-8", "replace")

    def hides(self, token_id: int) -> bool:
        """Whether the reply's text does not show this token."""
        return token_id in self._special

    def logprob(self, token_id: int, found: Logprobs) -> TokenLogprob:
        """The engine's numbers for one token, in words."""
        top = tuple(self._one(other, logprob) for other, logprob in found.top)
        return self._one(token_id, found.logprob, top)

    def _one(self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        data = self.data(token_id)
        return TokenLogprob(data.decode("utf-8", "replace"), data, logprob, top)


class HeldLogprobs:
    """Log-probabilities wait for their tokens' text: those of text that a stop string cuts off never go out."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._held: list[tuple[int, TokenLogprob]] = []
        self._shown = 0
        self._told = 0

    def feed(self, token_ids: Sequence[int], found: Sequence[Logprobs]) -> None:
        for token_id, logprobs in zip(token_ids, found, strict=False):
            one = self._texts.logprob(token_id, logprobs)
            self._held.append((0 if self._texts.hides(token_id) else len(one.data), one))

    def release(self, text: str) -> tuple[TokenLogprob, ...]:
        """Of the tokens that begin within the text shown so far, `text` included."""
        self._shown += len(text.encode("utf-8", "replace"))
        return tuple(self._due())

    def flush(self) -> tuple[TokenLogprob, ...]:
        """Of all the others, when the reply ended without a stop string."""
        rest, self._held = self._held, []
        return tuple(one for _, one in rest)

    def _due(self) -> Iterator[TokenLogprob]:
        while self._held and (self._told < self._shown or self._held[0][0] == 0 < self._shown):
            length, one = self._held.pop(0)
            self._told += length
            yield one


@cache
def _byte_of_letter() -> dict[str, int]:
    """Byte-level BPE writes each byte as a letter: printable Latin-1 as itself, the others from U+0100 on
    (Radford et al. 2019, GPT-2's encoder).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}
