"""A conversation of 8 turns, with what came before known and unknown; replies beside title calls or a long prompt.

    python -m benchmarks.turns [--reply 32] [--pairs 5]

A random Llama of 125 M parameters, made on the spot. In the conversation that shares nothing each turn
begins with another first line, as a system prompt with the time of day does. Prints tables of ratios within this run.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

from benchmarks.server import Served, served
from colab_llm_chat.cli.bench.measures import growth
from colab_llm_chat.cli.bench.models import SHAPES, make_model
from colab_llm_chat.cli.bench.prompts import letters

TURNS = 8
MESSAGE = 120
TITLE_CALLS = 3
LONG = 4000
LINES = ("おはよう！", "おいで", "お手", "ごはんだよ", "いい子だね", "散歩に行こうか", "眠いの？", "おやすみ")
Message = dict[str, str]


@dataclass
class Streamed:
    """One reply: seconds to its first text and from there to its last, its text, its usage, and when texts came."""

    first: float = 0.0
    rest: float = 0.0
    text: str = ""
    prompt: int = 0
    cached: int = 0
    times: list[float] = field(default_factory=list)


def stream(server: Served, messages: list[Message], reply: int, **fields: object) -> Streamed:
    """Post a conversation to the OpenAI door and read its stream to the end."""
    body = {
        "model": "any", "messages": messages, "max_tokens": reply, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, "ignore_eos": True, **fields,
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    began, got = time.perf_counter(), Streamed()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    for raw in connection.getresponse():
        if not raw.startswith(b"data: {"):
            continue
        event = json.loads(raw[6:])
        if "error" in event:
            raise RuntimeError(event["error"]["message"])
        text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        if text and not got.text:
            got.first = time.perf_counter() - began
        got.text += text
        got.times += [time.perf_counter()] if text else []
        if usage := event.get("usage"):
            got.prompt, got.cached = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
    connection.close()
    got.rest = time.perf_counter() - began - got.first
    return got


def conversation(server: Served, lines: list[str], reply: int, *, shared: bool) -> list[Streamed]:
    """Each turn brings all before it along; unless it is `shared`, the first line differs from turn to turn."""
    turns: list[Message] = []
    results = []
    for at, line in enumerate(lines):
        first = {"role": "system", "content": letters("shared" if shared else f"unshared {at}", 20)}
        turns.append({"role": "user", "content": line})
        results.append(stream(server, [first, *turns], reply))
        turns.append({"role": "assistant", "content": results[-1].text})
    return results


def firsts(results: list[Streamed]) -> list[float]:
    return [one.first for one in results]


def slowed(server: Served, reply: int, pairs: int) -> list[float]:
    """A reply's time from its first text on, with title calls sent beside it, over the same without; pair by pair."""
    ratios = []
    for at in range(pairs):
        asked = [{"role": "user", "content": letters(f"asked {at}", MESSAGE)}]
        quiet = stream(server, asked, 4 * reply)
        with ThreadPoolExecutor(TITLE_CALLS + 1) as pool:
            beside = pool.submit(stream, server, asked, 4 * reply)
            for call in range(TITLE_CALLS):
                title = [{"role": "user", "content": letters(f"title {at} {call}", MESSAGE)}]
                pool.submit(stream, server, title, 12, priority="background")
            ratios.append(beside.result().rest / quiet.rest)
    return ratios


def gaps(server: Served, readers: int = 3, reply: int = 250) -> tuple[float, float]:
    """Time between texts of replies while a prompt of LONG tokens is read: median and 99 %, over the median after.

    Drawn at random, for greedy text of random weights goes in circles, and several of its tokens come at once.
    """
    with ThreadPoolExecutor(readers + 1) as pool:
        asked = [[{"role": "user", "content": letters(f"reader {at}", MESSAGE)}] for at in range(readers)]
        replies = [pool.submit(stream, server, one, reply, temperature=0.8, top_p=0.9) for one in asked]
        began = time.perf_counter()
        long = pool.submit(stream, server, [{"role": "user", "content": letters("long", LONG)}], 1).result()
        streams = [one.result().times for one in replies]
    end = began + long.first
    # From when all of them read.
    start = max(times[0] for times in streams)
    during = [later - one for times in streams for one, later in pairwise(times) if start <= one and later <= end]
    after = [later - one for times in streams for one, later in pairwise(times) if one > end]
    if len(after) < readers:
        # The long prompt took longer to read than the replies to write.
        return gaps(server, readers, 2 * reply)
    return median(during) / median(after), quantiles(during, n=100)[98] / median(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reply", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), SHAPES["125m"], device="cpu")
        with served("-m", str(Path(folder))) as server:
            stream(server, [{"role": "user", "content": letters("warm-up", MESSAGE)}], options.reply)
            lines = [letters(f"line {at}", MESSAGE) for at in range(TURNS)]
            known = conversation(server, lines, options.reply, shared=True)
            unknown = conversation(server, lines, options.reply, shared=False)
            ratios = slowed(server, options.reply, options.pairs)
            middle, most = gaps(server)
    print("| turn | prompt tokens | reused | first text, ms | sharing nothing, ms |\n| --- | --- | --- | --- | --- |")
    for at, (one, other) in enumerate(zip(known, unknown, strict=True), 1):
        print(f"| {at} | {one.prompt} | {one.cached} | {1000 * one.first:.0f} | {1000 * other.first:.0f} |")
    print(f"last two turns / first two: {growth(firsts(known)):.2f}; sharing nothing: {growth(firsts(unknown)):.2f}")
    print(f"a reply with {TITLE_CALLS} title calls beside it / without: median {median(ratios):.2f} of {len(ratios)}")
    print(f"time between texts while {LONG} tokens are read / after: median {middle:.2f}, 99 % {most:.2f}")
    with served() as server:
        cat = conversation(server, list(LINES), options.reply, shared=True)
    print("bundled demo model, reused of prompt tokens:", ", ".join(f"{one.cached}/{one.prompt}" for one in cat))


if __name__ == "__main__":
    main()
