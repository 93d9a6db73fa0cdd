"""The form for chat models: the tokenizer's own chat template, made to take any conversation.

Bends the conversation only where the template refuses it as it is. Knows nothing of token ids or context windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from jinja2 import TemplateError, TemplateSyntaxError

from ..errors import BrokenModel, InvalidRequest
from ..protocol.messages import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A Unicode noncharacter: no text has it, no template trims it.
END_OF_CONTENT = "\ufdd2"
# A template is a program: beside its own refusals it may stumble over what it did not expect.
REFUSALS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class ChatTemplate:
    """One tokenizer's template; BrokenModel if it cannot be read. Rendering is safe from many threads at once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._knows_system = self._shows_system()

    def render(self, messages: Sequence[Message], *, continue_final: bool) -> str:
        """The prompt's text up to where the model goes on. Raises InvalidRequest if the template refuses it."""
        chat = list(messages) if self._knows_system else system_into_user(messages)
        try:
            return self._rendered(chat, continue_final)
        except REFUSALS:
            pass
        try:
            return self._rendered(alternating(chat), continue_final)
        except REFUSALS as error:
            raise InvalidRequest(
                f"The model's chat template refuses this conversation: {error}",
                hint="Start a new conversation, or leave the system prompt out.",
            ) from error

    def _rendered(self, chat: Sequence[Message], continue_final: bool) -> str:
        if not continue_final:
            return self._apply(chat, add_generation_prompt=True)
        last = Message("assistant", chat[-1].content + END_OF_CONTENT)
        text, mark, _ = self._apply([*chat[:-1], last], add_generation_prompt=False).rpartition(END_OF_CONTENT)
        if mark:
            return text
        return self._apply(chat[:-1], add_generation_prompt=True) + chat[-1].content

    def _apply(self, chat: Sequence[Message], *, add_generation_prompt: bool) -> str:
        plain = [{"role": message.role, "content": message.content} for message in chat]
        text = self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=add_generation_prompt)
        return str(text)

    def _shows_system(self) -> bool:
        probe = [Message("system", END_OF_CONTENT), Message("user", "?")]
        try:
            return END_OF_CONTENT in self._apply(probe, add_generation_prompt=True)
        except TemplateSyntaxError as error:
            lines = (error.source or "").splitlines()[error.lineno - 1 : error.lineno]
            shown = f": {lines[0].strip()[:100]}" if lines else ""
            raise BrokenModel(
                f"The model's chat template is broken: {error.message} in its line {error.lineno}{shown}",
                hint="Correct the model's chat_template.jinja (or chat_template in tokenizer_config.json).",
            ) from error
        except REFUSALS:
            return False


def system_into_user(messages: Sequence[Message]) -> list[Message]:
    """The system prompt in front of the first user message, for templates without a system role."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    chat = [message for message in messages if message.role != "system"]
    if not system:
        return chat
    first = next((at for at, message in enumerate(chat) if message.role == "user"), None)
    if first is None:
        return [Message("user", system), *chat]
    chat[first] = Message("user", f"{system}\n\n{chat[first].content}")
    return chat


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role joined, and a user's turn first, for templates that demand the roles in turn."""
    joined = [
        Message(role, "\n\n".join(message.content for message in group))
        for role, group in groupby(messages, key=lambda message: message.role)
    ]
    start = 1 if joined and joined[0].role == "system" else 0
    if joined[start:] and joined[start].role == "assistant":
        joined.insert(start, Message("user", ""))
    return joined
