"""What is told of generations: by a step to the worker, and by the worker's messages to whoever waits.

Never imports torch: the web process reads these, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import ChatError

EndReason = Literal["stop", "length"]


@dataclass(slots=True, frozen=True)
class Logprobs:
    """The natural logarithm of a token's probability, and the likeliest ids with theirs, the likeliest first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class StepReport:
    """What one step brought: new ids, `logprobs` by their places among them, who ended and why, who failed and how.

    `cached` tells of those whose prompt begins to be read how many of its ids need not be.
    """

    cached: list[tuple[int, int]] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)
    logprobs: dict[int, Logprobs] = field(default_factory=dict)
    ended: list[tuple[int, EndReason]] = field(default_factory=list)
    failed: list[tuple[int, ChatError]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What happened to one generation: new ids, then how it ended. `cancelled` is the caller's own doing.

    `logprobs` has one entry for each of `token_ids` where the rules ask for them, else none.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Logprobs, ...] = ()
    end: EndReason | Literal["cancelled"] | None = None
    error: ChatError | None = None
