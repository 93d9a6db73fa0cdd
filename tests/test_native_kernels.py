"""Kernels of our own: the numbers that PyTorch and float64 give, and a library that is built, kept or done without."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from colab_llm_chat.engine.loop import Engine
from colab_llm_chat.engine.runner import ran_out
from colab_llm_chat.engine.sequence import Sequence
from colab_llm_chat.models.choose import choose_runner
from colab_llm_chat.models.native import build
from colab_llm_chat.models.native.build import NotBuilt, built_library, kernel_folder
from colab_llm_chat.models.native.kernels import Kernels, load_kernels
from colab_llm_chat.models.runners.flat import FlatRunner
from tests.test_engine import CONTEXT, greedy, prompts, run
from tests.tiny_models import generated, tiny_model

NAN, INF = float("nan"), float("inf")
# Alone, in each remainder of a tile of few rows, and in each number of vectors that has code of its own.
ROWS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 48, 49, 64, 65, 96, 97, 128)
FEW = 4
varied = settings(max_examples=50, deadline=None)
sizes = st.integers(1, 90)
Compiler = Callable[[str], Path]


# What is said of a compiler that the user named.
NAMED = " (environment variable CXX)"


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    found, before = load_kernels(), torch.get_num_threads()
    assert found is not None
    torch.set_num_threads(request.param)
    yield found
    torch.set_num_threads(before)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted.to(found.dtype), rtol=1e-4, atol=1e-4)


# Products


@varied
@given(rows=st.integers(1, 128), inputs=sizes, outputs=sizes, bias=st.booleans(), seed=st.integers(0, 9))
def test_products_are_those_of_pytorch(
    kernels: Kernels, rows: int, inputs: int, outputs: int, bias: bool, seed: int
) -> None:
    x, weight = drawn(rows, inputs, seed=seed), drawn(outputs, inputs, seed=seed + 10)
    added = drawn(outputs, seed=seed) if bias else None
    rows = min(rows, kernels.most_rows)
    same(kernels.linear(x[:rows], weight, added), F.linear(x[:rows], weight, added))


@pytest.mark.parametrize("shape", [(70,), (1, 70), (1, 1, 70), (2, 3, 70), (1, 2, 2, 70)])
def test_rows_may_have_any_shape_and_lie_apart(kernels: Kernels, shape: tuple[int, ...]) -> None:
    weight, wide = drawn(29, 70), drawn(*shape[:-1], 140)
    for x in (wide[..., :70], wide[..., ::2], drawn(*reversed(shape)).permute(*reversed(range(len(shape))))):
        found = kernels.linear(x, weight, None)
        assert found.shape == (*shape[:-1], 29)
        same(found, F.linear(x, weight))


@varied
@given(rows=st.integers(2, FEW), inputs=sizes, outputs=sizes, seed=st.integers(0, 9))
def test_a_row_among_a_few_has_the_bits_that_it_has_alone(
    kernels: Kernels, rows: int, inputs: int, outputs: int, seed: int
) -> None:
    x, weight, bias = drawn(rows, inputs, seed=seed), drawn(outputs, inputs), drawn(outputs)
    alone = [kernels.linear(row[None], weight, bias) for row in x]
    assert torch.equal(kernels.linear(x, weight, bias), torch.cat(alone))


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
@pytest.mark.parametrize("rows", ROWS)
def test_what_is_not_finite_stays_so_where_it_is(kernels: Kernels, rows: int, wrong: float) -> None:
    rows = min(rows, kernels.most_rows)
    # The last ones are in no whole vector.
    for row, at, output in ((0, 0, 0), (rows - 1, 69, 28), (rows // 2, 33, 13)):
        x, weight, finite = drawn(rows, 70), drawn(29, 70), torch.ones(rows, 29, dtype=torch.bool)
        x[row, at] = wrong
        finite[row] = False
        assert torch.equal(kernels.linear(x, weight, None).isfinite(), finite)
        weight[output, at] = wrong
        finite[:, output] = False
        assert torch.equal(kernels.linear(x, weight, None).isfinite(), finite)


# Attention


class Rows:
    """Rows of a step in an arena: what lies between them is NaN, so that reading it would show."""

    def __init__(self, lengths: list[int], queries: list[int], *, heads: int = 4, kv_heads: int = 2) -> None:
        self.heads, self.kv_heads, self.spans = heads, kv_heads, []
        self.positions, token = 3, 0
        for length, asked in zip(lengths, queries, strict=True):
            self.spans.append([token, asked, self.positions, self.positions + length])
            token, self.positions = token + asked, self.positions + length + asked + 4
        self.tokens = token

    def fill(self, dim: int, value_dim: int, seed: int = 0) -> Rows:
        self.query = drawn(self.tokens, self.heads, dim, seed=seed).transpose(0, 1)
        self.keys = torch.full((self.positions, self.kv_heads, dim), NAN)
        self.values = torch.full((self.positions, self.kv_heads, value_dim), NAN)
        for number, (_, asked, start, end) in enumerate(self.spans):
            read = slice(start, end + asked - 1)
            self.keys[read] = drawn(*self.keys[read].shape, seed=seed + number + 1)
            self.values[read] = drawn(*self.values[read].shape, seed=seed + number + 50)
        return self

    def by(self, kernels: Kernels, scale: float = 0.3, **options: Any) -> torch.Tensor:
        """Of the kernel, [tokens, heads, value_dim]."""
        spans = torch.tensor(options.pop("spans", self.spans))
        return kernels.attend(self.query, (self.keys, self.values), spans, scale=scale, **options)

    def plain(self, scale: float = 0.3, window: int | None = None, sinks: torch.Tensor | None = None) -> torch.Tensor:
        """The same in float64, one query after the other."""
        found = []
        for token, asked, start, end in self.spans:
            for more in range(asked):
                seen = slice(max(start, end + more - (window or self.positions)), end + more)
                keys, values = (one[seen].double().transpose(0, 1) for one in (self.keys, self.values))
                q = self.query[:, token + more].double().unflatten(0, (self.kv_heads, -1))
                scores = (q @ keys.transpose(1, 2)) * scale
                if sinks is not None:
                    scores = torch.cat([scores, sinks.double().reshape(self.kv_heads, -1, 1)], 2)
                shares = scores.softmax(-1)[..., : keys.shape[1]]
                found.append((shares @ values).flatten(0, 1))
        return torch.stack(found)


# Tokens, drafts, and a chunk of a prompt.
asked = st.integers(1, 6) | st.integers(7, 150)
rows_of_a_step = st.lists(st.tuples(st.integers(1, 150), asked), min_size=1, max_size=7)


@varied
@given(
    rows=rows_of_a_step,
    heads=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dims=st.sampled_from([(64, 64), (128, 128), (64, 32), (24, 40)]) | st.integers(8, 128).map(lambda dim: (dim, dim)),
    window=st.sampled_from([None, 1, 8, 40, 1000]),
    sinks=st.booleans(),
)
def test_attention_is_a_softmax_over_what_each_query_sees(
    kernels: Kernels,
    rows: list[tuple[int, int]],
    heads: tuple[int, int],
    dims: tuple[int, int],
    window: int | None,
    sinks: bool,
) -> None:
    lengths, queries = map(list, zip(*rows, strict=True))
    step = Rows(lengths, queries, heads=heads[0] * heads[1], kv_heads=heads[0]).fill(*dims)
    sunk = drawn(step.heads) if sinks else None
    same(step.by(kernels, window=window, sinks=sunk), step.plain(window=window, sinks=sunk))
    # As a family may lay out its queries.
    step.query = step.query.contiguous()
    same(step.by(kernels, window=window, sinks=sunk), step.plain(window=window, sinks=sunk))


@varied
@given(rows=rows_of_a_step, dim=st.sampled_from([8, 20, 64, 128]), window=st.sampled_from([None, 8]))
def test_a_row_has_the_bits_that_it_has_alone(
    kernels: Kernels, rows: list[tuple[int, int]], dim: int, window: int | None
) -> None:
    lengths, queries = map(list, zip(*rows, strict=True))
    step = Rows(lengths, queries).fill(dim, dim)
    together = step.by(kernels, window=window)
    for token, asked, start, end in step.spans:
        alone = step.by(kernels, window=window, spans=[[token, asked, start, end]])
        assert torch.equal(together[token : token + asked], alone[token : token + asked])


@pytest.mark.parametrize("window", [None, 700])
@pytest.mark.parametrize("dim", [64, 80])
def test_long_rows_beside_short_ones_are_read_whole(kernels: Kernels, dim: int, window: int | None) -> None:
    step = Rows([3000, 1, 1025, 64, 500], [1, 1, 4, 2, 300]).fill(dim, dim)
    same(step.by(kernels, window=window), step.plain(window=window))


def test_large_scores_neither_overflow_nor_vanish(kernels: Kernels) -> None:
    step = Rows([100, 7, 50], [1, 3, 40]).fill(64, 64)
    # Whole numbers, whose products are exact.
    step.query, step.keys = (step.query * 30).round(), (step.keys * 30).round()
    assert step.plain(scale=1.0).isfinite().all()
    same(step.by(kernels, scale=1.0), step.plain(scale=1.0))
    same(step.by(kernels, scale=-1.0), step.plain(scale=-1.0))


@pytest.mark.parametrize("sink", [-INF, -1e4, 0.0, 1e4])
@pytest.mark.parametrize("window", [None, 8])
def test_a_sink_may_take_all_or_nothing(kernels: Kernels, sink: float, window: int | None) -> None:
    step = Rows([40, 3, 20], [1, 2, 60], kv_heads=4).fill(16, 16)
    sinks = torch.full((4,), sink)
    same(step.by(kernels, window=window, sinks=sinks), step.plain(window=window, sinks=sinks))


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
@pytest.mark.parametrize("what", ["query", "keys", "values"])
@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("asked", [1, 20])
def test_attention_is_not_finite_exactly_where_pytorchs_is_not(
    kernels: Kernels, what: str, wrong: float, dim: int, asked: int
) -> None:
    for at in (0, 35, 60):
        step = Rows([61, 20], [asked, 2]).fill(dim, dim)
        before = step.by(kernels)
        if what == "query":
            step.query[1, 0, 5] = wrong
        else:
            getattr(step, what)[step.spans[0][2] + at, 0, 5] = wrong
        found, wanted = step.by(kernels), step.plain()
        assert torch.equal(found.isfinite(), wanted.isfinite())
        assert torch.equal(found[asked:], before[asked:])
        same(found[wanted.isfinite()], wanted[wanted.isfinite()])


@pytest.mark.parametrize("sinks", [None, torch.zeros(4)])
@pytest.mark.parametrize("asked", [1, 20])
def test_scores_that_are_all_minus_infinity_give_what_softmax_makes_of_them(
    kernels: Kernels, sinks: torch.Tensor | None, asked: int
) -> None:
    step = Rows([40], [asked]).fill(16, 16)
    step.query[1] = INF
    step.keys[step.spans[0][2] : step.spans[0][3] + asked] = -1.0
    found = step.by(kernels, sinks=sinks)
    assert torch.equal(found.isfinite(), step.plain(sinks=sinks).isfinite())
    assert bool(found[:, 1].isnan().all()) == (sinks is None)


def test_what_belongs_to_no_span_is_neither_read_nor_needed(kernels: Kernels) -> None:
    step = Rows([9, 5, 30], [1, 2, 1]).fill(16, 16)
    whole = step.by(kernels)
    some = step.by(kernels, spans=[step.spans[0], step.spans[2]])
    assert torch.equal(some[0], whole[0])
    assert torch.equal(some[3], whole[3])


# Norms and rotary positions


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm, Gemma2RMSNorm])
@pytest.mark.parametrize("shape", [(1, 1, 64), (1, 9, 65), (5, 7), (1, 3, 4, 16), (300, 130)])
def test_norms_are_those_of_the_families(kernels: Kernels, kind: Any, shape: tuple[int, ...]) -> None:
    module = kind(shape[-1], eps=1e-5)
    module.weight.data.copy_(drawn(shape[-1]))
    x = 3 * drawn(*shape, seed=1)
    factor = (module.weight + (kind is Gemma2RMSNorm)).detach()
    same(kernels.rms_norm(x, factor, 1e-5), module(x).detach())
    apart = x.transpose(0, -2)
    same(kernels.rms_norm(apart, factor, 1e-5), module(apart).detach())


@pytest.mark.parametrize("number", [0.0, 1e-30, 1e25, INF, -INF, NAN])
def test_norms_of_numbers_at_the_edge_are_those_of_llama(kernels: Kernels, number: float) -> None:
    module, x = LlamaRMSNorm(33), drawn(4, 33)
    x[2, :3] = number
    found, wanted = kernels.rms_norm(x, module.weight.detach(), 1e-6), module(x).detach()
    torch.testing.assert_close(found, wanted, equal_nan=True)


@varied
@given(tokens=st.integers(1, 70), heads=st.integers(1, 9), half=st.integers(1, 70), apart=st.booleans())
def test_rotary_positions_are_those_of_llama(kernels: Kernels, tokens: int, heads: int, half: int, apart: bool) -> None:
    dim = 2 * half
    q = drawn(1, tokens, heads, dim).transpose(1, 2) if apart else drawn(1, heads, tokens, dim)
    cos, sin = drawn(2, 1, tokens, dim, seed=1)
    found = kernels.rotate(q, cos, sin)
    assert found.shape == q.shape
    same(found, apply_rotary_pos_emb(q, q, cos, sin)[0])


# The library


@pytest.fixture
def anew() -> Iterator[None]:
    """Nothing is loaded, and nothing of this test stays so."""
    load_kernels.cache_clear()
    yield
    load_kernels.cache_clear()


@pytest.fixture
def cache(copies: str, anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for kernels of a user who has none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return kernel_folder()


@pytest.fixture
def compiler(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """Name a compiler, which does what a shell's line says; its calls are the lines of the file that comes back."""

    def make(line: str) -> Path:
        script, calls = tmp_path / "compiler", tmp_path / "calls"
        script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nfor made; do :; done\n{line}\n')
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        return calls

    return make


@pytest.fixture(scope="session")
def copies() -> str:
    """A compiler's line that takes no time: this machine's library is there."""
    return f'cp {built_library(kernel_folder())} "$made"'


def reason(folder: Path) -> str:
    with pytest.raises(NotBuilt) as told:
        built_library(folder)
    return str(told.value)


def test_a_library_is_built_once_and_then_found(
    cache: Path, compiler: Compiler, copies: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "colab_llm_chat")
    calls = compiler(copies)
    library = built_library(cache)
    assert built_library(cache) == library
    assert list(cache.iterdir()) == [library]
    assert len(calls.read_text().splitlines()) == 1
    assert Kernels(library).most_rows in (64, 128)
    before, after = caplog.messages
    assert before == "building kernels for this processor"
    assert str(cache) in after


@pytest.mark.parametrize("left", [0, 20, 1000, -5000, -1])
def test_a_file_that_is_not_whole_is_built_anew(left: int, cache: Path, compiler: Compiler, copies: str) -> None:
    calls = compiler(copies)
    library = built_library(cache)
    library.write_bytes(library.read_bytes()[:left])
    assert load_kernels() is not None
    assert built_library(cache) == library
    assert len(calls.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "echo here; echo '3: fatal error: no.h' >&2; echo stopped >&2; exit 1",
            "compiler (environment variable CXX) failed: 3: fatal error: no.h",
        ),
        ("exit 4", "compiler (environment variable CXX) failed: code 4"),
        ("kill -9 $$", "compiler (environment variable CXX) failed: code -9"),
        (": ", "a trial of the kernels failed: OSError"),
        ('echo no library > "$made"', "a trial of the kernels failed: OSError"),
    ],
)
def test_a_compiler_that_fails_is_told(line: str, told: str, cache: Path, compiler: Compiler) -> None:
    compiler(line)
    assert told in reason(cache)
    assert list(cache.iterdir()) == []


def test_a_library_whose_trial_crashes_is_refused(cache: Path, compiler: Compiler, tmp_path: Path) -> None:
    traps = tmp_path / "traps.cpp"
    traps.write_text("__attribute__((constructor)) void trap() { __builtin_trap(); }")
    compiler(f'exec g++ -shared -fPIC {traps} -o "$made"')
    assert "a trial of the kernels failed: code -" in reason(cache)
    assert load_kernels() is None
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("hangs", "what"),
    [("COMPILE_SECONDS", "compiler (environment variable CXX)"), ("TRIAL_SECONDS", "a trial of the kernels")],
)
def test_what_hangs_is_ended_and_told(
    hangs: str, what: str, cache: Path, compiler: Compiler, copies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler("exec sleep 600" if hangs == "COMPILE_SECONDS" else copies)
    monkeypatch.setattr(build, hangs, 0.01)
    assert f"{what} took longer than 0 s" in reason(cache)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (
            "/no/such/compiler -O3",
            "/no/such/compiler (environment variable CXX) does not start: No such file or directory",
        ),
        ("'g++", "environment variable CXX: No closing quotation"),
        ("", "there is no C++ compiler"),
    ],
)
def test_a_compiler_that_is_missing_is_told(
    named: str, told: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", named)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert told in reason(cache)


def test_a_compiler_may_be_named_with_options(
    cache: Path, compiler: Compiler, copies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = compiler(copies)
    monkeypatch.setenv("CXX", f"{os.environ['CXX']} -DNAMED")
    built_library(cache)
    assert calls.read_text().startswith("-DNAMED -std=c++17 ")


def test_a_folder_that_cannot_be_written_is_told(cache: Path, compiler: Compiler, copies: str) -> None:
    compiler(copies)
    cache.parent.mkdir(parents=True)
    cache.touch()
    assert reason(cache).startswith(f"{cache}: ")


def test_each_processor_and_each_compiler_has_a_library_of_its_own(
    cache: Path, compiler: Compiler, copies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(copies)
    found = [built_library(cache)]
    monkeypatch.setattr(build, "_processor", lambda: "flags: none")
    found.append(built_library(cache))
    monkeypatch.setenv("CXX", f"{os.environ['CXX']} -DNAMED")
    found.append(built_library(cache))
    assert len(set(found)) == len(list(cache.iterdir())) == 3


def test_a_change_of_any_source_is_built(
    cache: Path, compiler: Compiler, copies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(copies)
    monkeypatch.setattr(build, "SOURCE", tmp_path / "kernels.cpp")
    for name in ("kernels.cpp", "part.hpp", "kernels.cpp", "part.hpp"):
        with (tmp_path / name).open("a") as source:
            source.write("// changed\n")
        built_library(cache)
    assert len(list(cache.iterdir())) == 4


def test_without_a_compiler_replies_are_the_same_and_the_log_says_why(
    cache: Path, compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model("llama", scale=7.0)
    model.set_attn_implementation("eager")
    expected = generated(model, prompts()[0], 8)
    compiler("echo 'fatal error: out of order' >&2; exit 1")
    with caplog.at_level(logging.INFO, "colab_llm_chat"):
        runner = choose_runner(model, context_length=CONTEXT)
    assert type(runner) is FlatRunner
    assert "fatal error: out of order" in caplog.text
    engine = Engine(runner, max_rows=2, context_length=CONTEXT)
    assert run(engine, [Sequence(0, prompts()[0], greedy(8))])[0] == expected


def test_a_file_that_is_no_library_of_kernels_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(OSError, match=r"text\.so"):
        Kernels(tmp_path / "text.so")
    with pytest.raises(OSError, match="most_rows"):
        Kernels(Path(torch.__file__).parent / "lib" / "libc10.so")


def test_the_library_shares_pytorchs_threads() -> None:
    """Two copies of OpenMP would fight for the cores; this process may have loaded others."""
    source = (
        "import ctypes, sys, torch; ctypes.CDLL(sys.argv[1])\n"
        "print({line.split()[-1] for line in open('/proc/self/maps') if 'gomp' in line})"
    )
    command = [sys.executable, "-c", source, str(built_library(kernel_folder()))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("libgomp") == 1


def test_want_of_memory_in_a_kernel_is_an_error_that_the_engine_knows(kernels: Kernels) -> None:
    weight = torch.empty(1, 1).expand(1, 2**50)
    with pytest.raises(MemoryError) as raised:
        kernels._library.linear(None, None, weight.data_ptr(), None, 16, weight.shape[1], 1)
    assert ran_out(raised.value)
