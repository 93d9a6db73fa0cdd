"""The typed values that flow between the doors and the pipeline: a parsed request and the deltas of its reply.

Knows nothing of HTTP, tokens of a model, or how a reply is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from ..settings import SamplingParams

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "deadline", "cancelled"]
State = Literal["loading", "ok", "failed"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as plain text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A parsed body. `messages` is never empty; a system message, if any, comes first.

    With `continue_final` the last message is the assistant's, to be carried on; else it is the user's.
    With `raw` the last message goes to the model without any template.
    """

    messages: tuple[Message, ...]
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    deadline_ms: int | None = None
    raw: bool = False
    continue_final: bool = False
    truncation: Literal["auto", "disabled"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts. `seconds` go from the request's arrival to its last token, waiting and prefill included;
    `tokens_per_second` is completion_tokens / seconds.
    """

    prompt_tokens: int
    completion_tokens: int
    seconds: float
    tokens_per_second: float
    cached_tokens: int = 0


# Apart from Delta, for none of it is known before the last token.
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyEnd:
    """What is known once a reply has ended."""

    finish_reason: FinishReason
    usage: Usage
    dropped_messages: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text. Empty and without `end` it is a sign of life: nothing came for `ping_seconds`."""

    text: str = ""
    end: ReplyEnd | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """State of the model: `progress` 0..1 and `detail` while loading, `error` (ChatError.to_dict) when failed."""

    state: State
    model_id: str
    progress: float = 0.0
    detail: str = ""
    error: dict[str, str | None] | None = None


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

    def status(self) -> Status: ...
    def close(self) -> None: ...
