"""The peers: which packages each needs, how it is started, and what its requests have of their own.

Knows no load and no measure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a peer is started with. `rows` is how many replies it shall generate at once, where it takes a number."""

    folder: Path
    gguf: Path | None
    device: str
    threads: int
    rows: int
    context_length: int
    port: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Peer:
    """One server. `fields` go into its requests beside those of all; `ready` answers with 200 once it can be asked."""

    letter: str
    name: str
    command: Callable[[Start], list[str]]
    ready: str = "/health"
    fields: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    pip: str = ""
    reads_gguf: bool = False

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.packages if find_spec(name) is None]


def _ours(start: Start) -> list[str]:
    flags = {
        "-m": start.folder,
        "--port": start.port,
        "--device": start.device,
        "--max-rows": start.rows,
        "--context-length": start.context_length,
        # A step may hold one whole prompt of thousands of tokens.
        "--max-message-characters": 1_000_000,
        "--top-k": 0,
    }
    return _module("colab_llm_chat", "serve", flags)


def _simplest(start: Start) -> list[str]:
    return _module(
        "colab_llm_chat.cli.bench.simplest", str(start.folder), {"--port": start.port, "--device": start.device}
    )


def _transformers(start: Start) -> list[str]:
    flags = {"--host": "127.0.0.1", "--port": start.port, "--device": start.device}
    return _module("transformers.cli.transformers", "serve", flags, str(start.folder))


def _continuous(start: Start) -> list[str]:
    # By itself it takes nearly all of a machine's memory for keys and values, and here others run beside it.
    spared = ["--cb-max-memory-percent", "0.3"] if start.device == "cpu" else []
    return [*_transformers(start), "--continuous-batching", *spared]


def _llama_cpp(start: Start) -> list[str]:
    flags = {
        "--model": start.gguf,
        "--host": "127.0.0.1",
        "--port": start.port,
        "--n_ctx": start.context_length,
        "--n_threads": start.threads,
        "--n_threads_batch": start.threads,
        # By itself it gives up a reply for the next request.
        "--interrupt_requests": "False",
        "--n_gpu_layers": -1 if start.device == "cuda" else 0,
    }
    return [sys.executable, "-m", "llama_cpp.server", *_flat(flags)]


def _module(name: str, argument: str, flags: Mapping[str, Any], *more: str) -> list[str]:
    return [sys.executable, "-m", name, argument, *more, *_flat(flags)]


def _flat(flags: Mapping[str, Any]) -> list[str]:
    return [str(part) for pair in flags.items() for part in pair]


USAGE = {"stream_options": {"include_usage": True}}
SERVING = ("fastapi", "uvicorn", "openai")
SERVING_PIP = "pip install 'transformers[serving]'"
PEERS = (
    Peer(letter="a", name="this server", command=_ours, fields={**USAGE, "ignore_eos": True, "top_k": 0}),
    Peer(letter="b", name="Flask + generate", command=_simplest),
    Peer(letter="c", name="transformers serve", command=_transformers, packages=SERVING, pip=SERVING_PIP),
    Peer(
        letter="d",
        name="transformers serve, continuous batching",
        command=_continuous,
        packages=SERVING,
        pip=SERVING_PIP,
    ),
    Peer(
        letter="e",
        name="llama-cpp-python",
        command=_llama_cpp,
        ready="/v1/models",
        fields={"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
        packages=("llama_cpp", "gguf", "uvicorn", "sse_starlette", "starlette_context"),
        pip="pip install 'llama-cpp-python[server]' gguf",
        reads_gguf=True,
    ),
)


def peer_of(letter: str) -> Peer:
    return next(peer for peer in PEERS if peer.letter == letter)
