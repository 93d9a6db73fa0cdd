"""Text to ids so that what people type stays text: a special token's name in a message is no special token.

Ordinary texts are encoded in one go, exactly as the tokenizer does it. Holds no state that an encoding changes,
so that many threads may encode at once (a fast tokenizer's own switch for this is shared by all of them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..protocol.messages import Message, ToolCall
from .conversation import mark_value, parsed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Unicode noncharacters: no text has them, no template trims them.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
NONCHARACTERS = re.compile("[\ufdd0-\ufdef]")

Encode = Callable[[str], list[int]]


class TextEncoder:
    """One tokenizer's way from text to ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None and self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend is not None and self._backend.padding is not None:
            self._backend.no_padding()
        self._special, self._control = _control_tokens(tokenizer)
        self.opening_ids = self._opening_ids()

    def mark(self, message: Message) -> Message:
        """The message with the names of control tokens between marks that `encode` understands."""
        control = self._special if message.role == "assistant" else self._control
        marked = replace(
            message,
            content=_marked(control, message.content),
            tool_calls=tuple(map(self._mark_call, message.tool_calls)),
            tool_call_id=None if message.tool_call_id is None else self.mark_text(message.tool_call_id),
            name=None if message.name is None else self.mark_text(message.name),
            reasoning=self.mark_text(message.reasoning),
        )
        return marked if marked != message else message

    def mark_text(self, text: str) -> str:
        return _marked(self._control, text)

    def mark_json(self, value: Any) -> Any:
        """A JSON value with every string in it marked."""
        return mark_value(value, self.mark_text)

    def _mark_call(self, call: ToolCall) -> ToolCall:
        # Marked as values: JSON may write a control token's name with escapes that the template takes away.
        value = parsed(call.arguments)
        marked = self.mark_json(value)
        arguments = self.mark_text(call.arguments) if isinstance(value, str) else json.dumps(marked, ensure_ascii=False)
        return ToolCall(
            call_id=self.mark_text(call.call_id),
            name=self.mark_text(call.name),
            arguments=call.arguments if marked == value else arguments,
        )

    def unmark(self, text: str) -> str:
        """The text as the model sees it."""
        return text.replace(_OPEN, "").replace(_CLOSE, "")

    def encode(self, text: str) -> list[int]:
        """Ids of a text without any token added; marked parts as plain text."""
        if _OPEN not in text and _CLOSE not in text:
            return self.plain(text)
        # A template may have cut between the marks of a pair: a lone mark parts the text, too.
        first, *rest = re.split(f"({_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE})|[{_OPEN}{_CLOSE}]", text)
        ids = self.plain(first)
        for piece in filter(None, rest):
            ids += self._name(piece[1:-1]) if piece[0] == _OPEN else _after_newline(self.plain, piece)
        return ids

    def plain(self, text: str) -> list[int]:
        """Ids of a text in which a special token's name is that token."""
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _name(self, name: str) -> list[int]:
        """A control token's name as text: never its id, even where the vocabulary has the whole name as a word."""
        ids = _after_newline(self._without_control, name)
        if self._tokenizer.convert_tokens_to_ids(name) not in ids:
            return ids
        return [token_id for letter in name for token_id in _after_newline(self._without_control, letter)]

    def _without_control(self, text: str) -> list[int]:
        if self._backend is None:
            return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
        normalizer, splitter = self._backend.normalizer, self._backend.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer else text
        words = [word for word, _ in splitter.pre_tokenize_str(text)] if splitter else [text]
        return [token.id for word in words for token in self._backend.model.tokenize(word)]

    def _opening_ids(self) -> list[int]:
        """What the tokenizer itself puts in front of a text, mostly one id or none; its end-of-text is not wanted."""
        full, bare = list(self._tokenizer.encode("a")), self.plain("a")
        starts = (at for at in range(len(full)) if full[at : at + len(bare)] == bare)
        return full[: next(starts, 0)] if bare else []


def _marked(control: re.Pattern[str], text: str) -> str:
    return control.sub(lambda match: f"{_OPEN}{match[0]}{_CLOSE}", NONCHARACTERS.sub("", text))


def _after_newline(encode: Encode, text: str) -> list[int]:
    """Ids of a text in mid-prompt: SentencePiece gives a text's beginning a space that is not there."""
    newline, ids = encode("\n"), encode("\n" + text)
    return ids[len(newline) :] if ids[: len(newline)] == newline else encode(text)


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of the special tokens, and of those with the other added tokens that the template writes.

    The latter (`<think>`) stay tokens in the assistant's messages, where the model wrote them itself.
    """
    added = tokenizer.added_tokens_decoder.values()
    special = {one.content for one in added if one.special} | set(tokenizer.all_special_tokens)
    template = str(tokenizer.chat_template or "")
    written = {one.content for one in added if one.content.strip() and one.content in template}
    return _any_of(special), _any_of(special | written)


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    tails = {name for name in names if name}
    return re.compile(_branches(tails) if tails else "(?!)")


def _branches(names: set[str]) -> str:
    """An expression that tries letter by letter: some vocabularies have thousands of special tokens."""
    by_letter: dict[str, set[str]] = {}
    for name in names:
        by_letter.setdefault(name[0], set()).add(name[1:])
    parts = []
    for letter, tails in sorted(by_letter.items()):
        longer = tails - {""}
        rest = _branches(longer) if longer else ""
        parts.append(re.escape(letter) + (f"(?:{rest})?" if longer and "" in tails else rest))
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"
