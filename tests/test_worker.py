"""The engine process behind a server: left in the middle of a prompt, not to be started again, with little memory."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from colab_llm_chat.chat import Chat
from colab_llm_chat.chat.client import STARTED_IN_VAIN
from colab_llm_chat.chat.reply import LocalReply
from colab_llm_chat.errors import ChatError, EngineFailed, ModelNotFound
from colab_llm_chat.models.runners.arena import PAGE
from colab_llm_chat.protocol.messages import ChatRequest, Message
from colab_llm_chat.settings import SamplingParams, Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import Lent, serving, wait_until
from tests.tiny_models import save_tiny_model
from tests.tokenizers_made_here import CHATML, byte_level

WINDOW = 4096
# A token for each character.
LONG_PROMPT = "xyzq" * 900
# As where a library of the machine has gone wrong; not before somebody waits.
ENDS_WITHOUT_A_WORD = """
import os, time
while not os.path.exists({came!r}):
    time.sleep(0.01)
os._exit(3)
"""
# Once the weights are there: what loads them has its own name for what is replaced.
LITTLE_IS_FREE = """
from colab_llm_chat.models import hardware, load, packed
hardware.free_bytes = lambda device: 1000
"""
# A long prompt is read no further than to its second chunk before the visitor has left.
READS_SLOWLY = """
import pathlib, time
from colab_llm_chat.models.runners.flat import FlatRunner
forward = FlatRunner.forward
def wait(self, step):
    if step.chunk is not None and step.chunk.start > 0:
        pathlib.Path({reading!r}).touch()
        while not pathlib.Path({left!r}).exists():
            time.sleep(0.01)
    return forward(self, step)
FlatRunner.forward = wait
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    # No end-of-text id, so that replies run as long as they may.
    save_tiny_model(folder, "llama", scale=4.0, eos_token_id=None, max_position_embeddings=WINDOW)
    byte_level(CHATML).save_pretrained(folder)
    return folder


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Chat]:
    with contextlib.closing(Chat(Settings(model_id=str(folder), max_rows=1, ping_seconds=0.05)).start()) as chat:
        wait_until(lambda: chat.status().state != "loading")
        assert chat.status().state == "ok", chat.status().error
        yield chat


def endless(chat: Chat) -> LocalReply:
    sampling = SamplingParams(temperature=0.0, max_new_tokens=WINDOW)
    return chat.stream(ChatRequest(messages=(Message("user", "hello"),), sampling=sampling))


def door(chat: Chat) -> FlaskClient:
    return create_app(Settings(), chat).test_client()


def plant(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Each worker that starts from now on runs this first."""
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def kill(chat: Chat) -> None:
    os.kill(chat.engine.worker_pid or 0, signal.SIGKILL)


def fault(reply: LocalReply) -> ChatError:
    with pytest.raises(ChatError) as told:
        list(reply)
    return told.value


def ended_for_good(chat: Chat) -> dict[str, Any]:
    """What /health tells once the model has failed."""
    visitor = door(chat)
    wait_until(lambda: visitor.get("/health").get_json()["status"] == "failed")
    answer = visitor.get("/health")
    assert answer.status_code == 503
    error: dict[str, Any] = answer.get_json()["error"]
    return error


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_while_the_prompt_is_read_frees_the_row_within_one_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    reading, left = tmp_path / "reading", tmp_path / "left"
    plant(monkeypatch, tmp_path, READS_SLOWLY.format(reading=str(reading), left=str(left)))
    with started(folder) as chat, serving(create_app(Settings(port=0), Lent(chat))) as app:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", app.bound_port)) as visitor:
            body = json.dumps({"message": LONG_PROMPT, "stream": stream})
            visitor.request("POST", "/chat", body, {"Content-Type": "application/json"})
            wait_until(reading.exists)
        wait_until(lambda: not chat._replies)
        left.touch()
        wait_until(lambda: chat.stats().ended["cancelled"] == 1)
        stats = chat.stats()
        assert (stats.steps, stats.running, stats.waiting, stats.row_positions) == (2, 0, 0, 0)
        # What was read is kept for who asks the same, and goes when there is need of it.
        assert stats.prefix_positions == stats.prompt_tokens_computed < len(LONG_PROMPT)
        answer = door(chat).post("/chat", json={"message": LONG_PROMPT, "max_new_tokens": 4}).get_json()
        assert answer["usage"]["cached_tokens"] == stats.prefix_positions


def test_a_model_that_is_gone_when_the_engine_dies_fails_who_waits_and_health_says_so(folder: Path) -> None:
    with started(folder) as chat:
        replies = [endless(chat) for _ in range(3)]
        next(replies[0])
        folder.rename(folder.with_name("gone"))
        kill(chat)
        for error in map(fault, replies):
            assert (type(error), error.headers["Retry-After"]) == (EngineFailed, "5")
            assert error.hint
        assert ended_for_good(chat)["code"] == ModelNotFound("").code
        refused = door(chat).post("/chat", json={"message": "hello"})
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (ModelNotFound.status, ModelNotFound.code)


def test_an_engine_that_ends_at_each_start_is_given_up_and_who_came_meanwhile_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = tmp_path / "came"
    with started(folder) as chat:
        plant(monkeypatch, tmp_path, ENDS_WITHOUT_A_WORD.format(came=str(came)))
        kill(chat)
        wait_until(lambda: chat.status().state == "loading")
        replies = [endless(chat) for _ in range(3)]
        came.touch()
        for error in map(fault, replies):
            assert isinstance(error, EngineFailed)
            assert "code 3" in str(error)
            assert error.hint == STARTED_IN_VAIN
        assert ended_for_good(chat)["code"] == "engine_failed"


def test_with_little_memory_for_keys_and_values_the_window_is_small_and_said_to_be(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, tmp_path, LITTLE_IS_FREE)
    with started(folder) as chat:
        assert chat.engine.status.facts["context_length"] == PAGE
        asked = {"message": "hello " * PAGE, "truncation": "disabled"}
        refused = door(chat).post("/chat", json=asked)
        error = refused.get_json()["error"]
        assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
        assert f"holds {PAGE}," in error["message"]
        long = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": WINDOW, "ignore_eos": True}
        answer = door(chat).post("/v1/chat/completions", json=long).get_json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["total_tokens"] == PAGE
