"""The command `bench`: its options, and what they come to. Loads torch only once it measures."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError
from .peers import PEERS, Peer, peer_of
from .results import DRAWN, GREEDY, Load, Results
from .session import Plan, Session

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MADE = ("125m", "8b", "tiny")
STREAMS = {"cpu": (1, 4, 16), "cuda": (1, 4, 16, 64)}
LONG_STREAMS = 16
# What a quick run asks for where nothing else is said.
QUICK: dict[str, Any] = {
    "rounds": 1,
    "streams": (1, 4),
    "new_tokens": 16,
    "long_tokens": 0,
    "turns": 2,
    "drawn": (GREEDY,),
}
FULL: dict[str, Any] = {"rounds": 3, "new_tokens": 64, "long_tokens": 8000, "turns": 8, "drawn": tuple(DRAWN)}
# Of a conversation's turn, beside its reply; with what the template adds.
TURN_TOKENS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options, checked one by one."""

    model: str | None
    peers: tuple[str, ...]
    streams: tuple[int, ...] | None
    drawn: tuple[str, ...] | None
    rounds: int | None
    prompt_tokens: int
    new_tokens: int | None
    long_tokens: int | None
    turns: int | None
    device: str
    threads: int | None
    wait: float
    gguf: Path | None
    quick: bool
    json_file: Path | None
    plot_file: Path | None

    def get(self, name: str, device: str) -> Any:
        """What was asked for, else what this kind of run takes."""
        given = getattr(self, name)
        if given is not None:
            return given
        if self.quick and name in QUICK:
            return QUICK[name]
        return STREAMS[device] if name == "streams" else FULL[name]


def _letters(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    known = [peer.letter for peer in PEERS]
    given = [letter.strip() for letter in value.split(",")]
    if unknown := [letter for letter in given if letter not in known]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}.")
    return tuple(letter for letter in known if letter in given)


def _counts(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    given = [one.strip() for one in value.split(",")]
    if wrong := [one for one in given if not one.isdecimal() or not 1 <= int(one) <= 256]:
        raise click.BadParameter(f"{wrong[0]!r} is no number from 1 to 256.")
    return tuple(sorted({int(one) for one in given}))


def _writable(context: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {str(value.parent)!r} does not exist.")
    return value


def _ways(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else ((value,) if value in DRAWN else tuple(DRAWN))


PATH = click.Path(path_type=Path, dir_okay=False)
FOUND = click.Path(path_type=Path, dir_okay=False, exists=True)
PEER_HELP = "; ".join(f"{peer.letter}: {peer.name}" for peer in PEERS)


@click.command()
@click.option("-m", "--model", help="125m or 8b (random weights made now), a folder or a Hub id. [default: by device]")
@click.option("--peers", default="a,b,c,d,e", show_default=True, callback=_letters, help=PEER_HELP + ".")
@click.option("--streams", callback=_counts, help="Replies at once. [default: 1,4,16, on CUDA also 64]")
@click.option("--drawn", type=click.Choice([*DRAWN, "both"]), callback=_ways, help="How tokens are. [default: both]")
@click.option("--rounds", type=click.IntRange(1, 99), help="Medians are of so many. [default: 3]")
@click.option("--prompt-tokens", type=click.IntRange(32), default=180, show_default=True, help="Of each prompt.")
@click.option("--new-tokens", type=click.IntRange(2), help="Of each reply. [default: 64]")
@click.option(
    "--long-tokens", type=click.IntRange(0), help="Prompt of one row among 15 others; 0: none. [default: 8000]"
)
@click.option("--turns", type=click.IntRange(0), help="Of the conversation; 0: none. [default: 8]")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="For all."
)
@click.option("--threads", type=click.IntRange(1), help="Of each program on the CPU. [default: its cores]")
@click.option(
    "--wait", type=click.FloatRange(1), default=900.0, show_default=True, help="Seconds for a start or a reply."
)
@click.option("--gguf", type=FOUND, help="The same weights for peer e; made here for models made here.")
@click.option("--quick", is_flag=True, help="One small pass.")
@click.option("--json", "json_file", type=PATH, callback=_writable, help="Write all figures there.")
@click.option("--plot", "plot_file", type=PATH, callback=_writable, help="Draw them there; needs matplotlib.")
def bench(**options: Any) -> None:
    """Measure this server beside other programs on one model, and print the table."""
    asked = Asked(**options)
    # Ended like an interrupt, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run(asked, Path(folder))


def run(asked: Asked, scratch: Path) -> None:
    """Measure, print the report, write the files."""
    from .floor import bandwidth
    from .machine import facts, find_device
    from .plot import can_plot, plot
    from .table import report

    device = find_device(asked.device)
    plan, tokenizer, results = prepare(asked, scratch, device)
    results.facts = facts(plan, asked.model or default_model(device), sys.argv[1:])
    results.bandwidth = bandwidth(device, plan.environment)
    try:
        Session(plan, tokenizer, results, tell=say).run()
    except KeyboardInterrupt:
        click.echo(report(results, plan.new_tokens))
        raise
    # Once more: on a machine that others use too, one reading may be slow.
    results.bandwidth = max(results.bandwidth, bandwidth(device, plan.environment))
    click.echo(report(results, plan.new_tokens))
    if asked.json_file:
        asked.json_file.write_text(json.dumps(results.to_dict(), indent=1), encoding="utf-8")
    if asked.plot_file and not can_plot():
        say("No plot: matplotlib is not installed (pip install matplotlib).")
    elif asked.plot_file:
        plot(results, asked.plot_file)


def prepare(asked: Asked, scratch: Path, device: str) -> tuple[Plan, PreTrainedTokenizerBase, Results]:
    """The model on disk, and what is to be done with it. Raises UsageError where that does not fit together."""
    from ...models.load import load_tokenizer
    from .machine import threads_of
    from .models import read_bytes

    new_tokens, long_tokens = asked.get("new_tokens", device), asked.get("long_tokens", device)
    folder = fetch(asked.model or default_model(device), scratch, device)
    peers, absent = present([peer_of(letter) for letter in asked.peers], made=folder == scratch / "made", asked=asked)
    needed = (asked.prompt_tokens, long_tokens, asked.get("turns", device) * (TURN_TOKENS + new_tokens))
    loads = [Load(streams=streams) for streams in asked.get("streams", device)]
    plan = Plan(
        peers=peers,
        loads=(*loads, *([Load(streams=LONG_STREAMS, long=True)] if long_tokens else [])),
        drawn=asked.get("drawn", device),
        rounds=asked.get("rounds", device),
        prompt_tokens=asked.prompt_tokens,
        new_tokens=new_tokens,
        long_tokens=long_tokens,
        turns=asked.get("turns", device),
        device=device,
        threads=asked.threads or threads_of(device),
        wait=asked.wait,
        context_length=window(folder, max(needed) + new_tokens),
        folder=folder,
        gguf=gguf_of(peers, folder, asked, scratch=scratch),
        logs=scratch,
    )
    results = Results(device, absent=absent, names={peer.letter: peer.name for peer in peers})
    results.read_bytes = read_bytes(folder)
    return plan, load_tokenizer(folder, trust_remote_code=False), results


def default_model(device: str) -> str:
    return "8b" if device == "cuda" else "125m"


def fetch(model: str, scratch: Path, device: str) -> Path:
    """The model's folder: made now, or a copy by links of the one that was named, which never ends a reply."""
    import subprocess

    from ...models.hub import fetch_model
    from ...settings import Settings
    from .models import endless

    if model in MADE:
        say(f"making {model}")
        command = [sys.executable, "-m", "colab_llm_chat.cli.bench.models", str(scratch / "made"), model, device]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return scratch / "made"
    (scratch / "model").mkdir()
    endless(fetch_model(Settings(model_id=model)).folder, scratch / "model")
    return scratch / "model"


def present(peers: list[Peer], *, made: bool, asked: Asked) -> tuple[tuple[Peer, ...], dict[str, str]]:
    """The peers that can take part, and why the others cannot."""
    absent = {peer.letter: f"not installed: {peer.pip}" for peer in peers if peer.missing()}
    for peer in peers:
        if peer.reads_gguf and not made and asked.gguf is None:
            absent.setdefault(peer.letter, "it needs the weights as GGUF: --gguf FILE")
    return tuple(peer for peer in peers if peer.letter not in absent), absent


def gguf_of(peers: tuple[Peer, ...], folder: Path, asked: Asked, *, scratch: Path) -> Path | None:
    """The file that a peer needs, made now unless it was given."""
    if asked.gguf or not any(peer.reads_gguf for peer in peers):
        return asked.gguf
    from .gguf_file import write_gguf

    write_gguf(folder, scratch / "model.gguf")
    return scratch / "model.gguf"


def window(folder: Path, needed: int) -> int:
    """The context for all peers, in whole thousands. Raises UsageError where the model's own is too short."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    longest = (config.get("text_config") or config).get("max_position_embeddings") or needed
    if needed > longest:
        raise UsageError(
            f"The loads need {needed} tokens of context, and the model has {longest}.",
            hint="Ask for fewer by --long-tokens, --turns, --prompt-tokens or --new-tokens.",
        )
    return int(min(longest, -(-needed // 1024) * 1024))


def say(line: str) -> None:
    click.echo(line, err=True)
