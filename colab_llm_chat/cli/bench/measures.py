"""Figures of a load and of a conversation, and their medians. Knows neither HTTP nor peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from statistics import mean, median


@dataclass(slots=True)
class Reply:
    """One reply as its client saw it, in seconds since it asked: each piece of text, and the end."""

    texts: list[float] = field(default_factory=list)
    text: str = ""
    total: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    failure: str = ""

    @property
    def first(self) -> float:
        return self.texts[0] if self.texts else float("nan")

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.texts, self.texts[1:], strict=False)]

    @property
    def pace(self) -> float:
        """Seconds a token after the first; nan for a reply of one. Several may come at once, and so with no gap."""
        if self.tokens < 2 or len(self.texts) < 2:
            return float("nan")
        return (self.texts[-1] - self.texts[0]) / (self.tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One load: tokens a second over its wall time, seconds to the first text and between texts, peak memory in MB.

    `pace` is seconds a token of a reply, after its first; `tokens` are the new ones of the reply that got the fewest;
    `stolen` is the share of the processors' time that other machines took.
    """

    rate: float
    first: float
    first_p99: float
    gap: float
    gap_p99: float
    pace: float
    memory: float
    tokens: float
    stolen: float


def quantile(values: Sequence[float], share: float) -> float:
    """Between the two nearest values in proportion; nan without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def figures(
    replies: Sequence[Reply], *, wall: float, memory: float, stolen: float = 0.0, short: int | None = None
) -> Figures:
    """What these replies, begun together and done after `wall` seconds, come to.

    Times are those of the first `short` of them, the rate and the tokens those of all.
    """
    timed = replies[:short]
    firsts = [reply.first for reply in timed if reply.texts]
    gaps = [gap for reply in timed for gap in reply.gaps]
    return Figures(
        rate=sum(reply.tokens for reply in replies) / wall,
        first=quantile(firsts, 0.5),
        first_p99=quantile(firsts, 0.99),
        gap=quantile(gaps, 0.5),
        gap_p99=quantile(gaps, 0.99),
        pace=quantile([reply.pace for reply in timed if reply.pace > 0], 0.5),
        memory=memory,
        tokens=min(reply.tokens for reply in replies),
        stolen=stolen,
    )


def median_figures(rounds: Sequence[Figures]) -> Figures:
    """The median of the rounds, figure by figure; of memory the most, of tokens the fewest."""
    kinds = {"memory": max, "tokens": min}
    return Figures(
        **{one.name: kinds.get(one.name, median)([getattr(r, one.name) for r in rounds]) for one in fields(Figures)}
    )


def median_turns(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Seconds to the first text, turn by turn: the median of the rounds."""
    return [median(turn) for turn in zip(*rounds, strict=True)]


def growth(turns: Sequence[float]) -> float:
    """Time to the first text, the last two turns over the first two."""
    return mean(turns[-2:]) / mean(turns[:2])
