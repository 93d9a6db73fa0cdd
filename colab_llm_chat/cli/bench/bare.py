"""`python -m colab_llm_chat.cli.bench.bare FOLDER ROWS CONTEXT DEVICE`: the engine alone, without HTTP and text.

A JSON line in is a load (`prompts` as ids, `max_tokens`, `sampling`), a JSON line out how long it took.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...chat.client import ENGINE_ENVIRONMENT
from ...errors import ChatError
from ...models.hardware import keep_freed_memory
from ...settings import SamplingParams, Settings, TokenRules

if TYPE_CHECKING:
    from ...engine.loop import Engine


def make_engine(folder: Path, rows: int, context_length: int, *, device: str) -> Engine:
    """The engine as the worker makes it."""
    keep_freed_memory()
    from ...engine.loop import Engine
    from ...models.choose import choose_runner
    from ...models.hardware import free_bytes
    from ...models.load import load_model
    from ...worker import KV_SHARE

    model = load_model(folder, settings=Settings(device=device)).model
    runner = choose_runner(model, context_length=context_length)
    kv_bytes = int(KV_SHARE[model.device.type] * free_bytes(model.device))
    return Engine(runner, max_rows=rows, context_length=context_length, kv_bytes=kv_bytes)


def run(engine: Engine, load: dict[str, Any], first_id: int) -> dict[str, float]:
    """Seconds and tokens of one load."""
    from ...engine.sequence import Sequence

    drawn = SamplingParams(**load["sampling"], max_new_tokens=load["max_tokens"])
    began = time.perf_counter()
    for at, ids in enumerate(load["prompts"]):
        engine.submit(Sequence(first_id + at, ids, drawn, rules=TokenRules(ignore_eos=True)))
    tokens = 0
    while engine.busy:
        report = engine.step()
        tokens += len(report.tokens)
        if report.failed:
            raise report.failed[0][1]
    return {"seconds": time.perf_counter() - began, "tokens": tokens}


class BareEngine:
    """The same, in a process of its own, asked from here."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def rate(self, load: Mapping[str, Any]) -> float:
        """Tokens a second. Raises ChatError when the process has ended."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ChatError("the bare engine has no pipes")
        try:
            self._process.stdin.write(json.dumps(load) + "\n")
            self._process.stdin.flush()
            told = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            raise ChatError(f"the bare engine ended with code {self._process.wait()}") from None
        return float(told["tokens"] / told["seconds"])


@contextlib.contextmanager
def bare_engine(arguments: list[str], environment: Mapping[str, str], log: Path) -> Iterator[BareEngine]:
    command = [sys.executable, "-m", __name__, *arguments]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env={**ENGINE_ENVIRONMENT, **environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        )  # fmt: skip
    with process:
        try:
            yield BareEngine(process)
        finally:
            process.kill()


def main() -> None:
    """Serve one parent until its pipe closes."""
    folder, rows, context_length, device = sys.argv[1:]
    # Libraries print; one stray line on the pipe would be read as a result.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = make_engine(Path(folder), int(rows), int(context_length), device=device)
    for number, line in enumerate(sys.stdin):
        print(json.dumps(run(engine, json.loads(line), 1000 * number)), file=output, flush=True)


if __name__ == "__main__":
    main()
