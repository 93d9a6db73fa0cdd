"""A request's last message to the ids that an encoder reads and the ids with which its decoder begins.

The counterpart of prompts.PromptEncoder for encoder-decoder models: no history and no system prompt, but for the few
that have a chat template, whose encoder reads the conversation. Knows nothing of sampling or HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ContextLengthExceeded, UnsupportedParameter
from ..protocol.messages import ChatRequest, Task
from .dialect import offered
from .direction import AsTyped, ByInstruction, ByPrefix, ByTokens, Direction, Way, last_of_user
from .languages import token_ids
from .pieces import Unsplit
from .prompts import PREFIX_IDS, Prompt, PromptEncoder
from .reply import ReplyParser
from .verbatim import TextEncoder
from .window import LONGEST_TOKEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# mBART's first generation, with so many languages, writes the language last and begins its replies with it.
FIRST_MBART = 25


class SourceForm(Protocol):
    """What a model's small files tell of how it wants its text; see models.seq2seq.Seq2Seq."""

    @property
    def prefixes(self) -> Mapping[tuple[str, str], str]: ...
    @property
    def takes_instructions(self) -> bool: ...
    @property
    def translates_only(self) -> bool: ...
    @property
    def language_last(self) -> bool: ...


class SourceEncoder:
    """Sources for one tokenizer, from as many threads as like: a tokenizer's own source language is never set."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        form: SourceForm,
        *,
        facts: Callable[[], Mapping[str, Any]],
        own_system: str | None = None,
    ) -> None:
        """`facts` are those of the loaded model (ModelFacts as JSON), asked for with each request; `own_system` is the
        server's system prompt, whose loss is nobody's surprise.
        """
        self._tokenizer = tokenizer
        self._facts = facts
        self._own_system = own_system
        self._encoder = TextEncoder(tokenizer)
        self._chat = PromptEncoder(tokenizer) if tokenizer.chat_template else None
        self._closing = self._closing_ids()
        ids = token_ids(tokenizer)
        self._way = _way(ids, form)
        self._first_mbart = 0 < len(ids) <= FIRST_MBART and _spelled_as_mbart(tokenizer, ids)
        self._language_last = form.language_last or self._first_mbart
        self.end_ids: frozenset[int] = frozenset()

    @property
    def form(self) -> str:
        """What its text is given as, in words."""
        return self._chat.form if self._chat else f"the last message alone ({self.task})"

    @property
    def task(self) -> Task:
        return self._way.task

    @property
    def languages(self) -> tuple[str, ...]:
        return self._way.languages

    def encode(self, request: ChatRequest, *, context_length: int) -> Prompt:
        """Raises ContextLengthExceeded where text or begun reply are too long, InvalidRequest for languages."""
        _refuse(request)
        facts = self._facts()
        own = (facts.get("forced_bos_token_id"), facts.get("decoder_start_token_id"))
        direction = self._way.direction(request, [token_id for token_id in own if token_id is not None])
        # Whoever only looks at a prompt sets a longer limit than the model has.
        beyond = context_length - facts.get("context_length", 0)
        limit = max(facts.get("source_length") or context_length, beyond)
        text, source_ids, dropped = self._source(request, direction, limit=limit)
        begun = self._begun(request)
        prompt_ids = [*self._first_ids(direction, facts), *begun]
        room = context_length - len(prompt_ids)
        if room < 1:
            raise ContextLengthExceeded(
                f"The reply has {len(prompt_ids)} tokens already; the model writes {context_length} at most.",
                param=request.asked_in,
            )
        cold = direction.translates and "temperature" not in request.sampling.model_fields_set
        return Prompt(
            prompt_ids=tuple(prompt_ids),
            source_ids=tuple(source_ids),
            text=text,
            max_new_tokens=min(request.sampling.max_new_tokens, room),
            dropped_messages=dropped,
            strip_leading=not begun,
            prefix_ids=tuple(begun[-PREFIX_IDS:]),
            greedy=cold,
            notes=(*direction.notes, *self._ignored(request)),
        )

    def parser(self, request: ChatRequest, prompt: Prompt) -> ReplyParser:
        """The reply is all answer."""
        return ReplyParser(Unsplit(), stream_stop=request.stop)

    def _source(self, request: ChatRequest, direction: Direction, *, limit: int) -> tuple[str, list[int], int]:
        """The text with its prefix, its ids, and how many messages were dropped.

        Raises ContextLengthExceeded for more than `limit` ids.
        """
        if self._chat is not None and not request.raw:
            prompt = self._chat.encode(_conversation(request), context_length=limit + 1)
            return prompt.text, list(prompt.prompt_ids), prompt.dropped_messages
        if request.prompt_ids:
            ids = list(request.prompt_ids)
            text = str(self._tokenizer.decode(ids))
        else:
            text = direction.prefix + last_of_user(request)
            ids = self._ids(request, text, direction) if len(text) <= LONGEST_TOKEN * limit else []
        if len(ids) > limit or not ids:
            size = f"{len(ids)} tokens" if ids else f"{len(text)} characters"
            raise ContextLengthExceeded(
                f"The text has {size}, but the model reads {limit} tokens at most.",
                param=request.asked_in,
                hint="Send the text in parts.",
            )
        told = request.prompt_ids or direction.source_id is None
        return text if told else self._in_its_language(text, direction), ids, 0

    def _ids(self, request: ChatRequest, text: str, direction: Direction) -> list[int]:
        """With the ids that belong around a text: explicitly, for the tokenizer may have another language set."""
        encoder = self._encoder
        ids = encoder.plain(text) if request.raw else encoder.encode(encoder.mark_text(text))
        if direction.source_id is None:
            return [*encoder.opening_ids, *ids, *self._closing]
        eos = [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]
        language = [direction.source_id]
        return [*ids, *eos, *language] if self._language_last else [*language, *ids, *eos]

    def _in_its_language(self, text: str, direction: Direction) -> str:
        """With the tokens around it as `_ids` has them, for people to see."""
        language = str(self._tokenizer.convert_ids_to_tokens(direction.source_id or 0))
        eos = str(self._tokenizer.eos_token or "")
        return f"{text}{eos}{language}" if self._language_last else f"{language}{text}{eos}"

    def _first_ids(self, direction: Direction, facts: Mapping[str, Any]) -> list[int]:
        """What the decoder gets before the first token of its own."""
        start, forced = facts.get("decoder_start_token_id"), facts.get("forced_bos_token_id")
        if direction.target_id is not None:
            return [direction.target_id] if self._first_mbart or start is None else [start, direction.target_id]
        own = (start, self._tokenizer.bos_token_id, self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0)
        first = next(token_id for token_id in own if token_id is not None)
        return [first] if forced is None else [first, forced]

    def _begun(self, request: ChatRequest) -> list[int]:
        last = request.messages[-1]
        carries_on = request.continue_final and last.role == "assistant" and bool(last.content.strip())
        return self._encoder.encode(self._encoder.mark_text(last.content)) if carries_on else []

    def _ignored(self, request: ChatRequest) -> tuple[str, ...]:
        others = [one for one in request.messages if one.role == "system" and one.content != self._own_system]
        told = others and (self._chat is None or request.raw)
        return ("This model reads the last message alone; the system prompt had no effect.",) if told else ()

    def _closing_ids(self) -> list[int]:
        """What the tokenizer itself puts after a text. Every encoder was trained with its end-of-text there."""
        full, bare = list(self._tokenizer.encode("a")), self._encoder.plain("a")
        eos = self._tokenizer.eos_token_id
        return full[len(self._encoder.opening_ids) + len(bare) :] or ([] if eos is None else [eos])


def _spelled_as_mbart(tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int]) -> bool:
    tokens = map(tokenizer.convert_ids_to_tokens, ids.values())
    return all(re.fullmatch("[a-z]{2}_[A-Z]{2}", str(token)) for token in tokens)


def _way(ids: Mapping[str, int], form: SourceForm) -> Way:
    if ids:
        return ByTokens(ids)
    if form.takes_instructions:
        return ByInstruction()
    return ByPrefix(form.prefixes) if form.prefixes else AsTyped(translates=form.translates_only)


def _conversation(request: ChatRequest) -> ChatRequest:
    """What the encoder reads, for which a reply in the same window is nothing: the begun one is the decoder's."""
    messages = request.messages[:-1] if request.continue_final else request.messages
    sampling = request.sampling.model_copy(update={"max_new_tokens": 1})
    return replace(request, messages=messages, sampling=sampling, continue_final=False)


def _refuse(request: ChatRequest) -> None:
    """Raises UnsupportedParameter for what no encoder-decoder model was trained for."""
    if offered(request):
        raise UnsupportedParameter("This model was not made for tools.", param="tools")
    if request.json_schema is not None:
        raise UnsupportedParameter("This model was not made to write JSON.", param="response_format")
