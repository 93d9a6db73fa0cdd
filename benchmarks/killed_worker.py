"""The engine process is killed during 10 streams: each is told so, and the server answers again within 10 s.

    python -m benchmarks.killed_worker

Prints what each stream got, how long the server needed, and a verdict; exit status 1 when a bar fails.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from benchmarks.server import Served, served

STREAMS = 10
ALLOWED_SECONDS = 10.0


def post(server: Served, **fields: object) -> Request:
    """A message to the server; these replies would go on for a long time."""
    body = {"message": "おはよう", "max_new_tokens": 1500, "temperature": 2.0, "top_p": 1.0, "top_k": 0, **fields}
    return Request(f"{server.url}/chat", json.dumps(body).encode(), {"Content-Type": "application/json"})


def stream_until_it_ends(server: Served, begun: Barrier) -> str:
    """Code of the error that ended the stream, or `done`."""
    with urlopen(post(server, stream=True, message="a " * 1500), timeout=60) as response:
        begun.wait()
        for raw in response:
            line = raw.decode()
            if line.startswith("data: {") and "error" in (event := json.loads(line[6:])):
                return str(event["error"]["code"])
    return "done"


def answers_again(server: Served) -> float:
    """Seconds until a message is answered."""
    began = time.perf_counter()
    while time.perf_counter() - began < 6 * ALLOWED_SECONDS:
        try:
            with urlopen(post(server, max_new_tokens=20), timeout=60) as response:
                response.read()
                return time.perf_counter() - began
        except HTTPError as error:
            error.close()
            time.sleep(0.1)
    return float("inf")


def main() -> int:
    """Exit status 1 when a stream was left without a word or the server stayed away."""
    with served() as server, ThreadPoolExecutor(STREAMS) as pool:
        begun = Barrier(STREAMS + 1)
        streams = [pool.submit(stream_until_it_ends, server, begun) for _ in range(STREAMS)]
        begun.wait()
        os.kill(server.worker_pid, signal.SIGKILL)
        seconds = answers_again(server)
        told = Counter(stream.result() for stream in streams)
    print(f"streams ended with: {dict(told)}")
    print(f"answered again after {seconds:.1f} s (bar {ALLOWED_SECONDS:.0f} s)")
    passed = told == {"engine_failed": STREAMS} and seconds <= ALLOWED_SECONDS
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
