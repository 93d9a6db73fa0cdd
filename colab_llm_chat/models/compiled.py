"""The decoder layers of a batched model through torch.compile, each as one graph; what is compiled is kept on disk.

Knows no family of models: one that does not take it, or gives other logits then, runs as before.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..engine.runner import Runner
from ..engine.sequence import Chunk, Sequence, Step
from ..settings import SamplingParams, Settings
from .one_graph import OneGraph, numbered
from .proof import CANNOT_RUN, PROMPTS, alike
from .runners.flat import FlatRunner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("colab_llm_chat")

OnProgress = Callable[[float, str], None]


def artifacts_folder(settings: Settings) -> Path:
    """Where what is compiled is kept: with the models in `model_dir`, or in the user's cache where that is slow, cannot
    be written, or not set.
    """
    own = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "colab-llm-chat", "compiled")
    wanted = [own.absolute()]
    if settings.model_dir and not settings.use_google_drive_cache:
        wanted.insert(0, Path(os.path.expanduser(settings.model_dir)).absolute() / ".compiled")
    for folder in wanted:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            log.info("compiled layers cannot be kept in %s: %s", folder, error.strerror or error)
    return Path(tempfile.gettempdir(), "colab-llm-chat", "compiled")


def compile_layers(
    model: PreTrainedModel, runner: Runner, folder: Path, *, on_progress: OnProgress = lambda fraction, detail: None
) -> int:
    """Compile the decoder layers for all sizes of step, with artifacts in `folder`; returns how many, 0 for none.

    Afterwards nothing is compiled any more, so no reply ever waits for it.
    """
    layers = decoder_layers(model)
    if not isinstance(runner, FlatRunner) or not layers:
        log.warning("--compile: %s does not take the batched engine; it runs uncompiled", type(model).__name__)
        return 0
    # Not `setdefault`: PyTorch has set it to a temporary folder by now.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    began = time.perf_counter()
    on_progress(0.0, "compiling the model")
    wanted = _steps(runner)
    compiled, refusal = OneGraph(runner, layers), ""
    try:
        compiled.begin()
        found = _steps(runner, on_progress)
        if not all(alike(*pair, model=model) for pair in zip(found, wanted, strict=True)):
            refusal = "its compiled logits differ from its own"
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (*CANNOT_RUN, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
        refusal = _in_a_line(error)
        log.debug("the layers cannot be compiled", exc_info=error)
    if refusal:
        compiled.undo()
        log.warning(
            "%s runs uncompiled: %s. --compile needs a C++ compiler (on Debian and Ubuntu: apt-get install g++); "
            "where there is one, leave --compile out.",
            type(model).__name__,
            refusal,
        )
        return 0
    compiled.finish()
    log.info("%d layers compiled in %.1f s, kept in %s", len(layers), time.perf_counter() - began, folder)
    return len(layers)


def _in_a_line(error: Exception) -> str:
    """What the compiler means, of the pages that it says."""
    lines = str(getattr(error, "inner_exception", error)).strip().splitlines()
    return lines[0].rstrip(".") if lines else repr(error)


def decoder_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The longest list of modules that all hold an attention with a number of its own; empty where there is none."""
    lists = [list(one) for one in model.modules() if isinstance(one, torch.nn.ModuleList)]
    holding = [one for one in lists if all(numbered(layer) for layer in one)]
    return max(holding, key=len, default=[])


@torch.inference_mode()
def _steps(runner: FlatRunner, on_progress: OnProgress = lambda fraction, detail: None) -> list[torch.Tensor]:
    """Logits of steps of each kind that occurs: a chunk, several rows, one alone, one beside a chunk."""
    rows = [Sequence(i, list(prompt), SamplingParams()) for i, prompt in enumerate(PROMPTS)]
    first, second = rows
    steps = [Step([], Chunk(row, 0, row.ids)) for row in rows]
    steps += [Step(rows), Step([first]), Step([first], Chunk(second, 0, second.ids))]
    logits = []
    # The numbers of which an argument of a graph is one: without this, each would have a graph of its own.
    with torch._dynamo.config.patch(allow_unspec_int_on_nn_module=True):
        try:
            for row in rows:
                row.slot = runner.arena.take(len(row.ids), len(row.ids))
            for done, step in enumerate(steps):
                on_progress(done / len(steps), "compiling the model")
                logits.append(runner.forward(step).clone())
        finally:
            for row in rows:
                if row.slot is not None:
                    runner.arena.free(row.slot)
            runner.arena.trim()
    return logits
