"""The reply of POST /v1/completions: chunks of a stream or one body, with logprobs in the form of that endpoint.

Knows nothing of HTTP or of how a reply is made.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ChatError
from . import sse
from .completions import CompletionRequest
from .messages import Delta, ReplyEnd, TokenLogprob
from .openai_reply import LEAST_LOGPROB, failed_events, finish_reason, new_id, notes_fields, usage_fields

Fields = dict[str, Any]


@dataclass(slots=True)
class _Choice:
    """What has come of one choice."""

    text: list[str] = field(default_factory=list)
    logprobs: Fields = field(default_factory=lambda: _no_tokens())
    end: ReplyEnd | None = None
    # Where the next token begins in the text; a character's first tokens begin where it does.
    offset: int = 0
    decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def tokens(self, told: Sequence[TokenLogprob]) -> Fields:
        """The tokens in the form of this endpoint."""
        fields = _no_tokens()
        for token in told:
            alternatives = {_shown(one): max(one.logprob, LEAST_LOGPROB) for one in (*token.top, token)}
            fields["tokens"].append(_shown(token))
            fields["token_logprobs"].append(max(token.logprob, LEAST_LOGPROB))
            fields["top_logprobs"].append(alternatives)
            fields["text_offset"].append(self.offset)
            self.offset += len(self.decoder.decode(token.data))
        for name, values in fields.items():
            self.logprobs[name] += values
        return fields


class CompletionReply:
    """The Wire of POST /v1/completions. `echoed` is what stands before the text of each prompt's choices."""

    def __init__(self, request: CompletionRequest, echoed: Sequence[str]) -> None:
        self._request = request
        self._has_logprobs = request.choices[0].rules.top_logprobs is not None
        self._head = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model,
        }
        self._choices = [_Choice([echo]) for echo in echoed for _ in range(request.per_prompt)]

    @property
    def ends(self) -> list[ReplyEnd]:
        return [choice.end for choice in self._choices if choice.end is not None]

    def opened(self) -> bytes:
        echoes = [(at, "".join(choice.text)) for at, choice in enumerate(self._choices)]
        return sse.OPEN + b"".join(self._chunk(at, text, None) for at, text in echoes if text)

    def feed(self, choice: int, delta: Delta) -> bytes:
        told = self._choices[choice]
        told.text.append(delta.text)
        told.end = delta.end
        logprobs = told.tokens(delta.logprobs) if self._has_logprobs else None
        if not delta.text and not delta.logprobs and delta.end is None:
            return b""
        return self._chunk(choice, delta.text, logprobs, delta.end)

    def closed(self) -> bytes:
        usage = sse.event({**self._head, "choices": [], "usage": self._usage()}) if self._request.include_usage else b""
        return usage + sse.DONE

    def failed(self, error: ChatError) -> bytes:
        return failed_events(error)

    def body(self) -> Fields:
        choices = [
            _choice_fields(at, "".join(one.text), one.logprobs if self._has_logprobs else None, one.end)
            for at, one in enumerate(self._choices)
        ]
        return {**self._head, "choices": choices, "usage": self._usage(), **notes_fields(self.ends)}

    def _chunk(self, at: int, text: str, logprobs: Fields | None, end: ReplyEnd | None = None) -> bytes:
        beside: Fields = {"usage": None} if self._request.include_usage else {}
        beside |= {} if end is None else notes_fields([end])
        return sse.event({**self._head, "choices": [_choice_fields(at, text, logprobs, end)], **beside})

    def _usage(self) -> Fields:
        # Choices of one prompt share it.
        prompts = [end.usage for end in self.ends[:: self._request.per_prompt]]
        counted = usage_fields(self.ends)
        asked = sum(usage.prompt_tokens for usage in prompts)
        return {
            **counted,
            "prompt_tokens": asked,
            "total_tokens": asked + counted["completion_tokens"],
            "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
        }


def _choice_fields(at: int, text: str, logprobs: Fields | None, end: ReplyEnd | None) -> Fields:
    reason = finish_reason(end) if end is not None else None
    return {"index": at, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _no_tokens() -> Fields:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _shown(token: TokenLogprob) -> str:
    """The token's text, or its bytes where they are part of a character: these would all read the same."""
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)
