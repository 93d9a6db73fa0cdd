"""The form for chat models: the tokenizer's own chat template, made to take any conversation.

Bends the conversation only where the template refuses it as it is. Knows nothing of token ids or context windows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError

from ..errors import BrokenModel, InvalidRequest, UnsupportedParameter
from ..protocol.messages import Message, Tool
from .conversation import (
    alternating,
    as_dicts,
    single_calls,
    system_into_user,
    tool_names,
    tool_schema,
    with_short_ids,
    without_reasoning,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A Unicode noncharacter: no text has it, no template trims it.
END_OF_CONTENT = "\ufdd2"
# A template is a program: beside its own refusals it may stumble over what it did not expect.
REFUSALS = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
# What the template gets from here, and the functions that transformers gives it.
RESERVED = frozenset({"self", "messages", "raise_exception", "strftime_now"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a conversation is rendered, beside its messages; `tools` as `tool_schema` makes them."""

    continue_final: bool = False
    generation_prompt: bool = True
    tools: tuple[dict[str, Any], ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class ChatTemplate:
    """One tokenizer's template; BrokenModel if it cannot be read. Rendering is safe from many threads at once.

    `source` is its text, the one for tools where there are several.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        probe = tool_schema(Tool(name="probe_of_tools", description="probe"))
        self._knows_system = self._shows(END_OF_CONTENT, [Message("system", END_OF_CONTENT)], Form())
        self.knows_tools = self._shows("probe_of_tools", [], Form(tools=(probe,)))
        self.source = str(tokenizer.get_chat_template(tools=[probe]))
        given = set(inspect.signature(tokenizer.apply_chat_template).parameters)
        self._reserved = RESERVED | given | set(tokenizer.special_tokens_map)

    def check(self, messages: Sequence[Message], form: Form) -> None:
        """Raises UnsupportedParameter or InvalidRequest for what this template has no place for."""
        if form.tools and not self.knows_tools:
            raise no_tools()
        if not self.knows_tools and any(message.role == "tool" or message.tool_calls for message in messages):
            raise no_tool_messages()
        for name in form.kwargs:
            if name in self._reserved:
                raise InvalidRequest(
                    f"chat_template_kwargs cannot set {name!r}: the template gets it from the server.",
                    param="chat_template_kwargs",
                    hint=f"Leave {name!r} out, or use the field of the request that it stands for.",
                )

    def render(self, messages: Sequence[Message], form: Form) -> str:
        """The prompt's text up to where the model goes on. Raises InvalidRequest if the template refuses it."""
        chat = tool_names(messages if self._knows_system else system_into_user(messages))
        refusal: Exception | None = None
        for one, as_text in _ways(chat):
            try:
                return self._rendered(one, form, as_text)
            except REFUSALS as error:
                refusal = error
        raise InvalidRequest(
            f"The model's chat template refuses this conversation: {refusal}",
            hint="Start a new conversation, or leave the system prompt out.",
        ) from refusal

    def _rendered(self, chat: Sequence[Message], form: Form, as_text: bool) -> str:
        if not form.continue_final:
            return self._apply(as_dicts(chat, arguments_as_text=as_text), form)
        last, closed = chat[-1], replace(form, generation_prompt=False)
        marked = [*chat[:-1], replace(last, content=last.content + END_OF_CONTENT)]
        text, mark, _ = self._apply(as_dicts(marked, arguments_as_text=as_text), closed).rpartition(END_OF_CONTENT)
        if mark:
            return text
        opened = replace(form, generation_prompt=True)
        return self._apply(as_dicts(chat[:-1], arguments_as_text=as_text), opened) + last.content

    def _apply(self, chat: list[dict[str, Any]], form: Form) -> str:
        text = self._tokenizer.apply_chat_template(
            chat,
            tools=list(form.tools) or None,
            tokenize=False,
            add_generation_prompt=form.generation_prompt,
            **form.kwargs,
        )
        return str(text)

    def _shows(self, wanted: str, before: list[Message], form: Form) -> bool:
        try:
            return wanted in self._apply(as_dicts([*before, Message("user", "?")]), form)
        except TemplateSyntaxError as error:
            lines = (error.source or "").splitlines()[error.lineno - 1 : error.lineno]
            shown = f": {lines[0].strip()[:100]}" if lines else ""
            raise BrokenModel(
                f"The model's chat template is broken: {error.message} in its line {error.lineno}{shown}",
                hint="Correct the model's chat_template.jinja (or chat_template in tokenizer_config.json).",
            ) from error
        except REFUSALS:
            return False


def _ways(chat: Sequence[Message]) -> Iterator[tuple[Sequence[Message], bool]]:
    """The conversation as it is, then bent more and more; and whether arguments go in as text, as some templates
    join them to theirs.
    """
    ways: list[Callable[[Sequence[Message]], Sequence[Message]]] = [lambda one: one]
    calls = any(message.tool_calls or message.tool_call_id for message in chat)
    if calls:
        ways += [with_short_ids, single_calls]
    if any(message.reasoning for message in chat):
        ways += [without_reasoning]
    for turns in (list, alternating):
        for way in ways:
            for as_text in (False, True) if calls else (False,):
                yield way(turns(chat)), as_text


def no_tools() -> UnsupportedParameter:
    return UnsupportedParameter(
        "The model's chat template has no place for tools.",
        param="tools",
        hint="Leave tools out, or load a model that was made for them, such as Qwen/Qwen3-4B.",
    )


def no_tool_messages() -> InvalidRequest:
    return InvalidRequest(
        "The conversation has tool calls or their results, but the model's chat template has no place for them.",
        param="messages",
        hint="Put the result into a user message, or load a model that was made for tools, such as Qwen/Qwen3-4B.",
    )
