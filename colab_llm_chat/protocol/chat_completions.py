"""The body of POST /v1/chat/completions -> one ChatRequest for each choice.

Knows nothing of HTTP, nor of how a reply is made or told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from ..errors import InvalidRequest, UnsupportedParameter
from ..settings import LARGEST_COUNT, Settings
from .background import is_background
from .fields import JsonObject, Text, Whole, language
from .messages import ChatRequest, Message
from .model_names import NO_PERSONAS, Personas, settings_of_model, shown_name
from .openai_fields import (
    MAX_CHOICES,
    SampledBody,
    StreamOptions,
    asks_background,
    choices,
    includes_usage,
    parse_body,
    sampling,
    template_kwargs,
    token_rules,
)
from .openai_messages import ChatMessage, conversation
from .openai_tools import MAX_TOOLS, ResponseFormat, ToolChoiceField, ToolSpec, tool_use

MAX_MESSAGES = 2_000
MAX_TOP_LOGPROBS = 20


def _text_only(value: object) -> object:
    return None if value in ([], ["text"]) else value


Modalities = Annotated[
    list[str] | None,
    BeforeValidator(_text_only),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"const": "text"}}, {"type": "null"}]}),
]


class ChatCompletionBody(SampledBody):
    """What POST /v1/chat/completions takes. Other keys are ignored."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Whole = Field(None, ge=1, le=LARGEST_COUNT, description="Comes before max_tokens.")
    max_tokens: Whole = Field(None, ge=1, le=LARGEST_COUNT)
    n: Whole = Field(None, ge=1, le=MAX_CHOICES, description="Choices; with a seed, choice i is drawn by seed + i.")
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Whole = Field(None, ge=0, le=MAX_TOP_LOGPROBS, description="Needs logprobs.")
    tools: list[ToolSpec] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat = None
    modalities: Modalities = None
    reasoning_effort: Text | None = Field(None, description="Goes to the chat template; `none` turns thinking off.")
    chat_template_kwargs: JsonObject | None = None
    continue_final_message: bool | None = Field(None, description="Carry the last message, the assistant's, on.")
    add_generation_prompt: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletionRequest:
    """A parsed body: a request for each choice, and what its reply has to know."""

    choices: tuple[ChatRequest, ...]
    model: str
    stream: bool
    include_usage: bool


def parse_chat_completion(body: bytes, settings: Settings, personas: Personas = NO_PERSONAS) -> ChatCompletionRequest:
    """The bytes as a typed request; raises InvalidRequest, UnsupportedParameter or UnknownModel."""
    parsed = parse_body(ChatCompletionBody, body)
    settings = settings_of_model(parsed.model, settings, personas)
    _refuse_contradictions(parsed)
    include_usage = includes_usage(parsed.stream_options, stream=bool(parsed.stream))
    messages = conversation(parsed.messages, settings)
    if parsed.continue_final_message:
        _refuse_to_carry_on(messages[-1])
    request = ChatRequest(
        messages=messages,
        sampling=sampling(parsed, settings, longest=parsed.max_completion_tokens or parsed.max_tokens),
        rules=token_rules(parsed, top_logprobs=(parsed.top_logprobs or 0) if parsed.logprobs else None),
        stop=parsed.stop,
        deadline_ms=parsed.deadline_ms,
        continue_final=bool(parsed.continue_final_message),
        generation_prompt=parsed.add_generation_prompt is not False,
        truncation=parsed.truncation or "disabled",
        tool_use=tool_use(
            [tool.function.tool() for tool in parsed.tools or ()],
            parsed.tool_choice,
            parallel=parsed.parallel_tool_calls,
        ),
        json_schema=parsed.response_format,
        template_kwargs=template_kwargs(parsed.reasoning_effort, parsed.chat_template_kwargs),
        asked_in="messages",
        background=asks_background(parsed) or is_background(messages),
        source_language=language(parsed.source_language, settings.language_source),
        target_language=language(parsed.target_language, settings.language_target),
    )
    return ChatCompletionRequest(
        choices=choices(request, parsed.n or 1),
        model=shown_name(settings.model_id),
        stream=bool(parsed.stream),
        include_usage=include_usage,
    )


def _refuse_contradictions(body: ChatCompletionBody) -> None:
    if body.modalities is not None:
        raise UnsupportedParameter(
            '`modalities` may only be ["text"]; the model writes nothing else.', param="modalities"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest(
            "`top_logprobs` needs `logprobs`.", param="top_logprobs", hint="Send `logprobs`: true with it."
        )
    if body.continue_final_message and body.add_generation_prompt:
        raise InvalidRequest(
            "`continue_final_message` and `add_generation_prompt` exclude each other.",
            param="continue_final_message",
            hint="Leave `add_generation_prompt` out.",
        )


def _refuse_to_carry_on(last: Message) -> None:
    if last.role != "assistant" or not last.content or last.tool_calls:
        raise InvalidRequest(
            "`continue_final_message` needs a last message of the assistant's with text to carry on.",
            param="continue_final_message",
        )
