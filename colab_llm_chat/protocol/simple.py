"""The simple door's wire: the body of POST /chat -> ChatRequest, and its reply, chunks and errors as JSON.

Knows nothing of HTTP or of how a reply is made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..errors import ChatError, InvalidRequest
from ..settings import SamplingParams, Settings
from . import sse
from .body import fault, parse_object, refuse_long, validated, well_formed
from .fields import MAX_DEADLINE_MS, Content, Language, Stops, Text, language
from .messages import ChatRequest, Delta, Message, ReplyEnd, Usage, system_first
from .model_names import NO_PERSONAS, Personas, settings_of_persona

MAX_HISTORY = 2_000
MAX_ID_CHARACTERS = 200


def _identifier(value: object) -> object:
    # `true` is an int to Python; beyond 63 bits a number would not come back the same from every client.
    if value is None or (type(value) is int and abs(value) < 2**63):
        return value
    if isinstance(value, str) and len(value) <= MAX_ID_CHARACTERS:
        return well_formed(value)
    raise fault(f"must be a string of up to {MAX_ID_CHARACTERS} characters or an integer")


Identifier = Annotated[Any, BeforeValidator(_identifier)]


class SimpleTurn(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "user", "assistant"]
    content: Content


class SimpleBody(BaseModel):
    """What POST /chat takes beside the fields of SamplingParams. Other keys are ignored."""

    model_config = ConfigDict(strict=True)

    message: Text | None = None
    history: list[SimpleTurn] | None = Field(None, alias="conversationHistory", max_length=MAX_HISTORY)
    system: Text | None = None
    persona: Text | None = None
    stream: bool | None = None
    running_usage: bool | None = None
    stop: Stops = ()
    deadline_ms: int | None = Field(None, ge=1, le=MAX_DEADLINE_MS)
    raw: bool | None = None
    carry_on: bool | None = Field(None, alias="continue")
    truncation: Literal["auto", "disabled"] | None = None
    source_language: Language = None
    target_language: Language = None
    conversation_id: Identifier = Field(None, alias="conversationId")
    message_id: Identifier = Field(None, alias="messageId")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleRequest:
    """A parsed body: what the pipeline needs, and what the reply repeats.

    `history` is what was sent and ends with the user's message, or, when carried on, before the assistant's
    last one, whose text so far is `begun`. `stream` is None when the body does not say.
    """

    chat: ChatRequest
    history: tuple[Message, ...]
    begun: str
    stream: bool | None
    ids: dict[str, str | int]


def parse_chat(body: bytes, settings: Settings, personas: Personas = NO_PERSONAS) -> SimpleRequest:
    """The bytes of POST /chat as a typed request; raises InvalidRequest."""
    fields = parse_object(body)
    parsed = validated(SimpleBody, fields)
    settings = settings_of_persona(parsed.persona, settings, personas)
    _refuse_long(parsed, settings.max_message_characters)
    sampling = _sampling(fields, settings)
    turns = tuple(Message(turn.role, turn.content) for turn in parsed.history or ())
    history, begun = _carried_on(parsed, turns) if parsed.carry_on else _with_message(parsed, turns)
    # A reply cut before its first character has nothing to carry on: it is simply asked for again.
    unfinished = (Message("assistant", begun),) if begun else ()
    said = (*history[:-1], *map(_unescaped, history[-1:])) if parsed.raw else history
    messages = system_first(said, default=settings.system, asked=parsed.system) + unfinished
    chat = ChatRequest(
        messages=messages,
        sampling=sampling,
        stop=parsed.stop,
        deadline_ms=parsed.deadline_ms,
        raw=bool(parsed.raw),
        continue_final=bool(begun),
        truncation=parsed.truncation or "auto",
        running_usage=bool(parsed.running_usage),
        source_language=language(parsed.source_language, settings.language_source),
        target_language=language(parsed.target_language, settings.language_target),
    )
    ids = {"conversationId": parsed.conversation_id, "messageId": parsed.message_id}
    sent_ids = {name: value for name, value in ids.items() if value is not None}
    return SimpleRequest(chat=chat, history=history, begun=begun, stream=parsed.stream, ids=sent_ids)


def _refuse_long(parsed: SimpleBody, most: int) -> None:
    texts = {"message": parsed.message, "system": parsed.system}
    # The assistant's turns are this server's own replies, which must be able to come back however long they are.
    texts |= {
        f"conversationHistory.{at}.content": turn.content
        for at, turn in enumerate(parsed.history or ())
        if turn.role != "assistant"
    }
    refuse_long(texts, most)


def _sampling(fields: dict[str, Any], settings: Settings) -> SamplingParams:
    sent = {name: fields[name] for name in SamplingParams.model_fields if fields.get(name) is not None}
    own = settings.sampling
    return validated(SamplingParams, {**own.model_dump(exclude_unset=True), **sent}) if sent else own


def _with_message(parsed: SimpleBody, turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    text = parsed.message
    if text is None or not text.strip():
        problem = "is missing" if text is None else "is empty"
        raise InvalidRequest(f"`message` {problem}.", param="message", hint="Send what the user says as `message`.")
    message = Message("user", text)
    # Clients disagree on whether the history they send already has the message.
    return (turns if turns[-1:] == (message,) else (*turns, message)), ""


def _carried_on(parsed: SimpleBody, turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    *before, last = turns or (Message("user", ""),)
    if last.role != "assistant":
        raise InvalidRequest(
            "`continue` needs a conversationHistory that ends with the assistant's message.",
            param="conversationHistory",
            hint="Send the conversationHistory of the reply that was cut short.",
        )
    asked = [turn.content for turn in before if turn.role == "user"][-1:]
    if parsed.message and [parsed.message] != asked:
        raise InvalidRequest(
            "With `continue`, `message` must be left out or be the last user message again.", param="message"
        )
    if not last.content and before[-1:] != [Message("user", "".join(asked))]:
        raise InvalidRequest("`continue` found nothing to carry on.", param="conversationHistory")
    return tuple(before), last.content


def _unescaped(turn: Message) -> Message:
    return replace(turn, content=unescape(turn.content))


def unescape(text: str) -> str:
    r"""A raw message that begins with a backslash: that one goes, `\n` is a newline, `\x` any other `x`."""
    if not text.startswith("\\"):
        return text
    return re.sub(r"\\([\s\S])", lambda match: "\n" if match[1] == "n" else match[1], text[1:])


class SimpleReply:
    """Wire of POST /chat: events `{"delta": …}`, `{"reasoning": …}`, if asked for `{"usage": …}`, then one with all."""

    def __init__(self, request: SimpleRequest) -> None:
        self._request = request
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self.ends: list[ReplyEnd] = []

    def opened(self) -> bytes:
        return sse.OPEN

    def feed(self, choice: int, delta: Delta) -> bytes:
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        self.ends += [delta.end] if delta.end else []
        usage = usage_fields(delta.usage) if delta.usage else {}
        pieces = {"reasoning": delta.reasoning, "delta": delta.text, "usage": usage}
        return b"".join(sse.event({name: piece}) for name, piece in pieces.items() if piece)

    def closed(self) -> bytes:
        return sse.event({"done": True, **self.body()}) + sse.DONE

    def failed(self, error: ChatError) -> bytes:
        return sse.event(error_fields(error)) + sse.DONE

    def body(self) -> dict[str, Any]:
        [end] = self.ends
        request, text = self._request, "".join(self._text)
        history = (*request.history, Message("assistant", request.begun + text))
        reasoning = "".join(self._reasoning)
        return {
            "success": True,
            "response": text,
            **({"reasoning": reasoning} if reasoning else {}),
            "conversationHistory": [{"role": turn.role, "content": turn.content} for turn in history],
            "truncated": end.finish_reason in ("length", "deadline"),
            "finish_reason": end.finish_reason,
            "usage": usage_fields(end.usage),
            "dropped_messages": end.dropped_messages,
            **({"notes": list(end.notes)} if end.notes else {}),
            **request.ids,
        }


def usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "context_length": usage.context_length,
        "seconds": round(usage.seconds, 3),
        "first_token_seconds": usage.first_token_seconds,
        "tokens_per_second": round(usage.tokens_per_second, 2),
    }


def error_fields(error: ChatError) -> dict[str, Any]:
    """The JSON of a failed reply: the error of every door and this door's two fields."""
    return {"success": False, "message": error.message, "error": error.to_dict()}
