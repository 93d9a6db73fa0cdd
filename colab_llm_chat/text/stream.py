"""Token ids to text, piece by piece: `feed` / `flush`.

Whatever the cut into feeds, the pieces joined are the decoded reply up to the first stop string; no piece ends
inside a character or an emoji sequence. Knows nothing of messages, time or HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .decode import IdDecoder, SpaceCleaner, cleans_spaces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_EMOJI = 24

_PICTURE = "[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001f1e5\U0001f200-\U0001faff]"
_MODIFIERS = "[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
_FLAG_LETTER = "[\U0001f1e6-\U0001f1ff]"
# What may still grow: a picture with modifiers and joiners, or the first letter of a flag. Ordinary letters are
# never held for a combining mark: it would cost every reply one token of latency, and a late mark just follows.
_GROWING = re.compile(
    f"(?:{_PICTURE}{_MODIFIERS}(?:\u200d{_PICTURE}{_MODIFIERS})*\u200d?"
    f"|(?<!{_FLAG_LETTER})(?:{_FLAG_LETTER}{{2}})*(?P<letter>{_FLAG_LETTER}))\\Z"
)


class TextStream:
    """One reply's text. `stopped` is set once a stop string has matched; from then on every feed gives ""."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop: Sequence[str] = (),
        prefix_ids: Sequence[int] = (),
        strip_leading: bool = False,
        shown_ids: frozenset[int] = frozenset(),
    ) -> None:
        """`prefix_ids`: the end of a text that the reply carries on, so that its first space is kept.

        `shown_ids`: special tokens that come out by name, for a ReplyParser behind.
        """
        self._ids = IdDecoder(tokenizer, prefix_ids, shown_ids)
        self._cleaner = SpaceCleaner(tokenizer) if cleans_spaces(tokenizer) else None
        self._stop = tuple(text for text in stop if text)
        self._strip = strip_leading
        self._held = ""
        self.stopped = False

    def feed(self, ids: Sequence[int]) -> str:
        """The text that these ids make printable; may be empty."""
        if self.stopped:
            return ""
        text = "".join(map(self._ids.feed, ids))
        self._held += self._cleaner.feed(text) if self._cleaner else text
        return self._release(final=False)

    def flush(self) -> str:
        """What was held back, when no more ids come."""
        if self.stopped:
            return ""
        text = self._ids.flush()
        self._held += self._cleaner.feed(text) + self._cleaner.flush() if self._cleaner else text
        return self._release(final=True)

    def _release(self, *, final: bool) -> str:
        end = len(self._held)
        # A match further on must wait while an earlier one may still come about.
        maybe = end if final else stop_may_begin(self._held, self._stop)
        found = min((at for at in map(self._held.find, self._stop) if at >= 0), default=len(self._held) + 1)
        if found <= maybe:
            self.stopped = True
            end = found
        elif not final:
            end = growing_begins(self._held, maybe)
        text, self._held = self._held[:end], "" if self.stopped else self._held[end:]
        return self._stripped(text)

    def _stripped(self, text: str) -> str:
        if self._strip:
            text = text.lstrip()
            self._strip = not text
        return text


def stop_may_begin(text: str, stop: Sequence[str]) -> int:
    """The first position from which the rest of `text` is a proper beginning of a stop string; else its length."""
    longest = max(map(len, stop), default=0)
    first_letters = {one[0] for one in stop}
    for at in range(max(0, len(text) - longest + 1), len(text)):
        if text[at] in first_letters and any(len(text) - at < len(one) and one.startswith(text[at:]) for one in stop):
            return at
    return len(text)


def growing_begins(text: str, end: int) -> int:
    """Where the last character of `text[:end]` begins if it may still grow, else `end`."""
    start = max(0, end - LONGEST_EMOJI)
    match = _GROWING.search(text[start:end])
    if match is None or (start > 0 and match.start() == 0):
        return end
    return start + match.start("letter" if match["letter"] else 0)
