"""The body of POST /v1/responses -> a ChatRequest, and what the reply repeats of it.

Stateless: the history comes with each request. Knows nothing of HTTP or of how a reply is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..errors import InvalidRequest, UnsupportedParameter
from ..settings import LARGEST_COUNT, Settings
from .background import is_background
from .body import fault, refuse_long
from .fields import JsonObject, Text, Whole, language
from .messages import ChatRequest, Message, ToolUse, system_first
from .model_names import NO_PERSONAS, Personas, settings_of_model, shown_name
from .openai_fields import SampledBody, asks_background, parse_body, sampling, template_kwargs, token_rules
from .openai_tools import MAX_TOOLS, FunctionSpec, ToolChoiceField, tool_use
from .responses_items import InputItem, InputItems, messages_of

LOGPROBS = "message.output_text.logprobs"
STATELESS = "This server keeps no conversations; send the history as `input`, with each reply's `output` in it."
# What only a server with a memory, or with OpenAI's own services, can do.
UNSUPPORTED = {
    "previous_response_id": STATELESS,
    "conversation": STATELESS,
    "background": "Leave it out, and keep the connection open for the reply.",
    "prompt": "Write the prompt itself into `instructions` or `input`.",
    "context_management": "Leave it out; `truncation`: auto leaves out the oldest turns.",
    "moderation": "Leave it out.",
}


class FunctionTool(FunctionSpec):
    """One of `tools`; functions are the only kind."""

    type: Literal["function"]


class TextFormat(BaseModel):
    """The form of the reply's text; `schema` goes with json_schema."""

    model_config = ConfigDict(strict=True)

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    description: Text | None = None
    json_schema: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _complete(self) -> TextFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise fault("is of type json_schema without a `schema`")
        return self


class TextOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    format: TextFormat | None = None
    verbosity: Text | None = None


class Reasoning(BaseModel):
    """`effort` goes to the chat template; `none` turns thinking off."""

    model_config = ConfigDict(strict=True)

    effort: Text | None = None
    summary: Text | None = None


def _functions_only(value: object) -> object:
    """Raises UnsupportedParameter for OpenAI's own tools, which run on its servers."""
    for at, tool in enumerate(value if isinstance(value, list) else ()):
        if isinstance(tool, dict) and tool.get("type", "function") != "function":
            raise UnsupportedParameter(
                f"`tools.{at}` is not a function; this server has no tools of its own.",
                param=f"tools.{at}",
                hint='Leave it out, or give a tool of yours as {"type": "function", "name": "…", "parameters": {…}}.',
            )
    return value


class ResponsesBody(SampledBody):
    """What POST /v1/responses takes. Other keys are ignored."""

    input: InputItems
    instructions: Text | None = None
    max_output_tokens: Whole = Field(None, ge=1, le=LARGEST_COUNT)
    tools: Annotated[list[FunctionTool] | None, BeforeValidator(_functions_only)] = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    include: list[str] | None = Field(None, description=f"`{LOGPROBS}` asks for them; others are without effect.")
    top_logprobs: Whole = Field(None, ge=0, le=20)
    reasoning: Reasoning | None = None
    chat_template_kwargs: JsonObject | None = None
    metadata: JsonObject | None = Field(None, description="Comes back as it is.")

    @model_validator(mode="before")
    @classmethod
    def _stateless(cls, fields: Any) -> Any:
        for name, hint in UNSUPPORTED.items():
            if fields.get(name):
                raise UnsupportedParameter(f"`{name}` is not supported by this server.", param=name, hint=hint)
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesRequest:
    """A parsed body. `repeated` are the fields that the Response has from its request."""

    chat: ChatRequest
    model: str
    stream: bool
    repeated: Mapping[str, Any]


def parse_responses(body: bytes, settings: Settings, personas: Personas = NO_PERSONAS) -> ResponsesRequest:
    """The bytes as a typed request; raises InvalidRequest, UnsupportedParameter or UnknownModel."""
    parsed = parse_body(ResponsesBody, body)
    settings = settings_of_model(parsed.model, settings, personas)
    messages = _conversation(parsed, settings)
    tools = [tool.tool() for tool in parsed.tools or ()]
    form = parsed.text.format if parsed.text else None
    chat = ChatRequest(
        messages=messages,
        sampling=sampling(parsed, settings, longest=parsed.max_output_tokens),
        rules=token_rules(parsed, top_logprobs=_top_logprobs(parsed)),
        stop=parsed.stop,
        deadline_ms=parsed.deadline_ms,
        truncation=parsed.truncation or "disabled",
        tool_use=tool_use(tools, parsed.tool_choice, parallel=parsed.parallel_tool_calls),
        json_schema=_json_schema(form),
        template_kwargs=template_kwargs((parsed.reasoning or Reasoning()).effort, parsed.chat_template_kwargs),
        asked_in="input",
        background=asks_background(parsed) or is_background(messages),
        source_language=language(parsed.source_language, settings.language_source),
        target_language=language(parsed.target_language, settings.language_target),
    )
    return ResponsesRequest(
        chat=chat, model=shown_name(settings.model_id), stream=bool(parsed.stream), repeated=_repeated(parsed, chat)
    )


def _conversation(parsed: ResponsesBody, settings: Settings) -> tuple[Message, ...]:
    """The instructions and all system messages joined in front, the server's own where there are none."""
    refuse_long({"instructions": parsed.instructions, **_long_texts(parsed.input)}, settings.max_message_characters)
    turns = messages_of(parsed.input)
    if all(turn.role == "system" for turn in turns):
        raise InvalidRequest("`input` has no message to answer.", param="input", hint="Send what the user says.")
    told = [] if parsed.instructions is None else [Message("system", parsed.instructions)]
    return system_first((*told, *turns), default=settings.system)


def _long_texts(items: Sequence[InputItem]) -> dict[str, str]:
    """What others than the model wrote, by the path of its field."""
    texts = {}
    for at, item in enumerate(items):
        if item.type == "function_call_output":
            texts[f"input.{at}.output"] = item.output or ""
        elif item.type == "message" and item.role != "assistant":
            texts[f"input.{at}.content"] = item.content or ""
    return texts


def _top_logprobs(parsed: ResponsesBody) -> int | None:
    asked = parsed.top_logprobs or LOGPROBS in (parsed.include or ())
    return (parsed.top_logprobs or 0) if asked else None


def _json_schema(form: TextFormat | None) -> Mapping[str, Any] | None:
    if form is None or form.type == "text":
        return None
    return form.json_schema if form.type == "json_schema" and form.json_schema is not None else {}


def _repeated(parsed: ResponsesBody, chat: ChatRequest) -> dict[str, Any]:
    text = parsed.text or TextOptions()
    form = text.format.model_dump(by_alias=True, exclude_none=True) if text.format else {"type": "text"}
    effort = parsed.reasoning.effort if parsed.reasoning else None
    return {
        "instructions": parsed.instructions,
        "max_output_tokens": parsed.max_output_tokens,
        "metadata": parsed.metadata or {},
        "parallel_tool_calls": parsed.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": effort, "summary": None},
        "store": False,
        "background": False,
        "service_tier": "default",
        "temperature": chat.sampling.temperature,
        "text": {"format": form, "verbosity": text.verbosity or "medium"},
        "tool_choice": _told_choice(chat.tool_use),
        "tools": [tool.model_dump() for tool in parsed.tools or ()],
        "top_logprobs": chat.rules.top_logprobs or 0,
        "top_p": chat.sampling.top_p,
        "truncation": chat.truncation,
        "user": None,
    }


def _told_choice(use: ToolUse | None) -> str | dict[str, Any]:
    if use is None:
        return "auto"
    return {"type": "function", "name": use.name} if use.choice == "named" else use.choice
