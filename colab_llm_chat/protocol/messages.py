"""The typed values that flow between the doors and the pipeline: a parsed request and the deltas of its reply.

Knows nothing of HTTP, tokens of a model, or how a reply is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ..settings import SamplingParams, TokenRules
from .stats import Stats

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "deadline", "tool_calls", "cancelled"]
State = Literal["loading", "ok", "failed"]
Task = Literal["chat", "translation", "text2text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call that the model asks for; `arguments` is the JSON text of an object, as the model wrote it."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as plain text. `tool_call_id` and `name` say what a tool's answer belongs to."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str = ""


def system_first(messages: Sequence[Message], *, default: str | None, asked: str | None = None) -> tuple[Message, ...]:
    """Templates know one system message, at the front: `asked` replaces those of the messages, else they are joined.

    `default` stands in where there are none; an empty text means none at all, not even the default.
    """
    told = [message.content for message in messages if message.role == "system"]
    text = asked if asked is not None else "\n\n".join(filter(str.strip, told)) if told else default
    others = tuple(message for message in messages if message.role != "system")
    return (Message("system", text), *others) if text and text.strip() else others


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The tools of a request. `choice` is how: as the model likes, never, at least one, or the one of that `name`."""

    tools: tuple[Tool, ...]
    choice: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A parsed body. `messages` is never empty; a system message, if any, comes first.

    With `continue_final` the last message is the assistant's, to be carried on; without `generation_prompt` the prompt
    ends where the last message does. With `raw` the last message goes to the model as it is, without any template, and
    `prompt_ids` in its place, when there are any; with both the last two, of which the second is the reply so far.
    `json_schema` keeps the reply to JSON of that schema (`{}`: any
    object). `asked_in` is the body's name for what was said, for errors to name. `background` is work that nobody waits
    for: it comes after all that somebody does. With `running_usage` some deltas tell the usage so far: who stops a
    reply gets no end of it. The languages are FLORES-200 codes, not checked yet: only the model knows which it has.
    """

    messages: tuple[Message, ...]
    sampling: SamplingParams
    rules: TokenRules = field(default_factory=TokenRules)
    stop: tuple[str, ...] = ()
    deadline_ms: int | None = None
    raw: bool = False
    prompt_ids: tuple[int, ...] = ()
    continue_final: bool = False
    generation_prompt: bool = True
    truncation: Literal["auto", "disabled"] = "auto"
    tool_use: ToolUse | None = None
    json_schema: Mapping[str, Any] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    asked_in: str = "message"
    background: bool = False
    running_usage: bool = False
    source_language: str | None = None
    target_language: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts. `seconds` go from the request's arrival to its last token, waiting and prefill included;
    `tokens_per_second` is completion_tokens / seconds. `first_token_seconds` go from the arrival to the first token,
    None where none came. Prompt and reply together may take `context_length` tokens.
    """

    prompt_tokens: int
    completion_tokens: int
    seconds: float
    tokens_per_second: float
    context_length: int
    first_token_seconds: float | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0


# Apart from Delta, for none of it is known before the last token.
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyEnd:
    """What is known once a reply has ended. `notes` say, for people, what of the request was ignored and why."""

    finish_reason: FinishReason
    usage: Usage
    dropped_messages: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of the reply with its log-probability, and the likeliest ones in its place, itself among them if it is.

    `text` is the token alone, `data` its bytes (part of a character, for some). The probabilities are those the reply
    is drawn from, before temperature, top-k, top-p and min-p: after penalties, bias, and what JSON allows.
    """

    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the `index`th tool call: with `call_id` and `name` when it begins, then pieces of `arguments`."""

    index: int
    arguments: str = ""
    call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply: its text, what the model thinks before it, tool calls, and the tokens it took.

    With nothing in it a delta is a sign of life: nothing came for `ping_seconds`.
    """

    text: str = ""
    end: ReplyEnd | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None

    @property
    def is_ping(self) -> bool:
        return self == Delta()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTokens:
    """A request's prompt as the model would get it."""

    prompt_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    text: str
    context_length: int
    dropped_messages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """State of the model: `progress` 0..1 and `detail` while loading, `error` (ChatError.to_dict) when failed.

    `languages` are the FLORES-200 codes that it knows, none for models that take no codes.
    """

    state: State
    model_id: str
    progress: float = 0.0
    detail: str = ""
    error: dict[str, str | None] | None = None
    task: Task = "chat"
    languages: tuple[str, ...] = ()


class Reply(Protocol):
    """One running reply: iterate its deltas, the last of which has `end`. Failures raise ChatError.

    `cancel` may be called from any thread, at any time, more than once; a blocked iteration then ends
    (StopIteration, no `end`) within one engine step.
    """

    def __iter__(self) -> Iterator[Delta]: ...
    def __next__(self) -> Delta: ...
    def cancel(self) -> None: ...

    @property
    def dropped_messages(self) -> int | None:
        """How many of the oldest messages no longer fitted; None as long as the model is loading."""
        ...


class ChatService(Protocol):
    """What every door talks to: the local pipeline or one over an upstream."""

    def start(self) -> object:
        """Make ready to answer; nothing when it is already, or on the way."""
        ...

    def stream(self, request: ChatRequest) -> Reply:
        """Start a reply. Raises ChatError when the request cannot be served (too long, queue full, failed)."""
        ...

    def tokenize(self, request: ChatRequest) -> PromptTokens:
        """The request's prompt: whole, however long, unless its truncation is "auto". Raises like `stream`, and
        ModelLoading.
        """
        ...

    def status(self) -> Status: ...
    def stats(self) -> Stats: ...
    def close(self) -> None: ...
