"""What a run brought: figures by peer, way of drawing and load, with what failed, as values and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from .measures import Figures, median_figures, median_turns

GREEDY, SAMPLED = "greedy", "sampled"
# How each way of drawing is asked for.
DRAWN: Mapping[str, dict[str, float]] = {
    GREEDY: {"temperature": 0.0, "top_p": 1.0},
    SAMPLED: {"temperature": 0.8, "top_p": 0.9},
}
BARE = "bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So many replies begun together; one of them may have a far longer prompt."""

    streams: int
    long: bool = False

    @property
    def name(self) -> str:
        return f"{self.streams - 1} + 1 long" if self.long else str(self.streams)


@dataclass(slots=True)
class Cell:
    """One peer under one load: a round each, or why there are none."""

    rounds: list[Figures] = field(default_factory=list)
    failure: str = ""

    @property
    def figures(self) -> Figures | None:
        return median_figures(self.rounds) if self.rounds else None


@dataclass(slots=True)
class Results:
    """All of a run. `absent` tells of peers that could not take part, `facts` of machine, model and command."""

    device: str
    cells: dict[tuple[str, str, str], Cell] = field(default_factory=dict)
    turns: dict[str, list[list[float]]] = field(default_factory=dict)
    turn_failures: dict[str, str] = field(default_factory=dict)
    bare: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    bandwidth: float = 0.0
    read_bytes: int = 0

    def cell(self, peer: str, drawn: str, load: str) -> Cell:
        return self.cells.setdefault((peer, drawn, load), Cell())

    def of(self, peer: str, drawn: str, load: str) -> Figures | None:
        """The medians of a cell, if it was measured."""
        cell = self.cells.get((peer, drawn, load))
        return cell.figures if cell else None

    def rounds_of(self, peer: str, drawn: str, load: str) -> list[Figures]:
        """The figures of a cell, round by round."""
        cell = self.cells.get((peer, drawn, load))
        return cell.rounds if cell else []

    def turns_of(self, peer: str) -> list[float]:
        """Seconds to the first text, turn by turn; none where the conversation was not held."""
        return median_turns(self.turns[peer]) if self.turns.get(peer) else []

    def bare_rate(self, drawn: str) -> float | None:
        rates = self.bare.get(drawn)
        return median(rates) if rates else None

    @property
    def floor(self) -> float:
        """The least seconds that a token of one stream takes: all weights read once. nan where it is not known."""
        return self.read_bytes / self.bandwidth if self.bandwidth else math.nan

    def share(self, peer: str, drawn: str) -> float | None:
        """How much of the floor's speed one stream reaches after its first token; more than all of it where one reading
        of the weights brings several tokens.
        """
        figures = self.of(peer, drawn, "1")
        return self.floor / figures.pace if figures and figures.pace > 0 and not math.isnan(self.floor) else None

    def to_dict(self) -> dict[str, Any]:
        cells = [
            {"peer": peer, "drawn": drawn, "load": load, "failure": cell.failure or None}
            | {"median": asdict(found) if (found := cell.figures) else None, "rounds": [asdict(r) for r in cell.rounds]}
            for (peer, drawn, load), cell in self.cells.items()
        ]
        return {
            "device": self.device,
            "facts": self.facts,
            "peers": self.names,
            "absent": self.absent,
            "floor": {
                "bytes_per_second": self.bandwidth,
                "weight_bytes": self.read_bytes,
                "seconds": self.read_bytes / (self.bandwidth or math.inf),
            },
            "cells": cells,
            "turns": {peer: {"rounds": rounds, "median": self.turns_of(peer)} for peer, rounds in self.turns.items()},
            "turn_failures": self.turn_failures,
            "bare_tokens_per_second": self.bare,
        }
