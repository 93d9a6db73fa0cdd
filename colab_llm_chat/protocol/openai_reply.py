"""What the replies of the OpenAI door share: ids, usage, finish reasons, logprobs, and how a stream breaks."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from ..errors import ChatError
from . import sse
from .messages import ReplyEnd, TokenLogprob

# What OpenAI writes for tokens that cannot come; JSON has no infinity.
LEAST_LOGPROB = -9999.0


def new_id(prefix: str) -> str:
    """An id as OpenAI's: the kind of object, then letters and digits."""
    return prefix + secrets.token_hex(16)


def finish_reason(end: ReplyEnd) -> str:
    """A deadline is a limit of length to clients that know no other."""
    return "length" if end.finish_reason == "deadline" else end.finish_reason


def usage_fields(ends: Sequence[ReplyEnd]) -> dict[str, Any]:
    """The tokens of a request: its prompt, which the choices share, and all that came back."""
    prompt_tokens = ends[0].usage.prompt_tokens
    completion_tokens = sum(end.usage.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": ends[0].usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": sum(end.usage.reasoning_tokens for end in ends)},
    }


def notes_fields(ends: Sequence[ReplyEnd]) -> dict[str, list[str]]:
    """What to tell people of how the request was taken; choices of one prompt have the same notes."""
    notes = list(dict.fromkeys(note for end in ends for note in end.notes))
    return {"notes": notes} if notes else {}


def logprob_fields(token: TokenLogprob) -> dict[str, Any]:
    return {**_alternative(token), "top_logprobs": [_alternative(other) for other in token.top]}


def failed_events(error: ChatError) -> bytes:
    """The last events of a stream that broke."""
    return sse.event({"error": error.to_dict()}) + sse.DONE


def _alternative(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": max(token.logprob, LEAST_LOGPROB), "bytes": list(token.data)}
