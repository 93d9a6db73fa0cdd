"""A run as Markdown: what stands on the screen and in benchmarks/RESULTS.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .bars import bars
from .measures import Figures, growth
from .results import DRAWN, Results

HEAD = (
    *("streams", "tokens/s", "first text, ms: median", "99 %", "between texts, ms: median", "99 %"),
    *("of the floor", "memory, MB", "stolen"),
)
CUT = 160


def table(rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *body = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def report(results: Results, new_tokens: int) -> str:
    """The whole section: machine, command, tables, bars."""
    parts = [_heading(results), *(_loads(results, drawn, new_tokens) for drawn in DRAWN)]
    parts += [_turns(results), _bare(results), _bars(results)]
    return "\n\n".join(part for part in parts if part)


def _heading(results: Results) -> str:
    facts = results.facts
    lines = [f"## {facts.get('machine', '')}, {facts.get('date', '')}, {facts.get('model', '')}", ""]
    lines += [f"`{facts.get('command', '')}`: {facts.get('how', '')}"]
    lines += ["", f"- versions: {facts.get('versions', '')}"]
    if not math.isnan(results.floor):
        floor = f"{results.bandwidth / 1e9:.1f} GB/s; {results.read_bytes / 1e6:.0f} MB of weights a token"
        lines += [f"- memory: read at {floor}, so at most {1 / results.floor:.1f} tokens/s with one stream"]
    lines += ["- stolen: the share of the processors' time that other machines on the same host took"]
    lines += [f"- {letter}: {name}" for letter, name in results.names.items()]
    lines += [f"- {letter} did not take part: {why}" for letter, why in results.absent.items()]
    return "\n".join(lines)


def _loads(results: Results, drawn: str, new_tokens: int) -> str:
    rows: list[tuple[str, ...]] = [("peer", *HEAD)]
    for (peer, how, load), cell in results.cells.items():
        if how != drawn:
            continue
        figures = cell.figures
        share = results.share(peer, drawn) if load == "1" else None
        if figures is None:
            rows.append((peer, load, f"failed: {cell.failure[:CUT]}", *[""] * 7))
        else:
            rest = (_percent(share), f"{figures.memory:.0f}", _percent(figures.stolen))
            rows.append((peer, load, *_numbers(figures, new_tokens), *rest))
    # Loads side by side, not peers.
    rows[1:] = sorted(rows[1:], key=lambda row: ("+" in row[1], int(row[1].split()[0]), row[0]))
    asked = ", ".join(f"{name} {value:g}" for name, value in DRAWN[drawn].items())
    return f"{drawn.capitalize()} ({asked}):\n\n{table(rows)}" if len(rows) > 1 else ""


def _numbers(figures: Figures, new_tokens: int) -> list[str]:
    fewer = "" if figures.tokens >= new_tokens else f" (a reply of {figures.tokens:.0f})"
    times = (figures.first, figures.first_p99, figures.gap, figures.gap_p99)
    return [f"{figures.rate:.1f}{fewer}", *(_milliseconds(seconds) for seconds in times)]


def _turns(results: Results) -> str:
    held = {peer: results.turns_of(peer) for peer in results.turns}
    if not held and not results.turn_failures:
        return ""
    count = max(map(len, held.values()), default=0)
    rows: list[tuple[str, ...]] = [("peer", *(str(at) for at in range(1, count + 1)), "last two / first two")]
    rows += [
        (peer, *map(_milliseconds, turns), f"{growth(turns):.2f}" if len(turns) >= 4 else "")
        for peer, turns in held.items()
    ]
    failed = [f"{peer}: {why[:CUT]}" for peer, why in results.turn_failures.items()]
    return "\n\n".join(["A conversation, ms to the first text of each turn:", table(rows), *failed])


def _bare(results: Results) -> str:
    rates = [f"{rate:.1f} tokens/s {drawn}" for drawn in results.bare if (rate := results.bare_rate(drawn))]
    return f"The engine alone, without HTTP and text, 16 streams: {', '.join(rates)}." if rates else ""


def _bars(results: Results) -> str:
    rows = [("bar", "wanted", "measured", "")]
    for bar in bars(results):
        shown = "" if bar.value is None else _percent(bar.value) if "%" in bar.wanted else f"{bar.value:.2f}"
        rows.append((bar.what, bar.wanted, shown, bar.told))
    return table(rows)


def _milliseconds(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{1000 * seconds:.0f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
