"""A real server for benchmarks and pictures: the command `serve` in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Served:
    """Where it listens, and the ids of its two processes: web and engine."""

    port: int
    web_pid: int
    worker_pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(*flags: str) -> Iterator[Served]:
    """Start `serve` on a free port, wait until it is ready, end it."""
    command = [sys.executable, "-m", "colab_llm_chat", "serve", "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = 0
            for line in process.stdout or ():
                if found := re.match(r"http://127\.0\.0\.1:(\d+)", line):
                    port = int(found[1])
                if line.startswith("Ready"):
                    break
            else:
                raise RuntimeError(f"the server ended with code {process.wait()} before it was ready")
            yield Served(port, process.pid, psutil.Process(process.pid).children()[0].pid)
        finally:
            process.terminate()
            process.wait(30)


def memory(pid: int) -> float:
    """Resident memory of a process in MB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20
