"""What a pipeline tells of its work: who runs and waits, tokens, memory and times. Knows not who counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class Durations(BaseModel):
    """How many durations (s) were at most each edge and more than the one before; the last count has no edge."""

    model_config = ConfigDict(frozen=True)

    edges: tuple[float, ...] = ()
    counts: tuple[Count, ...] = (0,)
    total: float = 0.0


class Stats(BaseModel):
    """Gauges of one moment and counters since the engine started; all zero while there is none.

    `running`, `waiting` and `background` (waiting until nothing else does) count sequences. Positions are tokens whose
    keys and values lie in memory, of those that run and as prefixes; `budget_positions` is None where memory has no
    bounds of its own, `position_bytes` 0 where it is not known. `ended` is by reason. `first_token` goes from a
    sequence's arrival at the engine to its first token, `between_tokens` from each token to the next.
    """

    model_config = ConfigDict(frozen=True)

    device: str = ""
    running: Count = 0
    waiting: Count = 0
    background: Count = 0
    tokens_per_second: float = 0.0
    row_positions: Count = 0
    prefix_positions: Count = 0
    budget_positions: Count | None = None
    position_bytes: Count = 0
    prompt_tokens_computed: Count = 0
    prompt_tokens_reused: Count = 0
    tokens_generated: Count = 0
    ended: dict[str, Count] = {}
    pauses: Count = 0
    steps: Count = 0
    step_seconds: float = 0.0
    first_token: Durations = Durations()
    between_tokens: Durations = Durations()
