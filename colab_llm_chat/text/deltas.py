"""One reply's token ids to deltas: text, cut at stop strings, parted into what is thought, said and called.

Knows no time and no engine process; `feed` / `flush` as everywhere in this package.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..engine.reports import Progress
from ..protocol.messages import Delta
from .decode import REPLACEMENT
from .prompts import Prompt
from .reply import ReplyParser
from .stream import TextStream
from .token_text import HeldLogprobs, TokenTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ReplyText:
    """Token ids to deltas: text, cut at stop strings, parted into what is thought, said and called."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, parser: ReplyParser, *, logprobs: bool = False
    ) -> None:
        self._parser = parser
        self._text = TextStream(
            tokenizer,
            stop=parser.stream_stop,
            prefix_ids=prompt.prefix_ids,
            strip_leading=prompt.strip_leading,
            shown_ids=self._parser.shown_ids,
        )
        self._logprobs = HeldLogprobs(TokenTexts(tokenizer)) if logprobs else None
        self._unplaced = 0
        self.tokens = 0
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        """A stop string has matched, or nothing more is wanted."""
        return self._text.stopped or self._parser.stopped

    @property
    def called(self) -> bool:
        return self._parser.called

    def feed(self, progress: Progress) -> Delta:
        """What these ids make complete."""
        self.tokens += len(progress.token_ids)
        self._unplaced += len(progress.token_ids)
        if self._logprobs is not None:
            self._logprobs.feed(progress.token_ids, progress.logprobs)
        return self._told(self._text.feed(progress.token_ids))

    def flush(self) -> Delta:
        """What was held back, but not a last character of which only the first bytes were made."""
        # Carrying the reply on makes such a character anew.
        delta = self._told(self._text.flush().rstrip(REPLACEMENT))
        rest = self._parser.flush()
        late = () if self._logprobs is None or self._text.stopped else self._logprobs.flush()
        return replace(
            rest,
            text=delta.text + rest.text,
            reasoning=delta.reasoning + rest.reasoning,
            tool_calls=delta.tool_calls + rest.tool_calls,
            logprobs=delta.logprobs + late,
        )

    def _told(self, text: str) -> Delta:
        delta = self._parser.feed(text)
        if delta.reasoning and not delta.text:
            self.reasoning_tokens += self._unplaced
        if not delta.is_ping:
            self._unplaced = 0
        return delta if self._logprobs is None else replace(delta, logprobs=self._logprobs.release(text))
