"""The wire of POST /tokenize: a raw prompt, or the body of a chat completion, and the tokens of the prompt it makes.

Knows no tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import InvalidRequest, UnsupportedParameter
from ..settings import Settings
from .body import parse_object, refuse_long, validated
from .chat_completions import MAX_MESSAGES, parse_chat_completion
from .fields import JsonObject, Language, Text, language
from .messages import ChatRequest, Message, PromptTokens
from .model_names import NO_PERSONAS, Personas, settings_of_model
from .openai_messages import ChatMessage
from .openai_tools import MAX_TOOLS, ToolSpec

FORMS = ("prompt", "content", "messages")


class TokenizeBody(BaseModel):
    """What POST /tokenize takes: one of prompt, content and messages. With messages, all that a chat completion takes
    counts as it does there; other keys are ignored.
    """

    model_config = ConfigDict(strict=True)

    model: Text | None = None
    prompt: Text | None = Field(None, description="Text that goes to the model without any template.")
    content: Text | None = Field(None, description="The same as prompt.")
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    tools: list[ToolSpec] | None = Field(None, max_length=MAX_TOOLS)
    chat_template_kwargs: JsonObject | None = None
    continue_final_message: bool | None = None
    raw: bool | None = Field(None, description="The last message, or a reply and what it carries on, without template.")
    add_generation_prompt: bool | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="`auto` tells the prompt that fits the window, as a reply's would; else it is told whole."
    )
    source_language: Language = None
    target_language: Language = None
    add_special_tokens: bool | None = Field(None, description="Only as it is done: for a prompt, not for messages.")
    return_token_strs: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """A parsed body: the request whose prompt is asked for, and whether each token's piece is, too."""

    chat: ChatRequest
    has_pieces: bool

    def reply(self, found: PromptTokens) -> dict[str, Any]:
        pieces = {"token_strs": list(found.pieces)} if self.has_pieces else {}
        return {
            "count": len(found.prompt_ids),
            "max_model_len": found.context_length,
            "tokens": list(found.prompt_ids),
            **pieces,
            "prompt": found.text,
            "dropped_messages": found.dropped_messages,
        }


def parse_tokenize(body: bytes, settings: Settings, personas: Personas = NO_PERSONAS) -> TokenizeRequest:
    """The bytes of POST /tokenize as a typed request; raises InvalidRequest, UnsupportedParameter or UnknownModel."""
    parsed = validated(TokenizeBody, parse_object(body))
    form = _form(parsed)
    if parsed.messages is not None:
        chat = replace(parse_chat_completion(body, settings, personas).choices[0], raw=bool(parsed.raw))
    else:
        settings = settings_of_model(parsed.model, settings, personas)
        text = str(getattr(parsed, form))
        refuse_long({form: text}, settings.max_message_characters)
        chat = ChatRequest(
            messages=(Message("user", text),),
            sampling=settings.sampling,
            raw=True,
            truncation=parsed.truncation or "disabled",
            asked_in=form,
            source_language=language(parsed.source_language, settings.language_source),
            target_language=language(parsed.target_language, settings.language_target),
        )
    return TokenizeRequest(chat=chat, has_pieces=bool(parsed.return_token_strs))


def _form(parsed: TokenizeBody) -> str:
    forms = [name for name in FORMS if getattr(parsed, name) is not None]
    if not forms:
        raise InvalidRequest("`prompt` is missing.", param="prompt", hint="Send a `prompt`, or `messages`.")
    if len(forms) > 1:
        raise InvalidRequest(f"`{forms[1]}` and `{forms[0]}` exclude each other.", param=forms[1])
    if parsed.add_special_tokens not in (None, parsed.messages is None):
        raise UnsupportedParameter(
            "`add_special_tokens` is not supported by this server: the tokens are those that the model would get.",
            param="add_special_tokens",
        )
    return forms[0]
