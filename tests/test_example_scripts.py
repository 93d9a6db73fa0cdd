"""The example scripts as a person runs them, against a real server over the demo model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from colab_llm_chat.chat import Chat
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import ChatApp, create_app
from tests.chat_services import Lent, serving

SCRIPTS = Path(__file__).parents[1] / "examples" / "scripts"
KEY = "opens-sesame-4711"
# What every reply of the demo model has: half-width katakana.
CRY = re.compile("[ｦ-ﾟ]")


@pytest.fixture(scope="module")
def open_server(demo_chat: Chat) -> Iterator[ChatApp]:
    with serving(create_app(Settings(), Lent(demo_chat))) as app:
        yield app


@pytest.fixture(scope="module")
def locked_server(demo_chat: Chat) -> Iterator[ChatApp]:
    with serving(create_app(Settings(access_key=KEY), Lent(demo_chat))) as app:
        yield app


def run(script: str, app: ChatApp, *words: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CHAT_", "OPENAI_"))}
    variables = {"CHAT_ENDPOINT": f"http://127.0.0.1:{app.bound_port}", "PYTHONIOENCODING": "utf-8"}
    variables |= {"CHAT_ACCESS_KEY": key} if key is not None else {}
    command = [sys.executable, str(SCRIPTS / script), *words]
    return subprocess.run(command, env=inherited | variables, capture_output=True, encoding="utf-8", timeout=120)


@pytest.mark.parametrize("key", [None, "any-key-at-all"])
@pytest.mark.parametrize("script", ["chat.py", "sdk_stream.py"])
def test_a_script_prints_the_models_reply(open_server: ChatApp, script: str, key: str | None) -> None:
    done = run(script, open_server, "Good morning!", key=key)
    assert (done.returncode, done.stderr) == (0, "")
    assert CRY.search(done.stdout)


@pytest.mark.parametrize("script", ["chat.py", "sdk_stream.py"])
def test_a_script_opens_a_locked_server_with_its_key_only(locked_server: ChatApp, script: str) -> None:
    assert CRY.search(run(script, locked_server, "おはよう", key=KEY).stdout)
    refused = run(script, locked_server, "おはよう", key="wrong")
    assert (refused.returncode, "401" in refused.stderr) == (1, True)


def test_the_chat_script_has_ten_lines() -> None:
    lines = (SCRIPTS / "chat.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 10
