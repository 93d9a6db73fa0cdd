"""The engine process: what it answers, and what happens when it is killed, hangs, cannot load, or is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from colab_llm_chat.chat.client import EngineClient, EngineStatus, Generation
from colab_llm_chat.engine.reports import Progress
from colab_llm_chat.errors import BrokenModel, EngineFailed, InvalidRequest
from colab_llm_chat.settings import SamplingParams, Settings, TokenRules
from colab_llm_chat.text.grammar import json_grammar
from tests.chat_services import wait_until
from tests.tiny_models import save_tiny_model
from tests.tokenizers_made_here import byte_level

START_SECONDS = 60
GREETING = "a greeting of this machine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # No end-of-text id, so that replies run as long as they may.
    return save_tiny_model(tmp_path_factory.mktemp("model"), "llama", eos_token_id=None, max_position_embeddings=4096)


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineClient]:
    """Its worker's Python says something on its own before the worker does."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(f"print({GREETING!r}, flush=True)")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(site))
        client = EngineClient(Settings(model_id=str(folder), step_timeout_seconds=2, max_rows=4))
        client.start()
        wait_for(client, "ok")
        yield client
        client.close()


def wait_for(client: EngineClient, state: str) -> EngineStatus:
    wait_until(lambda: client.status.state == state)
    return client.status


def sampling(max_new_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens)


def submit(client: EngineClient, max_new_tokens: int) -> Generation:
    return client.submit([1, 2, 3], sampling(max_new_tokens), eos_token_ids=[])


def collect(generation: Generation) -> tuple[list[int], Progress]:
    """All ids of a generation, and how it ended."""
    ids: list[int] = []
    while (progress := generation.take(START_SECONDS)) is not None:
        ids += progress.token_ids
        if progress.end or progress.error:
            return ids, progress
    pytest.fail("the generation never ended")


def test_ready_tells_the_facts(client: EngineClient, folder: Path) -> None:
    assert client.status.folder == str(folder)
    assert client.status.facts["context_length"] == 4096


def test_a_generation_brings_its_ids_then_its_end(client: EngineClient) -> None:
    ids, last = collect(submit(client, 7))
    assert len(ids) == 7
    assert last.end == "length"


def test_many_generations_at_once_all_end(client: EngineClient) -> None:
    generations = [submit(client, 5) for _ in range(20)]
    assert {len(collect(generation)[0]) for generation in generations} == {5}


def ruled(client: EngineClient, rules: TokenRules, *, background: bool = False) -> Generation:
    return client.submit([1, 2, 3], sampling(30), eos_token_ids=[], rules=rules, background=background)


def test_rules_cross_the_pipe_and_logprobs_come_back(client: EngineClient) -> None:
    generation = ruled(client, TokenRules(logit_bias={9: 100.0}, top_logprobs=2))
    first = generation.take(START_SECONDS)
    assert first is not None
    assert first.token_ids == (9,)
    assert first.logprobs[0].logprob == pytest.approx(0.0)
    assert first.logprobs[0].top[0] == (9, first.logprobs[0].logprob)
    assert len(first.logprobs[0].top) == 2
    assert len(collect(generation)[0]) == 29


def test_a_reply_keeps_to_its_grammar(client: EngineClient) -> None:
    ids, last = collect(ruled(client, TokenRules(grammar=json_grammar({"const": {"a": [1, 2]}}))))
    assert byte_level().decode(ids) == '{"a":[1,2]}'
    assert last.end == "stop"


def test_a_grammar_that_cannot_be_kept_to_is_told_to_its_own_reply(client: EngineClient) -> None:
    other = submit(client, 20)
    assert isinstance(collect(ruled(client, TokenRules(grammar=json_grammar({"$ref": "#"}))))[1].error, InvalidRequest)
    assert len(collect(other)[0]) == 20


def test_a_cancelled_generation_with_a_grammar_leaves_nothing_behind(client: EngineClient) -> None:
    for _ in range(5):
        ruled(client, TokenRules(grammar=json_grammar({}))).cancel()
    assert len(collect(submit(client, 5))[0]) == 5


def test_a_bias_on_an_id_that_the_model_lacks_is_refused(client: EngineClient) -> None:
    with pytest.raises(InvalidRequest, match="512") as caught:
        ruled(client, TokenRules(logit_bias={512: 1.0}))
    assert caught.value.param == "logit_bias"


def test_background_generations_end_too(client: EngineClient) -> None:
    generations = [ruled(client, TokenRules(), background=True) for _ in range(3)]
    assert len(collect(submit(client, 10))[0]) == 10
    assert {len(collect(generation)[0]) for generation in generations} == {30}


def test_a_cancelled_generation_ends_at_once_for_its_reader(client: EngineClient) -> None:
    generation = submit(client, 4000)
    assert generation.take(START_SECONDS) is not None
    generation.cancel()
    assert collect(generation)[1].end == "cancelled"
    assert collect(submit(client, 3))[0]


def stopped_while_it_generates(client: EngineClient, how: int) -> int | None:
    """Stop the worker during more replies than it has rows; each must hear of it. Returns the worker's number."""
    pid = client.worker_pid
    generations = [submit(client, 4000) for _ in range(6)]
    assert generations[0].take(START_SECONDS)
    os.kill(pid or 0, how)
    for generation in generations:
        assert isinstance(collect(generation)[1].error, EngineFailed)
    return pid


def test_a_hung_worker_fails_its_replies_and_is_started_again(client: EngineClient) -> None:
    pid = stopped_while_it_generates(client, signal.SIGSTOP)
    wait_for(client, "ok")
    assert client.worker_pid != pid
    assert len(collect(submit(client, 5))[0]) == 5


def test_a_dead_worker_fails_its_replies_and_is_started_again_also_when_killed_while_it_restarts(
    client: EngineClient,
) -> None:
    pid = stopped_while_it_generates(client, signal.SIGKILL)
    wait_until(lambda: client.worker_pid not in (None, pid))
    os.kill(client.worker_pid or 0, signal.SIGKILL)
    wait_for(client, "ok")
    assert len(collect(submit(client, 5))[0]) == 5


def test_a_hung_worker_is_noticed_although_its_readers_keep_leaving(client: EngineClient) -> None:
    pid = client.worker_pid
    os.kill(pid or 0, signal.SIGSTOP)

    def try_shortly() -> bool:
        if client.status.state == "ok" and client.worker_pid == pid:
            submit(client, 5).cancel()
        return client.worker_pid not in (None, pid)

    wait_until(try_shortly)
    wait_for(client, "ok")


def test_an_idle_worker_is_not_taken_for_a_hung_one(client: EngineClient) -> None:
    worker = client._process
    submit(client, 4000).cancel()
    collect(submit(client, 2))
    wait_until(lambda: client._owed_since is None)
    assert client._process is worker


def test_a_worker_that_cannot_be_started_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    client = EngineClient(Settings(model_id=str(folder)))
    client.start()
    assert "cannot be started" in str(wait_for(client, "failed").error)
    client.close()


def test_nothing_is_taken_while_the_engine_is_away(folder: Path) -> None:
    client = EngineClient(Settings(model_id=str(folder)))
    with pytest.raises(EngineFailed):
        submit(client, 5)


def test_close_ends_the_worker_also_while_it_loads(folder: Path) -> None:
    client = EngineClient(Settings(model_id=str(folder)))
    client.start()
    wait_until(lambda: client.worker_pid is not None)
    pid = client.worker_pid or 0
    client.close()
    assert not psutil.pid_exists(pid)


LEAVE_ALONE = """
import sys, time
from colab_llm_chat.chat.client import EngineClient
from colab_llm_chat.settings import SamplingParams, Settings
client = EngineClient(Settings(model_id=sys.argv[1]))
client.start()
while client.status.state != "ok":
    time.sleep(0.05)
client.submit([1, 2, 3], SamplingParams(max_new_tokens=4000), eos_token_ids=[])
print(client.worker_pid, flush=True)
time.sleep(600)
"""


def test_a_worker_whose_parent_is_killed_ends_by_itself(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LEAVE_ALONE, str(folder)], stdout=subprocess.PIPE) as parent:
        told = (line for line in parent.stdout or () if line != GREETING.encode() + b"\n")
        worker = psutil.Process(int(next(told)))
        parent.kill()
    assert not psutil.wait_procs([worker], timeout=START_SECONDS)[1]


def test_the_worker_is_not_told_the_access_key(folder: Path) -> None:
    from colab_llm_chat.chat.client import worker_settings

    told = worker_settings(Settings(access_key="door", hf_token="hub"))
    assert "door" not in str(told)
    assert told["hf_token"] == "hub"


# The last: it leaves no model behind.


def test_a_restart_whose_model_cannot_load_is_told_for_good_with_the_models_own_error(
    client: EngineClient, folder: Path
) -> None:
    running = submit(client, 4000)
    weights = folder / "model.safetensors"
    # Not into the same file, which the worker has mapped.
    weights.unlink()
    weights.write_bytes(b"nothing")
    os.kill(client.worker_pid or 0, signal.SIGKILL)
    assert isinstance(collect(running)[1].error, EngineFailed)
    assert isinstance(wait_for(client, "failed").error, BrokenModel)
    with pytest.raises(EngineFailed):
        submit(client, 5)
