"""The bars: what this server must reach beside its peers, each the median of ratios within one round.

A shared machine may be twice as slow a minute later: what is measured one after the other meets the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, median

from .measures import Figures, growth
from .results import GREEDY, SAMPLED, Results

Ratio = Callable[[Results, str], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: `value` is None where something it needs was not measured."""

    what: str
    wanted: str
    value: float | None
    reached: bool | None

    @property
    def told(self) -> str:
        return {True: "reached", False: "NOT reached", None: "not measured"}[self.reached]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a bar is reckoned; `once` where the way of drawing makes no difference to it."""

    what: str
    ratio: Ratio
    limit: float
    above: bool = True
    aim: float | None = None
    percent: bool = False
    once: bool = False

    def shown(self, value: float) -> str:
        return f"{100 * value:.0f} %" if self.percent else f"{value:.2f}"

    def judged(self, results: Results, drawn: str) -> Bar:
        value = self.ratio(results, drawn)
        wanted = f"{'>=' if self.above else '<='} {self.shown(self.limit)}"
        if self.aim is not None:
            wanted += f", aim {self.shown(self.aim)}"
        reached = None if value is None else (value >= self.limit if self.above else value <= self.limit)
        what = self.what if self.once else f"{self.what}, {drawn}"
        return Bar(what=what, wanted=wanted, value=value, reached=reached)


def rate(figures: Figures) -> float:
    return figures.rate


def first(figures: Figures) -> float:
    return figures.first


def over(peers: str, load: str, figure: Callable[[Figures], float] = rate) -> Ratio:
    """This server's figure over the largest of these peers'."""

    def ratio(results: Results, drawn: str) -> float | None:
        ours = results.rounds_of("a", drawn, load)
        theirs = [found for peer in peers if (found := results.rounds_of(peer, drawn, load))]
        if not ours or not theirs:
            return None
        rounds = zip(ours, *theirs, strict=False)
        return median(figure(one) / max(map(figure, others)) for one, *others in rounds)

    return ratio


def share_of_floor(results: Results, drawn: str) -> float | None:
    return results.share("a", drawn)


def turns_growth(results: Results, drawn: str) -> float | None:
    turns = results.turns_of("a")
    return growth(turns) if len(turns) >= 4 else None


def last_turns(results: Results, drawn: str) -> float | None:
    """Time to the first text in the last three turns, over that of d."""
    rounds = list(zip(results.turns.get("a", []), results.turns.get("d", []), strict=False))
    return median(mean(ours[-3:]) / mean(theirs[-3:]) for ours, theirs in rounds) if rounds else None


def over_bare(results: Results, drawn: str) -> float | None:
    """The time that HTTP and text add, as a share of the bare engine's."""
    rounds = list(zip(results.rounds_of("a", drawn, "16"), results.bare.get(drawn, []), strict=False))
    return median(bare / ours.rate - 1 for ours, bare in rounds) if rounds else None


BEST = "1 stream, tokens/s over the best of b, c, d"
FLOOR = "1 stream, share of the speed that the memory allows"
TURNS = "first text, last two turns / first two"
OVERHEAD = "16 streams, time of HTTP and text over the bare engine"
FIRST = Rule(what="16 streams, median first text over d", ratio=over("d", "16", first), limit=0.5, above=False)
LONGEST = Rule(what="first text, last three turns over d", ratio=last_turns, limit=0.8, above=False, once=True)
RULES: dict[str, tuple[Rule, ...]] = {
    "cpu": (
        Rule(what=BEST, ratio=over("bcd", "1"), limit=1.3),
        Rule(what="4 streams, tokens/s over d", ratio=over("d", "4"), limit=1.8),
        Rule(what="16 streams, tokens/s over d", ratio=over("d", "16"), limit=1.4, aim=1.6),
        FIRST,
        Rule(what=TURNS, ratio=turns_growth, limit=1.6, above=False, once=True),
        LONGEST,
        Rule(what=OVERHEAD, ratio=over_bare, limit=0.08, above=False, percent=True),
    ),
    "cuda": (
        Rule(what="1 stream, tokens/s over b", ratio=over("b", "1"), limit=5.0),
        Rule(what=FLOOR, ratio=share_of_floor, limit=0.65, aim=0.85, percent=True),
        Rule(what="4 streams, tokens/s over d", ratio=over("d", "4"), limit=1.5),
        Rule(what="16 streams, tokens/s over d", ratio=over("d", "16"), limit=1.5),
        FIRST,
        Rule(what=TURNS, ratio=turns_growth, limit=1.3, above=False, once=True),
        Rule(what=OVERHEAD, ratio=over_bare, limit=0.05, above=False, percent=True),
    ),
}


def bars(results: Results) -> list[Bar]:
    """Every bar of this kind of device, for greedy and for sampled replies."""
    judged = []
    for rule in RULES[results.device]:
        judged += [rule.judged(results, drawn) for drawn in ((GREEDY,) if rule.once else (GREEDY, SAMPLED))]
    return judged
