"""Linear layers on the CPU: plain against our own kernel and weights packed by oneDNN and by MKL, in turns, as ratios.

    python -m benchmarks.linears [--dtype float32] [--threads 2] [--seconds 2] [--shapes 768x768,768x2048]

Each call reads another copy of its weight, so that none lies in a cache. A figure is the tenth fastest of a hundred
calls: on a busy machine most calls wait for other programs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from colab_llm_chat.models.native.kernels import load_kernels

# Inputs x outputs: a 125 M Llama's and its head, an 8 B Llama's largest.
SHAPES = "768x768,768x2048,2048x768,768x32000,4096x14336"
ROWS = (1, 4, 16, 64, 256)
# The number of rows that oneDNN is told when it chooses a layout.
HINTS = (None, 1, 16, 64, 256, 1024)
# Together more than the caches hold.
BYTES_OF_A_KIND = 100_000_000

Linear = Callable[[], torch.Tensor]


def kinds(weight: torch.Tensor, x: torch.Tensor) -> dict[str, Linear]:
    """The same product in each way. MKL packs for one number of rows only and keeps the plain weight beside it."""
    mkldnn: Any = torch.ops.mkldnn
    ways: dict[str, Linear] = {"plain": lambda: torch.nn.functional.linear(x, weight)}
    if (kernels := load_kernels()) is not None and weight.dtype == torch.float32:
        # For more rows than it takes, what the engine does then.
        few = len(x) <= kernels.most_rows
        ways["kernel"] = (lambda: kernels.linear(x, weight, None)) if few else ways["plain"]
    for hint in HINTS:
        packed = mkldnn._reorder_linear_weight(weight, hint)
        ways[f"oneDNN, {hint}"] = lambda packed=packed: mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    if weight.dtype == torch.float32 and torch.backends.mkl.is_available():
        mkl: Any = torch.ops.mkl
        for_rows = mkl._mkl_reorder_linear_weight(weight, len(x))
        ways["MKL"] = lambda: mkl._mkl_linear(x, for_rows, weight, None, len(x))
    return ways


def fast_tenth(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 10]


def measured(weights: list[torch.Tensor], rows: int, seconds: float) -> dict[str, float]:
    """Seconds a call of each kind."""
    x = torch.randn(rows, weights[0].shape[1]).to(weights[0].dtype)
    copies = [kinds(weight, x) for weight in weights]
    times: dict[str, list[float]] = {name: [] for name in copies[0]}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["plain"]) < 2 * len(copies):
        for ways in copies:
            for name, linear in ways.items():
                began = time.perf_counter()
                linear()
                times[name].append(time.perf_counter() - began)
    return {name: fast_tenth(taken[len(copies) :]) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--shapes", default=SHAPES)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    titled = False
    for shape in arguments.shapes.split(","):
        inputs, outputs = map(int, shape.split("x"))
        size = inputs * outputs * dtype.itemsize
        weights = [torch.randn(outputs, inputs).to(dtype) for _ in range(max(1, BYTES_OF_A_KIND // size))]
        for rows in ROWS:
            taken = measured(weights, rows, arguments.seconds)
            if not titled:
                print("| shape | rows | plain GB/s |", " | ".join(taken), "|")
                print("| --- |" + " --- |" * (2 + len(taken)))
                titled = True
            ratios = " | ".join(f"{taken['plain'] / one:.2f}" for one in taken.values())
            print(f"| {shape} | {rows} | {size / taken['plain'] / 1e9:.1f} | {ratios} |", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
