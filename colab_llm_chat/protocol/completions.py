"""The body of POST /v1/completions: text or token ids that the model carries on, without any template.

Knows nothing of HTTP or of how a reply is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from ..errors import InvalidRequest, UnsupportedParameter
from ..settings import LARGEST_COUNT, Settings
from .body import fault, refuse_long, well_formed
from .fields import Whole, language
from .messages import ChatRequest, ChatService, Message
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
    token_rules,
)
from .openai_tools import ResponseFormat

# OpenAI's own: most models for completions never end by themselves.
DEFAULT_MAX_TOKENS = 16
Prompt = str | tuple[int, ...]

TEXT_SCHEMA = {"type": "string"}
IDS_SCHEMA = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": LARGEST_COUNT},
    "minItems": 1,
}
SEVERAL = [{"type": "array", "items": one, "minItems": 1, "maxItems": MAX_CHOICES} for one in (TEXT_SCHEMA, IDS_SCHEMA)]
PROMPT_SCHEMA = {"anyOf": [TEXT_SCHEMA, IDS_SCHEMA, *SEVERAL]}


def _listed_prompts(value: object) -> object:
    """Always several: strings and lists of token ids; a list of bare ids is one."""
    prompts = value if isinstance(value, list) and value and not _is_id(value[0]) else [value]
    if len(prompts) > MAX_CHOICES:
        raise fault(f"has {len(prompts)} prompts; the limit is {MAX_CHOICES}")
    return tuple(_prompt(one) for one in prompts)


def _prompt(value: object) -> Prompt:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list) and value and all(_is_id(one) for one in value):
        return tuple(value)
    raise fault("must be a string, a list of token ids, or a list of several of either kind")


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_COUNT


class CompletionBody(SampledBody):
    """The body of POST /v1/completions."""

    prompt: Annotated[tuple[Any, ...], BeforeValidator(_listed_prompts), WithJsonSchema(PROMPT_SCHEMA)]
    max_tokens: Whole = Field(None, ge=1, le=LARGEST_COUNT, description=f"{DEFAULT_MAX_TOKENS} where it is left out.")
    n: Whole = Field(None, ge=1, le=MAX_CHOICES)
    best_of: Whole = Field(None, ge=1, description="Only as many as `n`: every reply drawn is given.")
    logprobs: Whole = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = Field(None, description="Only empty: the model writes at the end alone.")
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A parsed body: a request for each choice, those of one prompt (`per_prompt`) side by side."""

    choices: tuple[ChatRequest, ...]
    per_prompt: int
    model: str
    echo: bool
    stream: bool
    include_usage: bool


def parse_completion(body: bytes, settings: Settings, personas: Personas = NO_PERSONAS) -> CompletionRequest:
    """The bytes of POST /v1/completions as a typed request; raises as for a chat completion."""
    parsed = parse_body(CompletionBody, body)
    settings = settings_of_model(parsed.model, settings, personas)
    per_prompt = parsed.n or 1
    _refuse(parsed, per_prompt)
    include_usage = includes_usage(parsed.stream_options, stream=bool(parsed.stream))
    longest = max((one for one in parsed.prompt if isinstance(one, str)), key=len, default="")
    refuse_long({"prompt": longest}, settings.max_message_characters)
    drawn = sampling(parsed, settings, longest=parsed.max_tokens or DEFAULT_MAX_TOKENS)
    rules = token_rules(parsed, top_logprobs=parsed.logprobs)
    asked = [
        ChatRequest(
            messages=(Message("user", prompt if isinstance(prompt, str) else ""),),
            prompt_ids=() if isinstance(prompt, str) else prompt,
            sampling=drawn,
            rules=rules,
            stop=parsed.stop,
            deadline_ms=parsed.deadline_ms,
            raw=True,
            truncation="disabled",
            json_schema=parsed.response_format,
            asked_in="prompt",
            background=asks_background(parsed),
            source_language=language(parsed.source_language, settings.language_source),
            target_language=language(parsed.target_language, settings.language_target),
        )
        for prompt in parsed.prompt
    ]
    return CompletionRequest(
        choices=tuple(choice for one in asked for choice in choices(one, per_prompt)),
        per_prompt=per_prompt,
        model=shown_name(settings.model_id),
        echo=bool(parsed.echo),
        stream=bool(parsed.stream),
        include_usage=include_usage,
    )


def echoes(request: CompletionRequest, chat: ChatService) -> list[str]:
    """What stands before the reply to each prompt; token ids have to be asked for their text."""
    prompts = request.choices[:: request.per_prompt]
    if not request.echo:
        return ["" for _ in prompts]
    return [chat.tokenize(one).text if one.prompt_ids else one.messages[-1].content for one in prompts]


def _refuse(parsed: CompletionBody, per_prompt: int) -> None:
    asked = len(parsed.prompt) * per_prompt
    if asked > MAX_CHOICES:
        problem = f"`n` of {per_prompt} for {len(parsed.prompt)} prompts asks for {asked} replies"
        raise InvalidRequest(f"{problem}; the limit is {MAX_CHOICES}.", param="n")
    if parsed.best_of not in (None, per_prompt):
        raise UnsupportedParameter(
            "`best_of` other than `n` is not supported by this server.", param="best_of", hint="Leave it out."
        )
    if parsed.suffix:
        raise UnsupportedParameter(
            "`suffix` is not supported by this server: the model writes at the end alone.",
            param="suffix",
            hint="Leave it out, or write it into the prompt in the form the model knows.",
        )
    if parsed.echo and parsed.logprobs is not None:
        raise UnsupportedParameter(
            "`echo` together with `logprobs` is not supported by this server: it has none of the prompt's tokens.",
            param="echo",
            hint="Leave out one of the two.",
        )
