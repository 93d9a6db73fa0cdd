"""The library of kernels, built by this machine's C++ compiler and kept in the user's cache.

Knows what a compiler needs; knows nothing of models and tensors.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

log = logging.getLogger("colab_llm_chat")

SOURCE = Path(__file__).with_name("kernels.cpp")
TRIAL = Path(__file__).with_name("trial.py")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
# Compilers prefer narrower vectors where wide ones once slowed the processor down.
WIDE_FLAGS = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
COMPILE_SECONDS, TRIAL_SECONDS = 120, 30


class NotBuilt(Exception):
    """Why there is no library; the engine runs without one."""


def kernel_folder() -> Path:
    """Where libraries are kept: in the user's cache, never on a shared or a slow disk."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return cache.absolute() / "colab-llm-chat" / "kernels"


def built_library(folder: Path) -> Path:
    """The library in a folder, made if it is not there yet, or not whole.

    Raises NotBuilt: no compiler, one that fails, a folder that cannot be written, or code that this processor does
    not run.
    """
    compiler = _compiler()
    library = folder / f"{_fingerprint(compiler)}.so"
    if _is_whole(library):
        return library
    began = time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as place:
            made = Path(place, library.name)
            log.info("building kernels for this processor")
            command = [*compiler, *FLAGS, *WIDE_FLAGS, str(SOURCE), *_openmp(), "-o", str(made)]
            _run(_named(compiler), command, COMPILE_SECONDS)
            _run("a trial of the kernels", [sys.executable, "-I", str(TRIAL), str(made)], TRIAL_SECONDS)
            _seal(made)
            # At once: another process may be looking for it.
            made.replace(library)
    except OSError as error:
        told = f"{folder}: {error.strerror or error}; name a folder that can be written by XDG_CACHE_HOME"
        raise NotBuilt(told) from error
    log.info("kernels for this processor built in %.1f s, kept in %s", time.perf_counter() - began, folder)
    return library


def _seal(library: Path) -> None:
    """Write at its end, which no loader reads, what tells whether it is whole."""
    code = library.read_bytes()
    library.write_bytes(code + hashlib.sha256(code).digest())


def _is_whole(library: Path) -> bool:
    """Whether it is there as it was sealed: loading a file that was cut short ends the process."""
    try:
        sealed = library.read_bytes()
    except OSError:
        return False
    seal = len(hashlib.sha256().digest())
    return hashlib.sha256(sealed[:-seal]).digest() == sealed[-seal:]


def _compiler() -> list[str]:
    """Environment variable CXX, else what the system has."""
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise NotBuilt(f"environment variable CXX: {error}") from error
    if named:
        return named
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise NotBuilt("there is no C++ compiler (on Debian and Ubuntu: apt-get install g++)")


def _named(compiler: list[str]) -> str:
    return compiler[0] + (" (environment variable CXX)" if os.environ.get("CXX", "").strip() else "")


def _fingerprint(compiler: list[str]) -> str:
    """Of all that the library depends on: homes are shared by machines whose processors differ."""
    told = [*compiler, *FLAGS, *WIDE_FLAGS, platform.machine(), platform.system(), torch.__version__, _processor()]
    return hashlib.sha256(
        "\n".join(told).encode() + b"".join(one.read_bytes() for one in sorted(SOURCE.parent.glob("*.[ch]pp")))
    ).hexdigest()[:20]


def _processor() -> str:
    """What the processor can do, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _openmp() -> list[str]:
    """PyTorch's own copy of GNU's OpenMP where it has one: two of them would fight for the cores."""
    root = Path(torch.__file__).parent
    copies = [*root.glob("lib/libgomp*.so*"), *root.with_name("torch.libs").glob("libgomp*.so*")]
    if not copies:
        return []
    # Where its name is not the system's, only its folder tells the trial, which has no PyTorch, what is meant.
    return ["-Wl,--as-needed", str(copies[0]), "-Xlinker", "-rpath", "-Xlinker", str(copies[0].parent)]


def _run(what: str, command: list[str], seconds: float) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or [f"code {error.returncode}"]
        at_fault = next((line for line in lines if "error" in line), lines[-1])
        raise NotBuilt(f"{what} failed: {at_fault}") from error
    except subprocess.TimeoutExpired as error:
        raise NotBuilt(f"{what} took longer than {seconds:.0f} s") from error
    except OSError as error:
        raise NotBuilt(f"{what} does not start: {error.strerror or error}") from error
