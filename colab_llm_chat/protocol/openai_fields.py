"""What the bodies of the OpenAI door share: how a reply is drawn, and which fields are ignored or refused.

Knows nothing of HTTP, nor of what one endpoint alone has.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ..errors import InvalidRequest, UnsupportedParameter
from ..settings import LARGEST_COUNT, SamplingParams, Settings, TokenRules
from .body import fault, parse_object, validated
from .fields import MAX_DEADLINE_MS, Language, Stops, Text, Whole, knob
from .messages import ChatRequest

# Accepted and without effect here, as are keys that no one knows.
IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
    "prediction",
    "modalities",
    "web_search_options",
)
# Refused by name with the way out, where unknown keys pass: who sends one of these counts on what it does.
UNSUPPORTED = {
    "functions": "Send them as `tools`.",
    "function_call": "Send `tools` and `tool_choice`.",
    "audio": "The model writes text only; leave it out.",
    "persona": 'Send `model`: "persona:NAME".',
    "use_beam_search": "Leave it out; replies are drawn token by token.",
    "prompt_logprobs": "Leave it out; `logprobs` gives those of the reply.",
    "structured_outputs": "Send `response_format`.",
    "guided_json": "Send `response_format`.",
    "guided_regex": "Send `response_format`.",
    "guided_choice": "Send `response_format`.",
    "guided_grammar": "Send `response_format`.",
}
MAX_CHOICES = 16
MAX_BIASES = 1_024
MOST_BIAS = 100
TOKEN_ID = re.compile(r"[0-9]{1,9}")
SEEDS = 2**63
PRIORITIES = ["interactive", "background"]


def _biases(value: object) -> object:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise fault("must be an object of token ids and biases")
    if len(value) > MAX_BIASES:
        raise fault(f"has {len(value)} entries; the limit is {MAX_BIASES}")
    for token_id, bias in value.items():
        if not TOKEN_ID.fullmatch(token_id):
            raise fault("may only have token ids, written in digits, as its keys")
        if type(bias) not in (int, float) or not -MOST_BIAS <= bias <= MOST_BIAS:
            raise fault(f"may only have numbers from -{MOST_BIAS} to {MOST_BIAS} as its values")
    return {int(token_id): float(bias) for token_id, bias in value.items()}


def _drawn_from_one(value: object) -> object:
    # To OpenAI a top_p of 0 is the likeliest token alone; here it has to be above 0.
    return sys.float_info.epsilon if value == 0 and not isinstance(value, bool) else value


def _off(value: object) -> object:
    # Other servers write "all tokens" as -1.
    return 0 if value == -1 else value


def _seed(value: object) -> object:
    # OpenAI takes 64 bits with a sign.
    return value % SEEDS if type(value) is int and -SEEDS <= value < 0 else value


def _is_background(value: object) -> object:
    # Other servers have numbers here, of which 0 is usual and a higher one waits longer.
    if value is None or value in PRIORITIES or type(value) is int:
        return value == "background" or (isinstance(value, int) and value > 0)
    raise fault('must be "interactive", "background" or an integer')


Biases = Annotated[
    dict[int, float],
    BeforeValidator(_biases),
    WithJsonSchema(
        {
            "type": "object",
            "patternProperties": {"^[0-9]{1,9}$": {"type": "number", "minimum": -MOST_BIAS, "maximum": MOST_BIAS}},
            "additionalProperties": False,
            "maxProperties": MAX_BIASES,
        }
    ),
]

Priority = Annotated[
    bool | None,
    BeforeValidator(_is_background),
    WithJsonSchema({"anyOf": [{"enum": PRIORITIES}, {"type": "integer"}, {"type": "null"}]}),
]


class SampledBody(BaseModel):
    """The fields of every body that asks for a reply. `null` is the same as leaving a field out."""

    model_config = ConfigDict(strict=True)

    model: Text | None = Field(
        None, description="`persona:NAME` answers as that persona; anything else is the loaded model, unless strict."
    )
    stream: bool | None = None
    temperature: float | None = knob("temperature")
    top_p: Annotated[float | None, BeforeValidator(_drawn_from_one)] = knob("top_p")
    top_k: Annotated[Whole, BeforeValidator(_off)] = knob("top_k")
    min_p: float | None = knob("min_p")
    repetition_penalty: float | None = knob("repetition_penalty")
    no_repeat_ngram_size: Whole = knob("no_repeat_ngram_size")
    frequency_penalty: float | None = knob("frequency_penalty")
    presence_penalty: float | None = knob("presence_penalty")
    seed: Annotated[Whole, BeforeValidator(_seed)] = knob("seed")
    stop: Stops = ()
    logit_bias: Biases = Field(default_factory=dict)
    min_tokens: Whole = Field(None, ge=0, le=LARGEST_COUNT)
    ignore_eos: bool | None = None
    deadline_ms: Whole = Field(None, ge=1, le=MAX_DEADLINE_MS, description="End the reply before so many ms.")
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="What to do with a conversation too long for the model: leave out the oldest, or refuse."
    )
    priority: Priority = Field(None, description="`background`, or a number above 0: nobody waits for this reply.")
    source_language: Language = Field(
        None, description="Of the text to translate, as a FLORES-200 code; chat models ignore it."
    )
    target_language: Language = Field(
        None, description="To translate into, as a FLORES-200 code; chat models ignore it."
    )


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


Body = TypeVar("Body", bound=SampledBody)


def parse_body(kind: type[Body], body: bytes) -> Body:
    """The bytes as the endpoint's model; raises InvalidRequest or UnsupportedParameter."""
    fields = parse_object(body)
    refuse_unsupported(fields)
    return validated(kind, fields)


def refuse_unsupported(fields: Mapping[str, Any]) -> None:
    """Raises UnsupportedParameter for the first field that would be silently without effect."""
    for name, hint in UNSUPPORTED.items():
        # `false` and empty lists ask for nothing.
        if fields.get(name):
            raise UnsupportedParameter(f"`{name}` is not supported by this server.", param=name, hint=hint)


def sampling(body: SampledBody, settings: Settings, *, longest: int | None) -> SamplingParams:
    """How the reply is drawn: what the body says over the server's own; `longest` is its limit of tokens."""
    said = {name: getattr(body, name, None) for name in SamplingParams.model_fields} | {"max_new_tokens": longest}
    return settings.sampling.model_copy(update={name: value for name, value in said.items() if value is not None})


def token_rules(body: SampledBody, *, top_logprobs: int | None) -> TokenRules:
    return TokenRules(
        logit_bias=body.logit_bias,
        top_logprobs=top_logprobs,
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
    )


def template_kwargs(effort: str | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the chat template is told. The key that turns thinking off is the one that most templates have."""
    told: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort}
    if effort == "none":
        told = {"enable_thinking": False}
    return {**told, **(given or {})}


def asks_background(body: SampledBody) -> bool:
    """Whether the body says that nobody waits for its reply."""
    return bool(body.priority)


def includes_usage(options: StreamOptions | None, *, stream: bool) -> bool:
    """Whether a stream ends with its usage; raises InvalidRequest for options without a stream."""
    if options is not None and not stream:
        raise InvalidRequest(
            "`stream_options` needs `stream`.", param="stream_options", hint="Send `stream`: true with it."
        )
    return bool(options and options.include_usage)


def choices(request: ChatRequest, count: int) -> tuple[ChatRequest, ...]:
    """The request once for each choice. With a seed, choice i is drawn by seed + i, so that they differ."""
    seed = request.sampling.seed
    if seed is None:
        return (request,) * count
    drawn = [request.sampling.model_copy(update={"seed": (seed + at) % SEEDS}) for at in range(count)]
    return tuple(replace(request, sampling=one) for one in drawn)
