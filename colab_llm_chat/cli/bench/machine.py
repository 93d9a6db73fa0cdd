"""What this machine is, and with what it was measured: the heading of a report."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from ...errors import UsageError
from .session import Plan

PACKAGES = ("torch", "transformers", "flask", "fastapi", "uvicorn", "llama-cpp-python")
CPU_INFO = Path("/proc/cpuinfo")


def find_device(asked: str) -> str:
    """cpu or cuda. Raises UsageError when CUDA is asked for and not there."""
    gpu = gpu_name()
    if asked == "cuda" and not gpu:
        raise UsageError("--device cuda: this machine has no usable GPU.", hint="Leave --device out to use the CPU.")
    return "cuda" if gpu and asked != "cpu" else "cpu"


def gpu_name() -> str:
    """Empty where there is none. Asked of its driver: torch would keep memory of it."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.splitlines()[0].strip() if told.strip() else ""


def threads_of(device: str) -> int:
    """As many as this process may use cores."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def facts(plan: Plan, model: str, arguments: Sequence[str]) -> dict[str, str]:
    """The lines of a heading."""
    drawn = f"{plan.prompt_tokens} prompt tokens, {plan.new_tokens} new ones, medians of {plan.rounds} rounds"
    dtype = "fp32" if plan.device == "cpu" else "bf16"
    return {
        "machine": f"{gpu_name()}, {_cpu()}" if plan.device == "cuda" else _cpu(),
        "date": date.today().isoformat(),
        "model": f"random Llama of {model}, {dtype}" if model in ("125m", "8b", "tiny") else model,
        "command": shlex.join(["colab-llm-chat", *arguments]),
        "how": f"{drawn}, {plan.threads} threads each",
        "versions": ", ".join([f"Python {platform.python_version()}", *_versions()]),
    }


def _cpu() -> str:
    name = platform.processor() or platform.machine()
    if CPU_INFO.exists():
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{threads_of('cpu')} cores CPU ({name}), {psutil.virtual_memory().total / 2**30:.0f} GiB"


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found
