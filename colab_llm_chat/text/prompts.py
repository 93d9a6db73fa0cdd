"""A request's messages to prompt ids that fit the context window.

A tokenizer with a chat template uses it, its own or its family's; without one the conversation becomes a transcript;
a raw message goes as it is. Knows nothing of models, sampling or HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from ..errors import ContextLengthExceeded
from ..protocol.messages import ChatRequest, Message, Task
from . import transcript
from .constraint import reply_grammar
from .conversation import tool_schema
from .dialect import Dialect, offered
from .direction import ignored_languages
from .markers import FamilyForm, Markers
from .reply import ReplyParser
from .template import ChatTemplate, Form, no_tool_messages, no_tools
from .verbatim import TextEncoder
from .window import LONGEST_TOKEN, characters, first_that_fits, newest, split_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# So many ids decide how the next one reads: spaces and broken characters do not reach back further.
PREFIX_IDS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the engine gets, and what the reply's text needs to know of it.

    `text` is the rendered prompt; `stop` the strings that its form needs beside the request's; `max_new_tokens` the
    request's, clamped to what the window leaves. `prefix_ids` is the end of a text that the reply carries on, empty
    where it begins a turn; `strip_leading`: white space at the reply's beginning belongs to the form. `grammar`, as
    llguidance writes them, keeps the reply to JSON or to tool calls. `source_ids` are an encoder's input; `prompt_ids`
    are then what its decoder begins with. `greedy`: the reply is drawn at temperature 0. `notes` say what of the
    request had no effect.
    """

    prompt_ids: tuple[int, ...]
    text: str
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    dropped_messages: int = 0
    strip_leading: bool = False
    prefix_ids: tuple[int, ...] = ()
    grammar: str | None = None
    source_ids: tuple[int, ...] = ()
    greedy: bool = False
    notes: tuple[str, ...] = ()


def encode(tokenizer: PreTrainedTokenizerBase, request: ChatRequest, *, context_length: int) -> Prompt:
    """One prompt. Whoever makes many keeps a PromptEncoder."""
    return PromptEncoder(tokenizer).encode(request, context_length=context_length)


class PromptEncoder:
    """Prompts for one tokenizer, from as many threads as like."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        family: FamilyForm | None = None,
        *,
        turn_ends: Collection[str] = (),
    ) -> None:
        """`family`: whose chat template it is that the tokenizer has, where it is not its own.

        `end_ids` are the tokens that end a turn, in the family's form or as `turn_ends` names them, which the model's
        files need not say.
        """
        self._tokenizer = tokenizer
        self._family = family
        self._encoder = TextEncoder(tokenizer)
        self._template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        self._dialect = Dialect(tokenizer, self._template.source if self._template else "")
        self._markers = Markers(family) if family else None
        self._stop = self._form_stop()
        ends = {*turn_ends, *(family.ends if family else ())}
        self.end_ids = frozenset(at for at, one in tokenizer.added_tokens_decoder.items() if one.content in ends)

    @property
    def task(self) -> Task:
        return "chat"

    @property
    def languages(self) -> tuple[str, ...]:
        """It takes no codes."""
        return ()

    @property
    def form(self) -> str:
        """What conversations are written as, in words."""
        if self._family is not None:
            return f"the form of the {self._family.name} family"
        return "a transcript" if self._template is None else "its own chat template"

    def encode(self, request: ChatRequest, *, context_length: int) -> Prompt:
        """Raises ContextLengthExceeded when the prompt leaves no room, InvalidRequest when the template refuses it."""
        form = self._raw if request.raw else self._fitted
        text, ids, dropped = form(request, context_length)
        room = context_length - len(ids)
        if room < 1:
            raise ContextLengthExceeded(
                f"The prompt has {len(ids)} tokens, but the context window holds {context_length}, reply included.",
                param=request.asked_in,
            )
        carries_on = request.raw or (request.continue_final and bool(request.messages[-1].content.strip()))
        own_template = self._template is not None and self._family is None
        return Prompt(
            prompt_ids=tuple(ids),
            text=text,
            max_new_tokens=min(request.sampling.max_new_tokens, room),
            stop=() if request.raw else self._stop,
            dropped_messages=dropped,
            strip_leading=not own_template and not carries_on,
            prefix_ids=tuple(ids[-PREFIX_IDS:]) if carries_on else (),
            grammar=reply_grammar(self._dialect, request, text),
            notes=ignored_languages(request),
        )

    def parser(self, request: ChatRequest, prompt: Prompt) -> ReplyParser:
        """What splits this prompt's reply into answer, reasoning and tool calls."""
        return self._dialect.parser(request, prompt.text, form_stop=prompt.stop)

    def _form_stop(self) -> tuple[str, ...]:
        if self._markers is not None:
            return self._markers.stop
        if self._template is not None:
            return ()
        # Some vocabularies turn newlines into spaces; a stop string with one would never come.
        newlines = "\n" in str(self._tokenizer.decode(self._encoder.plain("a\nb")))
        return transcript.STOP if newlines else transcript.STOP_WITHOUT_NEWLINES

    def _marked(self, message: Message) -> Message:
        return self._encoder.mark(self._markers.quoted(message) if self._markers else message)

    def _raw(self, request: ChatRequest, context_length: int) -> tuple[str, list[int], int]:
        said = request.messages[-2 if request.continue_final else -1 :]
        _refuse_hopeless(request, said, context_length)
        if request.prompt_ids:
            ids = list(request.prompt_ids)
            return str(self._tokenizer.decode(ids)), ids, 0
        text = "".join(message.content for message in said)
        return text, self._opened(self._encoder.plain(text)), 0

    def _fitted(self, request: ChatRequest, context_length: int) -> tuple[str, list[int], int]:
        """The prompt with as few of the oldest turns dropped as leave room for the reply: what it may take, but no
        more than a quarter of the window.
        """
        form = self._form(request)
        system, turns = split_turns(request.messages)
        last = 0 if request.truncation == "disabled" else len(turns) - 1
        _refuse_hopeless(request, [*system, *chain(*turns[last:])], context_length, beside=len(str(form.tools)))
        limit = context_length - min(request.sampling.max_new_tokens, max(1, context_length // 4))
        first = min(last, newest(turns, LONGEST_TOKEN * context_length - characters(system)))
        tried: dict[int, tuple[str, list[int]]] = {}

        def count(at: int) -> int:
            # Marked only now: most of a long history is never kept.
            kept = [self._marked(message) for message in (*system, *chain(*turns[first + at :]))]
            tried[at] = self._encoded(kept, form)
            return len(tried[at][1])

        at = first_that_fits(turns[first : last + 1], limit, count)
        return *tried[at], sum(map(len, turns[: first + at]))

    def _form(self, request: ChatRequest) -> Form:
        """How the conversation is rendered. Raises where this model has no place for what the request brings."""
        tools = offered(request)
        form = Form(
            continue_final=request.continue_final,
            generation_prompt=request.generation_prompt,
            tools=tuple(self._encoder.mark_json(tool_schema(tool)) for tool in tools),
            kwargs=self._encoder.mark_json(dict(request.template_kwargs)),
        )
        if self._template is not None:
            self._template.check(request.messages, form)
            self._dialect.check(request)
        elif tools:
            raise no_tools()
        elif any(message.role == "tool" or message.tool_calls for message in request.messages):
            raise no_tool_messages()
        return form

    def _encoded(self, messages: Sequence[Message], form: Form) -> tuple[str, list[int]]:
        if self._template is None:
            text = transcript.render(messages, continue_final=form.continue_final, label=form.generation_prompt)
            return self._encoder.unmark(text), self._opened(self._encoder.encode(text))
        text = self._template.render(messages, form)
        ids = self._encoder.encode(text)
        opened = not ids or (self._family is not None and self._family.opened)
        return self._encoder.unmark(text), self._opened(ids) if opened else ids

    def _opened(self, ids: list[int]) -> list[int]:
        """With the ids that the tokenizer puts in front, unless they are there; never empty: a model needs an id."""
        opening = self._encoder.opening_ids
        if ids[: len(opening)] != opening or not opening:
            ids = opening + ids
        if ids:
            return ids
        start = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, self._tokenizer.pad_token_id)
        return [next((token_id for token_id in start if token_id is not None), 0)]


def _refuse_hopeless(
    request: ChatRequest, messages: Sequence[Message], context_length: int, *, beside: int = 0
) -> None:
    """Raises ContextLengthExceeded for what no window of that length could hold, without the time to encode it."""
    total = beside + sum(len(message.content) for message in messages)
    total += sum(len(call.arguments) for message in messages for call in message.tool_calls)
    if total > LONGEST_TOKEN * context_length:
        raise ContextLengthExceeded(
            f"The prompt's {total} characters are more than {context_length} tokens, but the context window holds "
            f"{context_length}, reply included.",
            param=request.asked_in,
        )
