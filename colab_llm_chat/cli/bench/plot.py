"""A run as a picture: tokens a second by streams, and the first text turn by turn. Needs matplotlib."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .peers import PEERS
from .results import DRAWN, GREEDY, SAMPLED, Results


def can_plot() -> bool:
    return find_spec("matplotlib") is not None


def plot(results: Results, path: Path) -> None:
    """Write the picture, of what was measured; the kind of file goes by its ending."""
    from matplotlib.figure import Figure

    measured = {how for _, how, load in results.cells if load.isdigit()}
    ways = [drawn for drawn in (GREEDY, SAMPLED) if drawn in measured] or [GREEDY]
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    parts = figure.subplots(1, len(ways) + bool(results.turns), squeeze=False)[0]
    for axes, drawn in zip(parts, ways, strict=False):
        _bars_by_streams(axes, results, drawn)
    if results.turns:
        _lines_by_turn(parts[-1], results)
    figure.suptitle(f"{results.facts.get('model', '')} · {results.facts.get('machine', '')}")
    # One for all: inside, it would cover bars.
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(PEERS))
    figure.savefig(path)


def _bars_by_streams(axes: Any, results: Results, drawn: str) -> None:
    loads = sorted({load for _, how, load in results.cells if how == drawn and load.isdigit()}, key=int)
    peers = sorted({peer for peer, how, _ in results.cells if how == drawn})
    width = 0.8 / max(len(peers), 1)
    for place, peer in enumerate(peers):
        rates = [found.rate if (found := results.of(peer, drawn, load)) else 0.0 for load in loads]
        spots = [at + place * width for at in range(len(loads))]
        axes.bar(spots, rates, width, label=results.names.get(peer, peer))
    middle = [at + 0.4 - width / 2 for at in range(len(loads))]
    axes.set_xticks(middle, loads)
    asked = ", ".join(f"{name} {value:g}" for name, value in DRAWN[drawn].items())
    axes.set(title=f"{drawn} ({asked})", xlabel="streams", ylabel="tokens/s")


def _lines_by_turn(axes: Any, results: Results) -> None:
    for peer in results.turns:
        turns = results.turns_of(peer)
        axes.plot(range(1, len(turns) + 1), turns, marker="o", label=results.names.get(peer, peer))
    axes.set(title="a conversation", xlabel="turn", ylabel="seconds to the first text", yscale="log")
