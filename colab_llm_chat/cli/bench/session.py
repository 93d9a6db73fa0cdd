"""One run: every peer started, warmed up and measured, round by round; what fails fails alone.

Knows neither options nor tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ChatError
from . import prompts
from .bare import bare_engine
from .load import Body, run_load, run_turns
from .measures import figures
from .peers import Peer, Start
from .processes import MemoryWatch, Served, StolenTime, free_port, started, wait_until_ready
from .results import DRAWN, GREEDY, Load, Results

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WARM_UP_TOKENS = 4
LINE_TOKENS = 120
BARE_STREAMS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how. `together` keeps all peers running, so that noise meets them alike."""

    peers: tuple[Peer, ...]
    loads: tuple[Load, ...]
    drawn: tuple[str, ...]
    rounds: int
    prompt_tokens: int
    new_tokens: int
    long_tokens: int
    turns: int
    device: str
    threads: int
    wait: float
    context_length: int
    folder: Path
    gguf: Path | None
    logs: Path

    @property
    def together(self) -> bool:
        return self.device == "cpu"

    @property
    def rows(self) -> int:
        return max(16, *(load.streams for load in self.loads))

    @property
    def environment(self) -> dict[str, str]:
        """The same number of threads for all."""
        counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        return {**os.environ, **dict.fromkeys(counts, str(self.threads)), **offline}


class Session:
    """A plan at work. `tell` gets a line for each thing that is done."""

    def __init__(
        self, plan: Plan, tokenizer: PreTrainedTokenizerBase, results: Results, *, tell: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._tokenizer = tokenizer
        self._results = results
        self._tell = tell

    def run(self) -> None:
        """Fill the results."""
        plan = self._plan
        groups = [plan.peers] if plan.together else [(peer,) for peer in plan.peers]
        for drawn in plan.drawn:
            for group in groups:
                self._measure_group(group, drawn)

    def _measure_group(self, group: tuple[Peer, ...], drawn: str) -> None:
        # Started anew for each way of drawing: d draws all replies as its first request asks.
        with ExitStack() as stack:
            loading = {peer: self._start(stack, peer, drawn) for peer in group}
            servers = {peer: server for peer, server in loading.items() if self._warmed_up(peer, server, drawn)}
            for number in range(self._plan.rounds):
                self._measure_round(servers, drawn, number)
        if group[0].letter == "a" and not self._plan.together:
            for number in range(self._plan.rounds):
                self._measure_bare(drawn, number)

    def _measure_round(self, servers: Mapping[Peer, Served], drawn: str, number: int) -> None:
        for load in self._plan.loads:
            for peer, server in servers.items():
                self._measure(peer, server, drawn=drawn, load=load, number=number)
        if drawn == GREEDY and self._plan.turns:
            for peer, server in servers.items():
                self._converse(peer, server, number)
        # In the same round, so that the same noise meets it.
        if self._plan.together and any(peer.letter == "a" for peer in servers):
            self._measure_bare(drawn, number)

    def _start(self, stack: ExitStack, peer: Peer, drawn: str) -> Served:
        plan = self._plan
        start = Start(
            folder=plan.folder,
            gguf=plan.gguf,
            device=plan.device,
            threads=plan.threads,
            rows=plan.rows,
            context_length=plan.context_length,
            port=free_port(),
        )
        self._tell(f"starting {peer.letter}: {peer.name}")
        log = plan.logs / f"{peer.letter}-{drawn}.log"
        process = stack.enter_context(started(peer.command(start), plan.environment, log))
        return Served(f"http://127.0.0.1:{start.port}", process, log)

    def _warmed_up(self, peer: Peer, server: Served, drawn: str) -> bool:
        """Ready, and asked once with each load's streams; False where that failed."""
        plan = self._plan
        try:
            wait_until_ready(server, peer.ready, seconds=plan.wait)
            for streams in sorted({1, *(load.streams for load in plan.loads)}):
                bodies = self._bodies(peer, drawn, Load(streams=streams), number=-1)
                short = [{**body, "max_tokens": WARM_UP_TOKENS} for body in bodies]
                _raise_failures(run_load(server.url, short, timeout=plan.wait)[0])
        except ChatError as error:
            self._tell(f"{peer.letter}: {error.message}")
            for load in plan.loads:
                self._results.cell(peer.letter, drawn, load.name).failure = error.message
            return False
        return True

    def _measure(self, peer: Peer, server: Served, *, drawn: str, load: Load, number: int) -> None:
        bodies = list(self._bodies(peer, drawn, load, number=number))
        with MemoryWatch(server.process.pid, device=self._plan.device) as memory, StolenTime() as stolen:
            replies, wall = run_load(server.url, bodies, timeout=self._plan.wait)
        cell = self._results.cell(peer.letter, drawn, load.name)
        try:
            _raise_failures(replies)
        except ChatError as error:
            cell.failure = error.message
            self._tell(f"round {number + 1}, {drawn}, {load.name} streams, {peer.letter}: {error.message}")
            return
        short = load.streams - 1 if load.long else None
        cell.rounds.append(figures(replies, wall=wall, memory=memory.peak, stolen=stolen.share, short=short))
        told = f"{cell.rounds[-1].rate:.1f} tokens/s, first text {cell.rounds[-1].first:.2f} s"
        self._tell(f"round {number + 1}, {drawn}, {load.name} streams, {peer.letter}: {told}{_lost(stolen)}")

    def _converse(self, peer: Peer, server: Served, number: int) -> None:
        lines = [prompts.letters(f"turn {number} {at}", LINE_TOKENS) for at in range(self._plan.turns)]
        body = {**self._body(peer, GREEDY), "messages": []}
        replies = run_turns(server.url, body, lines, timeout=self._plan.wait)
        try:
            _raise_failures(replies)
        except ChatError as error:
            self._results.turn_failures[peer.letter] = error.message
            return
        firsts = [reply.first for reply in replies]
        self._results.turns.setdefault(peer.letter, []).append(firsts)
        self._tell(f"round {number + 1}, conversation, {peer.letter}: " + " ".join(f"{one:.2f}" for one in firsts))

    def _measure_bare(self, drawn: str, number: int) -> None:
        """The load of 16 streams by the engine alone."""
        plan = self._plan
        load = Load(streams=BARE_STREAMS)
        if load not in plan.loads:
            return
        arguments = [str(plan.folder), str(plan.rows), str(plan.context_length), plan.device]
        try:
            with bare_engine(arguments, plan.environment, plan.logs / "bare.log") as engine:
                engine.rate(self._ids(drawn, load, number=-1, new_tokens=WARM_UP_TOKENS))
                with StolenTime() as stolen:
                    rate = engine.rate(self._ids(drawn, load, number=number, new_tokens=plan.new_tokens))
        except ChatError as error:
            self._tell(error.message)
            return
        self._results.bare.setdefault(drawn, []).append(rate)
        self._tell(f"round {number + 1}, {drawn}, 16 streams, the engine alone: {rate:.1f} tokens/s{_lost(stolen)}")

    def _ids(self, drawn: str, load: Load, *, number: int, new_tokens: int) -> dict[str, Any]:
        asked = [prompts.prompt_ids(self._tokenizer, messages) for messages in self._messages(load, number)]
        return {"prompts": asked, "max_tokens": new_tokens, "sampling": {**DRAWN[drawn], "top_k": 0}}

    def _bodies(self, peer: Peer, drawn: str, load: Load, *, number: int) -> Iterator[Body]:
        for messages in self._messages(load, number):
            yield {**self._body(peer, drawn), "messages": messages}

    def _body(self, peer: Peer, drawn: str) -> Body:
        # c and d take no other name than the one they were started with.
        named = {"model": str(self._plan.folder), "max_tokens": self._plan.new_tokens, "stream": True}
        return {**named, **DRAWN[drawn], **peer.fields}

    def _messages(self, load: Load, number: int) -> Iterator[list[prompts.Message]]:
        for at in range(load.streams):
            long = load.long and at == load.streams - 1
            tokens = self._plan.long_tokens if long else self._plan.prompt_tokens
            yield prompts.message_of(self._tokenizer, f"{load.name} {number} {at}", tokens)


def _lost(stolen: StolenTime) -> str:
    return f", {stolen.share:.0%} of the time stolen" if stolen.share >= 0.01 else ""


def _raise_failures(replies: list[Any]) -> None:
    failures = [reply.failure or "a reply without text" for reply in replies if reply.failure or not reply.texts]
    if failures:
        raise ChatError(f"{len(failures)} of {len(replies)} replies failed: {failures[0]}")
