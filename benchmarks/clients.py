"""100 clients streaming at once against a real server: every reply completes, memory stays flat.

    python -m benchmarks.clients [--clients 100] [--rounds 10]

Prints a row a round and a verdict; exit status 1 when a bar fails.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median, quantiles
from threading import Barrier

from benchmarks.server import Served, memory, served

# The web process's threads and the allocator reach their full size over the first thousand requests.
WARM_UP_ROUNDS = 10
ALLOWED_GROWTH = 0.05
LINES = ("おはよう！", "（顎を撫でる）", "Good night, kitty.", "お手", "ごはんだよ", "What is the capital of France?")


@dataclass
class Timing:
    """One client's reply: seconds to the first text and to the end, tokens, and what went wrong."""

    first: float = 0.0
    total: float = 0.0
    tokens: int = 0
    failure: str = ""


def stream_once(url: Served, number: int, together: Barrier) -> Timing:
    """Post one message and read its stream to the end."""
    timing = Timing()
    history = [{"role": "user", "content": "こんにちは"}, {"role": "assistant", "content": "ﾆｬｰ"}] * (number % 20)
    body = json.dumps({"message": LINES[number % len(LINES)], "conversationHistory": history, "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=300)
    together.wait()
    began = time.perf_counter()
    connection.request("POST", "/chat", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    done = False
    for raw in response:
        line = raw.decode()
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        if "delta" in event and not timing.first:
            timing.first = time.perf_counter() - began
        if "error" in event:
            timing.failure = event["error"]["code"]
        if event.get("done"):
            done, timing.tokens = True, event["usage"]["completion_tokens"]
    timing.total = time.perf_counter() - began
    if response.status != 200 or not done:
        timing.failure = timing.failure or f"status {response.status}, done {done}"
    connection.close()
    return timing


def run_round(server: Served, clients: int) -> list[Timing]:
    """All clients start together."""
    together = Barrier(clients)
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda number: stream_once(server, number, together), range(clients)))


def main() -> int:
    """Exit status 1 when a client failed or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    failures: list[str] = []
    measured: list[list[Timing]] = []
    sizes: list[tuple[float, float]] = []
    with served() as server:
        for number in range(WARM_UP_ROUNDS + options.rounds):
            timings = run_round(server, options.clients)
            failures += [timing.failure for timing in timings if timing.failure]
            measured.append(timings)
            sizes.append((memory(server.web_pid), memory(server.worker_pid)))
            print(row(number, timings, sizes[-1]), flush=True)
    base, last = sizes[WARM_UP_ROUNDS - 1], sizes[-1]
    growth = max(after / before - 1 for before, after in zip(base, last, strict=True))
    flat = growth <= ALLOWED_GROWTH
    total = options.clients * len(sizes)
    print(summary(measured))
    print(f"completed: {total - len(failures)} of {total} {sorted(set(failures)) or ''}")
    print(f"memory after warm-up to end: {growth:+.1%} (bar {ALLOWED_GROWTH:+.0%})")
    passed = flat and not failures
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


def row(number: int, timings: list[Timing], sizes: tuple[float, float]) -> str:
    """One round in a line."""
    firsts = [1000 * timing.first for timing in timings]
    longest = max(timing.total for timing in timings)
    rate = sum(timing.tokens for timing in timings) / longest
    return (
        f"round {number}: first text p50 {median(firsts):.0f} ms, p95 {quantiles(firsts, n=20)[-1]:.0f} ms; "
        f"all done {longest:.2f} s, {rate:.0f} tokens/s; memory web {sizes[0]:.0f} MB, engine {sizes[1]:.0f} MB"
    )


def summary(rounds: list[list[Timing]]) -> str:
    """Medians over the rounds."""
    firsts = [[1000 * timing.first for timing in timings] for timings in rounds]
    longest = [max(timing.total for timing in timings) for timings in rounds]
    rates = [sum(t.tokens for t in timings) / end for timings, end in zip(rounds, longest, strict=True)]
    return (
        f"medians of {len(rounds)} rounds: first text p50 {median(map(median, firsts)):.0f} ms, "
        f"p95 {median(quantiles(times, n=20)[-1] for times in firsts):.0f} ms; "
        f"all done {median(longest):.2f} s, {median(rates):.0f} tokens/s"
    )


if __name__ == "__main__":
    sys.exit(main())
