"""Compiled decoder layers: the same ids, artifacts that a second start takes, and a chat that goes on without them."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import codecache
from torch._inductor import config as inductor_config
from torch._inductor.utils import clear_caches
from transformers import PreTrainedModel

from colab_llm_chat.chat.client import EngineClient
from colab_llm_chat.cli.commands import settings_from
from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.runner import Runner
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.models import compiled, one_graph
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.compiled import artifacts_folder, compile_layers
from colab_llm_chat.models.packed import pack_linears
from colab_llm_chat.settings import Settings
from tests.chat_services import wait_until
from tests.test_client import collect, submit
from tests.test_engine import greedy, prompts, run
from tests.tiny_models import generated, save_tiny_model, tiny_model

# What importing the compiler says.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
CONTEXT = 128
NEW = (8, 5, 9, 7)


# Kernels need not be fast. PyTorch names the header that all of them begin with as another compiler looks for it; by
# its own name g++ finds it, and does not read it anew for each kernel.
QUICK = """#!/bin/sh
g++ "$@" -O0 || exit
for one; do case "$one" in *.h.pch) ln -f "$one" "${one%.pch}.gch" ;; esac; done
"""


@pytest.fixture
def as_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is compiled yet, and nothing is left for other tests."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(codecache, "_HEADER_DIR", str(tmp_path / "headers"))
    forget()
    quick = tmp_path / "c++"
    quick.write_text(QUICK)
    quick.chmod(0o755)
    # No kinds of vectors: to find out which there are, several programs would be compiled.
    with inductor_config.patch({"cpp.vec_isa_ok": False, "cpp.cxx": (None, str(quick))}):
        yield
    forget()


@pytest.fixture
def no_kernels(as_a_new_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that are run operator by operator: made in a moment."""
    monkeypatch.setattr(one_graph, "HOW", {"dynamic": True, "fullgraph": True, "backend": "eager"})


def forget() -> None:
    """As a new process begins."""
    torch.compiler.reset()
    clear_caches()
    counters.clear()
    # One model a process is compiled: its operators go with it.
    gc.collect()


def small(family: str) -> PreTrainedModel:
    model = tiny_model(family, scale=7.0, tie_word_embeddings=False, num_hidden_layers=2)
    model.set_attn_implementation("eager")
    return model


def batched(runner: Runner) -> list[object]:
    """Replies to prompts of unequal length, of which one joins late."""
    runner.chunk_size = 16
    asked = zip(prompts(), NEW, strict=False)
    sequences = [Sequence(i, list(prompt), greedy(new)) for i, (prompt, new) in enumerate(asked)]
    results = run(Engine(runner, max_rows=3, context_length=CONTEXT), sequences, late=1)
    return [results[i] for i in range(len(NEW))]


def replies(model: PreTrainedModel) -> list[list[int]]:
    return [generated(model, prompt, new) for prompt, new in zip(prompts(), NEW, strict=False)]


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def compiled_says_what_generate_says(model: PreTrainedModel, folder: Path, expected: list[list[int]]) -> None:
    runner = choose_runner(model, context_length=CONTEXT)
    assert compile_layers(model, runner, folder) == 2
    made = graphs()
    assert batched(runner) == expected
    # No step waited for a compiler.
    assert graphs() == made > 0


@pytest.mark.usefixtures("no_kernels")
def test_ids_of_compiled_layers_with_windows_and_soft_caps_in_a_batch_equal_generate(tmp_path: Path) -> None:
    model = small("gemma2")
    compiled_says_what_generate_says(model, tmp_path, replies(model))


@pytest.mark.usefixtures("as_a_new_process")
def test_a_second_start_takes_what_the_first_compiled_and_its_ids_equal_generate(tmp_path: Path) -> None:
    assert shutil.which("g++"), "What --compile does needs a C++ compiler. Install it: apt-get install g++"
    expected = replies(small("llama"))
    for _ in range(2):
        forget()
        model = small("llama")
        pack_linears(model, measure=lambda layers: {1: 2.0, 8: 2.0})
        compiled_says_what_generate_says(model, tmp_path / "kept", expected)
        del model
    found = counters["inductor"]
    assert (found["fxgraph_cache_hit"] > 0, found["fxgraph_cache_miss"]) == (True, 0)
    assert any((tmp_path / "kept" / "fxgraph").iterdir())


@pytest.mark.usefixtures("no_kernels")
def test_other_logits_than_before_are_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled, "alike", lambda found, wanted, model: False)
    model = small("llama")
    expected = replies(model)
    runner = choose_runner(model, context_length=CONTEXT)
    assert compile_layers(model, runner, tmp_path) == 0
    assert "its compiled logits differ from its own" in caplog.text
    assert batched(runner) == expected


def test_a_model_that_runs_one_at_a_time_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("mamba")
    assert compile_layers(model, choose_runner(model, context_length=CONTEXT), tmp_path) == 0
    assert "does not take the batched engine" in caplog.text


def test_artifacts_lie_with_the_models_or_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    users = tmp_path / "cache" / "colab-llm-chat" / "compiled"
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    models = str(tmp_path / "models")
    assert artifacts_folder(Settings()) == users
    assert artifacts_folder(Settings(model_dir=models)) == tmp_path / "models" / ".compiled"
    assert artifacts_folder(Settings(model_dir=models, use_google_drive_cache=True)) == users
    assert artifacts_folder(Settings(model_dir=str(in_the_way))) == users


def test_the_setting_travels_to_the_worker_and_without_a_compiler_the_chat_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = save_tiny_model(tmp_path / "model", "llama", num_hidden_layers=2, eos_token_id=None)
    client = EngineClient(settings_from({"compile": True, "model_id": str(folder)}))
    details = set()
    client.start()
    try:

        def ready() -> bool:
            details.add(client.status.detail)
            return client.status.state == "ok"

        wait_until(ready)
        ids, end = collect(submit(client, 4))
    finally:
        client.close()
    assert "compiling the model" in details
    assert (len(ids), end.error) == (4, None)
    told = [line for line in capfd.readouterr().err.splitlines() if "runs uncompiled" in line]
    assert ["install g++" in line for line in told] == [True]
