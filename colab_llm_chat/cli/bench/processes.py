"""A server in a process of its own: started, waited for, watched, ended with all that it started.

Knows no peer and no load.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psutil

from ...errors import ChatError

CHECK_SECONDS = 0.1
END_SECONDS = 10.0
SHOWN = 300


@dataclass(frozen=True, slots=True)
class Served:
    """Where a peer listens, the process that leads its others, and what they say."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """An interrupt in here takes effect at the end: in the midst of a start it would lose the new process."""
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


@contextlib.contextmanager
def started(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process and its children, which all end here; what they say goes to `log`."""
    with contextlib.ExitStack() as ending, log.open("wb") as output:
        with held_back():
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A session of its own: an interrupt reaches it and what it starts through here only.
                start_new_session=True,
            )
            ending.callback(end, process)
        yield process


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, then make it and all that it started, also while it was ending."""
    family: set[psutil.Process] = set()
    deadline = time.monotonic() + END_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process.pid)
        family |= set(leader.children(recursive=True))
        process.terminate()
        while process.poll() is None and time.monotonic() < deadline:
            family |= set(leader.children(recursive=True))
            time.sleep(CHECK_SECONDS / 10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for left in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.wait()
    psutil.wait_procs(list(family), timeout=END_SECONDS)


def wait_until_ready(server: Served, path: str, *, seconds: float) -> None:
    """Until this path answers with 200, and does not say that it is loading. Raises ChatError."""
    deadline = time.monotonic() + seconds
    while not answers(server.url + path):
        if server.process.poll() is not None:
            code = server.process.returncode
            raise ChatError(f"ended with code {code} before it was ready: {last_words(server.log)}")
        if time.monotonic() > deadline:
            raise ChatError(
                f"not ready after {seconds:.0f} s: {last_words(server.log)}", hint="Give it more by --wait."
            )
        time.sleep(CHECK_SECONDS)


def answers(url: str) -> bool:
    """Raises ChatError where the server says that it failed."""
    try:
        with urlopen(url, timeout=10) as response:
            told = json.load(response)
    except (HTTPError, URLError, OSError, ValueError):
        return False
    state = told.get("status", "ok")
    if state == "failed":
        raise ChatError(f"failed to load: {told.get('error', told)}")
    return bool(state == "ok")


def last_words(log: Path) -> str:
    """What a server said last; where it told of an error, that."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it said nothing"])[-1][:SHOWN]


class StolenTime:
    """The share of the processors' time that other machines on the same host took while this was entered.

    0 where the system does not tell.
    """

    def __init__(self) -> None:
        self.share = 0.0

    def __enter__(self) -> StolenTime:
        self._before = psutil.cpu_times()
        return self

    def __exit__(self, *_: object) -> None:
        # Guests count among the user's time, and so once already.
        names = [name for name in self._before._fields if not name.startswith("guest")]
        after = psutil.cpu_times()
        passed = {name: getattr(after, name) - getattr(self._before, name) for name in names}
        whole = sum(passed.values())
        self.share = passed.get("steal", 0.0) / whole if whole else 0.0


class MemoryWatch:
    """The most memory in MB that a process and its children held while this was entered: on a GPU, the device's."""

    def __init__(self, pid: int, *, device: str) -> None:
        self._pid = pid
        self._read = self._of_device if device == "cuda" else self._of_processes
        self._ended = threading.Event()
        self.peak = 0.0

    def __enter__(self) -> MemoryWatch:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._read())
            if self._ended.wait(5 * CHECK_SECONDS):
                return

    def _of_processes(self) -> float:
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(self._pid)
            for process in (leader, *leader.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
        return total / 2**20

    def _of_device(self) -> float:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return float("nan")
        return float(told.split()[0])
