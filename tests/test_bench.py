"""`bench`: a real quick run, its figures, bars and tables, and that no server is left behind."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from colab_llm_chat.cli import main
from colab_llm_chat.cli.bench import command, gguf_file, models, plot, prompts
from colab_llm_chat.cli.bench.bars import bars
from colab_llm_chat.cli.bench.load import take
from colab_llm_chat.cli.bench.measures import Figures, Reply, figures, growth, median_figures, quantile
from colab_llm_chat.cli.bench.peers import PEERS, Peer, Start, peer_of
from colab_llm_chat.cli.bench.processes import Served, StolenTime, started, wait_until_ready
from colab_llm_chat.cli.bench.results import DRAWN, GREEDY, SAMPLED, Results
from colab_llm_chat.cli.bench.simplest import drawn
from colab_llm_chat.cli.bench.table import report
from colab_llm_chat.errors import ChatError, UsageError

QUICK = "--peers a,b --streams 1,2 --new-tokens 4 --prompt-tokens 40 --rounds 1 --long-tokens 0 --turns 2 --threads 1"
MARK = "STARTED_BY_TEST"
CHILD = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(1)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as `bench` makes them."""
    made = tmp_path_factory.mktemp("made")
    with torch.random.fork_rng(devices=[]):
        models.make_model(made, models.SHAPES["tiny"], device="cpu")
    return made


@pytest.fixture(scope="module")
def ran(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One real run of two peers, and where it wrote its figures."""
    target = tmp_path_factory.mktemp("ran") / "figures.json"
    arguments = [*QUICK.split(), "--drawn", "greedy", "-m", str(folder), "--json", str(target)]
    environment = {**os.environ, MARK: str(target)}
    command = [sys.executable, "-m", "colab_llm_chat", "bench", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False, env=environment)
    return done, target


def marked(mark: Path) -> list[psutil.Process]:
    """Processes with this mark in their environment, wherever they hang."""
    processes = psutil.process_iter(["environ"])
    return [process for process in processes if (process.info["environ"] or {}).get(MARK) == str(mark)]


def one(**given: float) -> Figures:
    """Figures that are all 1 but for these."""
    return Figures(**{**dict.fromkeys(Figures.__dataclass_fields__, 1.0), **given})


def some_results(rate: float = 2.0) -> Results:
    """Of a and d, greedy, under three loads; a is `rate` times as fast."""
    results = Results("cpu", bandwidth=10e9, read_bytes=500_000_000)
    for load in ("1", "4", "16"):
        results.cell("a", GREEDY, load).rounds.append(one(rate=rate, pace=0.1))
        results.cell("d", GREEDY, load).rounds.append(one(first=4.0))
    return results


def test_a_quick_run_measures_every_peer_with_every_load(ran: tuple[Any, Path]) -> None:
    done, target = ran
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    told = json.loads(target.read_text())
    measured = {(cell["peer"], cell["load"]): cell for cell in told["cells"]}
    assert set(measured) == {(peer, load) for peer in "ab" for load in "12"}
    for cell in measured.values():
        assert (cell["failure"], cell["median"]["tokens"]) == (None, 4), cell
        assert 0 <= cell["median"].pop("stolen") <= 1
        assert min(cell["median"].values()) > 0
    assert {peer: len(turns["median"]) for peer, turns in told["turns"].items()} == {"a": 2, "b": 2}
    assert told["floor"]["bytes_per_second"] > 1e8


def test_a_quick_run_prints_its_table_and_leaves_no_process(ran: tuple[Any, Path]) -> None:
    done, target = ran
    assert [line.split(" | ")[0] for line in done.stdout.splitlines() if line[:4] in ("| a ", "| b ")] == [
        *("| a", "| b", "| a", "| b"),
        *("| a", "| b"),
    ]
    assert "1 stream, tokens/s over the best of b, c, d, greedy" in done.stdout
    assert marked(target) == []


def test_an_interrupt_ends_every_server(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "colab_llm_chat", "bench", *QUICK.split(), "-m", str(folder)]
    hearing = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, MARK: str(tmp_path)})
    finally:
        signal.signal(signal.SIGINT, hearing)
    with process:
        next(line for line in process.stderr or () if line.startswith("starting b"))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err, marked(tmp_path)) == (1, False, [])


def test_a_server_and_what_it_started_end_after_a_failure(tmp_path: Path) -> None:
    with contextlib.suppress(ZeroDivisionError):
        hung = [sys.executable, "-c", f"{CHILD}; sys.stdout.flush(); time.sleep(60)"]
        with started(hung, {**os.environ, MARK: str(tmp_path)}, tmp_path / "log"):
            while not (tmp_path / "log").read_text():
                pass
            assert len(marked(tmp_path)) == 2
            raise ZeroDivisionError
    assert marked(tmp_path) == []


def test_a_server_that_ends_before_it_is_ready_is_told_with_its_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "raise ValueError('no weights')"]
    told = "ended with code 1 before it was ready: ValueError: no weights"
    with started(command, os.environ, log) as process, pytest.raises(ChatError, match=told):
        wait_until_ready(Served("http://127.0.0.1:9", process, log), "/health", seconds=60)


def test_every_id_shows_and_text_becomes_the_same_ids() -> None:
    tokenizer = models.make_tokenizer(26_000)
    texts = tokenizer.batch_decode([[token_id] for token_id in range(len(tokenizer))])
    assert (len(texts), len(set(texts)), min(map(len, texts))) == (26_000, 26_000, 1)
    assert "".join(texts).isascii()
    words = list(range(5_000, 26_000, 7))
    assert tokenizer(tokenizer.decode(words))["input_ids"] == words


@pytest.mark.parametrize("tokens", [40, 180, 2_000])
def test_a_prompt_has_as_many_tokens_as_asked_and_is_new_each_round(tokens: int) -> None:
    tokenizer = models.make_tokenizer(1_024)
    first, second = (prompts.message_of(tokenizer, seed, tokens) for seed in ("round 1", "round 2"))
    assert [len(prompts.prompt_ids(tokenizer, messages)) for messages in (first, second)] == [tokens, tokens]
    assert first != second


def test_the_copy_of_a_model_never_ends_a_reply(folder: Path, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir(), copy.mkdir()
    (source / "config.json").write_text('{"eos_token_id": 2, "text_config": {"eos_token_id": [2, 3]}}')
    (source / "generation_config.json").write_text('{"eos_token_id": 2}')
    models.endless(source, copy)
    assert json.loads((copy / "config.json").read_text()) == {
        "eos_token_id": None,
        "text_config": {"eos_token_id": None},
    }
    assert json.loads((copy / "generation_config.json").read_text())["eos_token_id"] is None
    assert json.loads((source / "config.json").read_text())["eos_token_id"] == 2


def test_the_weights_that_a_token_reads_are_all_but_the_embeddings(folder: Path) -> None:
    shape, total = models.SHAPES["tiny"], (folder / "model.safetensors").stat().st_size
    assert 0 <= total - models.read_bytes(folder) - 4 * shape.vocabulary * shape.hidden < 10_000


def test_rotary_rows_are_interleaved_within_each_head() -> None:
    rows = torch.arange(8.0)[:, None]
    assert gguf_file._interleaved(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_tensor_gets_its_name_in_the_file() -> None:
    names = ("model.layers.3.self_attn.q_proj.weight", "model.embed_tokens.weight", "lm_head.weight")
    assert [*map(gguf_file._renamed, names)] == ["blk.3.attn_q.weight", "token_embd.weight", "output.weight"]


def test_quantiles_lie_between_the_nearest_values() -> None:
    assert [quantile([3, 1, 2], share) for share in (0, 0.5, 0.75, 1)] == [1, 2, 2.5, 3]
    assert math.isnan(quantile([], 0.5))


def test_figures_count_all_tokens_and_time_the_short_rows() -> None:
    replies = [Reply(texts=[1.0, 1.5, 2.5], tokens=3), Reply(texts=[9.0, 9.1], tokens=2)]
    found = figures(replies, wall=10.0, memory=5.0, short=1)
    assert (found.rate, found.first, found.gap, found.tokens, found.memory) == (0.5, 1.0, 0.75, 2, 5.0)


def test_tokens_that_come_at_once_count_for_the_pace() -> None:
    replies = [Reply(texts=[1.0, 2.0, 2.0, 3.0], tokens=5), Reply(texts=[1.0], tokens=1), Reply()]
    assert figures(replies, wall=10.0, memory=5.0).pace == 0.5
    assert math.isnan(figures(replies[1:], wall=10.0, memory=5.0).pace)


def test_medians_are_of_the_rounds_and_memory_is_the_most() -> None:
    found = median_figures([one(rate=1, memory=9, tokens=4), one(rate=5, memory=1, tokens=3), one(rate=2)])
    assert (found.rate, found.memory, found.tokens) == (2, 9, 1)


def test_growth_is_of_the_last_two_turns_over_the_first_two() -> None:
    assert growth([1, 3, 100, 4, 8]) == 3


def test_a_stream_gives_text_usage_and_errors() -> None:
    reply = Reply()
    take(reply, {"choices": [{"delta": {"role": "assistant"}}]}, 0.5)
    take(reply, {"choices": [{"delta": {"content": "x"}}]}, 1.0)
    take(reply, {"choices": [], "usage": {"completion_tokens": 1, "prompt_tokens": 7}}, 2.0)
    assert (reply.texts, reply.text, reply.tokens, reply.prompt_tokens) == ([1.0], "x", 1, 7)
    with pytest.raises(ValueError, match="too long"):
        take(reply, {"error": "too long"}, 3.0)


def test_a_bar_is_reached_or_not_or_not_measured() -> None:
    told = {bar.what: bar.told for bar in bars(some_results(rate=1.5))}
    assert told["16 streams, tokens/s over d, greedy"] == "reached"
    assert told["4 streams, tokens/s over d, greedy"] == "NOT reached"
    assert told["16 streams, tokens/s over d, sampled"] == "not measured"
    assert told["16 streams, median first text over d, greedy"] == "reached"


def test_peers_are_compared_within_a_round_which_the_same_noise_meets() -> None:
    results = some_results(rate=2.0)
    results.cell("a", GREEDY, "16").rounds.extend([one(rate=20.0), one(rate=0.3)])
    results.cell("d", GREEDY, "16").rounds.extend([one(rate=10.0), one(rate=0.1)])
    assert next(bar.value for bar in bars(results) if bar.what == "16 streams, tokens/s over d, greedy") == 2.0


def test_the_time_of_http_is_what_the_bare_engine_does_not_need() -> None:
    results = some_results(rate=100.0)
    results.cell("a", GREEDY, "16").rounds.extend([one(rate=10.0), one(rate=50.0)])
    results.bare[GREEDY] = [103.0, 10.5, 60.0]
    overhead = next(bar for bar in bars(results) if "bare engine, greedy" in bar.what)
    assert (overhead.value, overhead.reached) == (pytest.approx(0.05), True)


def test_the_share_of_the_floor_is_of_one_streams_gaps() -> None:
    results = some_results()
    assert (results.floor, results.share("a", GREEDY)) == (0.05, pytest.approx(0.5))
    results.device = "cuda"
    assert next(bar for bar in bars(results) if "memory allows, greedy" in bar.what).reached is False


def test_a_report_tells_of_failures_short_replies_and_absent_peers() -> None:
    results = some_results()
    results.cell("b", SAMPLED, "1").failure = "out of | memory"
    results.cell("c", SAMPLED, "16").rounds.append(one(tokens=60))
    results.absent["e"] = "not installed: pip install it"
    text = report(results, 64)
    assert "| b | 1 | failed: out of / memory |" in text
    assert "| c | 16 | 1.0 (a reply of 60) |" in text
    assert "- e did not take part: not installed: pip install it" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("| a |")} == {11}


def test_missing_packages_are_told_with_the_line_that_brings_them() -> None:
    peer = Peer(
        letter="z", name="none", command=lambda start: [], packages=("json", "no_such_one"), pip="pip install it"
    )
    assert peer.missing() == ["no_such_one"]
    asked: Any = command.Asked(**dict.fromkeys(command.Asked.__dataclass_fields__))
    assert command.present([peer, peer_of("a")], made=True, asked=asked) == (
        (peer_of("a"),),
        {"z": "not installed: pip install it"},
    )


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: str(peer.letter))
def test_every_peer_is_started_on_its_port_with_the_model(peer: Peer) -> None:
    start = Start(
        folder=Path("/model"),
        gguf=Path("/model.gguf"),
        device="cpu",
        threads=3,
        rows=16,
        context_length=4096,
        port=4321,
    )
    line = peer.command(start)
    assert line[0] == sys.executable
    assert {"4321", "/model.gguf" if peer.reads_gguf else "/model"} <= set(line)


def test_temperature_zero_is_greedy_for_the_simplest_peer() -> None:
    assert drawn({"max_tokens": 8, **DRAWN[GREEDY]}) == {"max_new_tokens": 8, "do_sample": False}
    assert drawn({"max_tokens": 8, **DRAWN[SAMPLED]})["do_sample"] is True


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--peers", "a,x"], "'x' is none of a, b, c, d, e."),
        (["--streams", "0"], "'0' is no number from 1 to 256."),
        (["--streams", "four"], "'four' is no number from 1 to 256."),
        (["--rounds", "0"], "Invalid value for '--rounds'"),
        (["--json", "/no/such/folder/file"], "the folder '/no/such/folder' does not exist."),
        (["--gguf", "/no/such/file"], "File '/no/such/file' does not exist."),
        (["--device", "tpu"], "Invalid value for '--device'"),
    ],
)
def test_a_wrong_option_is_code_2_and_says_why(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code = main(["bench", *arguments])
    assert (code, told in capsys.readouterr().err) == (2, True)


def test_loads_that_do_not_fit_the_model_are_refused_with_a_way_out(folder: Path) -> None:
    assert command.window(folder, 1_100) == 2_048
    with pytest.raises(UsageError, match="need 9000 tokens of context, and the model has 2048") as caught:
        command.window(folder, 9_000)
    assert "--long-tokens" in caught.value.hint


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    results = some_results()
    results.turns["a"] = [[1.0, 2.0], [1.5, 2.5]]
    plot.plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_time_that_other_machines_took_is_a_share_of_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    times = namedtuple("times", ["user", "idle", "steal", "guest"])
    told = iter([times(10.0, 10.0, 1.0, 5.0), times(12.0, 11.0, 2.0, 9.0)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(told))
    with StolenTime() as stolen:
        pass
    assert stolen.share == 0.25
