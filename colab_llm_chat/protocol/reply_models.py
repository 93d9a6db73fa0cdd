"""The shapes of what each route answers, for the OpenAPI document. The replies themselves are made elsewhere.

The tests hold every route's real answers against them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length", "tool_calls"]


class Error(BaseModel):
    """What went wrong (`message`), in which field of the request (`param`), and what to do next (`hint`)."""

    message: str
    type: str
    param: str | None
    code: str
    hint: str


class ErrorReply(BaseModel):
    error: Error


class SimpleErrorReply(BaseModel):
    success: Literal[False]
    message: str
    error: Error


class Turn(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str


class SimpleUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    context_length: int
    seconds: float
    first_token_seconds: float | None
    tokens_per_second: float


class SimpleChatReply(BaseModel):
    """A reply of POST /chat; the last event of its stream has `done` beside."""

    success: Literal[True]
    response: str
    reasoning: str | None = None
    conversationHistory: list[Turn]  # noqa: N815 (the wire's name)
    truncated: bool
    finish_reason: Literal["stop", "length", "deadline"]
    usage: SimpleUsage
    dropped_messages: int
    notes: list[str] | None = None
    conversationId: str | int | None = None  # noqa: N815
    messageId: str | int | None = None  # noqa: N815


class Health(BaseModel):
    """With the access key also which model, how far its loading is, and what it is for.

    `languages` are the codes that a translation model knows.
    """

    status: Literal["ok", "loading", "failed"]
    model: str | None = None
    task: Literal["chat", "translation", "text2text"] | None = None
    languages: list[str] | None = None
    progress: float | None = None
    detail: str | None = None
    error: Error | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class CachedTokens(BaseModel):
    cached_tokens: int


class ReasoningTokens(BaseModel):
    reasoning_tokens: int


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class Function(BaseModel):
    name: str
    arguments: str


class ToolCallReply(BaseModel):
    id: str
    type: Literal["function"]
    function: Function


class AssistantMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallReply] | None = None


class Alternative(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobReply(Alternative):
    top_logprobs: list[Alternative]


class Logprobs(BaseModel):
    content: list[TokenLogprobReply]
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason


class ChatCompletionReply(BaseModel):
    """`chat.completion`; a stream has `chat.completion.chunk`s and ends with `[DONE]`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    notes: list[str] | None = None


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class TextCompletionReply(BaseModel):
    """`text_completion`; chunks of a stream have the same shape."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage
    notes: list[str] | None = None


class ResponseReply(BaseModel):
    """`response`; a stream has OpenAI's typed events, of which the last has the whole."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any]
    notes: list[str] | None = None


class TokenizeReply(BaseModel):
    """`token_strs` where they are asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None
    prompt: str
    dropped_messages: int


class Document(BaseModel):
    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]
