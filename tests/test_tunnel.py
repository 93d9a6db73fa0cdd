"""The tunnel over pyngrok's real code and a stand-in agent: forwarding, every refusal, every end, and no token told."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from pydantic import SecretStr
from pyngrok import process as agents

from colab_llm_chat import errors
from colab_llm_chat.colab import agent as running_agent
from colab_llm_chat.colab import orphans
from colab_llm_chat.colab.tunnel import Tunnel, open_tunnel
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat, events_of, serving, wait_until
from tests.ngrok_agent import install_agent

TOKEN = "2tOkEnThatNobodyMaySee_7f3c9a"
ROOT = Path(__file__).parents[1]
JSON = {"Content-Type": "application/json"}
InstallAgent = Callable[..., None]


@pytest.fixture(autouse=True)
def _private_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Notes and temporary files of this test alone; at its end no agent may run and no file be left."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    left = [each for each in psutil.process_iter() if str(tmp_path) in " ".join(command_of(each))]
    for process in left:
        process.kill()
    assert left == []
    assert list(scratch.iterdir()) == []
    assert list((tmp_path / "cache").rglob("*.json")) == []


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InstallAgent:
    """Install the stand-in, well-behaved or not."""

    def install(**behaviour: Any) -> None:
        program = install_agent(tmp_path, diary=str(tmp_path / "diary"), **behaviour)
        monkeypatch.setenv("PYNGROK_NGROK_PATH", str(program))

    install()
    return install


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


def opened(port: int = 9, **options: Any) -> Tunnel:
    return open_tunnel(port=port, ngrok_token=SecretStr(TOKEN), **options)


def refusal(kind: type[errors.TunnelError], **options: Any) -> errors.TunnelError:
    """The error with which the tunnel is refused, after a look for the token in all that a person may see of it."""
    with pytest.raises(errors.TunnelError) as caught:
        opened(**options)
    assert type(caught.value) is kind
    assert caught.value.__context__ is caught.value.__cause__ is None
    assert TOKEN not in "".join(traceback.format_exception(caught.value)) + json.dumps(caught.value.to_dict())
    return caught.value


def agent_process(tunnel: Tunnel) -> psutil.Process:
    assert tunnel._agent._process is not None
    return psutil.Process(tunnel._agent._process.pid)


def diary(tmp_path: Path, entry: str) -> list[Any]:
    lines = [json.loads(line) for line in (tmp_path / "diary").read_text(encoding="utf-8").splitlines()]
    return [line[entry] for line in lines if entry in line]


def ask(url: str, path: str = "/chat", *, key: str | None = None, **headers: str) -> http.client.HTTPResponse:
    host = urlsplit(url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=60)
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    connection.request(
        "POST",
        path,
        json.dumps({"message": "hi", "stream": True}),
        {**JSON, "Connection": "close", **bearer, **headers},
    )
    return connection.getresponse()


def refuses(url: str) -> bool:
    host = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((host.hostname or "", host.port or 0)) != 0


# --- open, use, close


def test_a_reply_streams_piece_by_piece_through_the_public_address(agent: InstallAgent) -> None:
    gate = threading.Event()
    chat = ScriptedChat(steps=["first", gate, "last"])
    with serving(create_app(Settings(), chat)) as app, opened(app.bound_port or 0) as tunnel:
        app.add_public_host(tunnel.url)
        response = ask(tunnel.url, key=app.access_key)
        received = next(line for line in response if line.startswith(b"data:"))
        assert events_of(received.decode()) == [{"delta": "first"}]
        assert not gate.is_set()
        gate.set()
        assert events_of(response.read().decode())[-1] == "[DONE]"


def test_a_visitor_who_leaves_is_noticed_through_the_tunnel(agent: InstallAgent) -> None:
    chat = ScriptedChat(steps=["first", threading.Event()])
    with serving(create_app(Settings(), chat)) as app, opened(app.bound_port or 0) as tunnel:
        with ask(tunnel.url) as response:
            assert chat.replies[0].waiting.wait(30)
            response.readline()
        assert chat.replies[0].cancelled.wait(30)


def test_the_key_is_asked_for_and_only_known_names_are_answered(agent: InstallAgent) -> None:
    with serving(create_app(Settings(), ScriptedChat())) as app, opened(app.bound_port or 0) as tunnel:
        app.add_public_host(tunnel.url)
        assert ask(tunnel.url).status == 401
        assert ask(tunnel.url, key=app.access_key).status == 200
        assert ask(tunnel.url, key=app.access_key, Host="cat.ngrok-free.app").status == 403
        app.add_public_host("https://cat.ngrok-free.app")
        assert ask(tunnel.url, key=app.access_key, Host="cat.ngrok-free.app").status == 200


def test_close_takes_the_endpoint_back_and_ends_the_agent(agent: InstallAgent, tmp_path: Path) -> None:
    tunnel = opened()
    process = agent_process(tunnel)
    assert tunnel.alive
    tunnel.close()
    tunnel.close()
    assert not tunnel.alive
    assert not process.is_running()
    assert refuses(tunnel.url)
    assert diary(tmp_path, "deleted") == ["/api/endpoints/colab-llm-chat"]


def test_nobody_behind_the_tunnel_is_told_as_bad_gateway(agent: InstallAgent) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        free = int(taken.getsockname()[1])
    with opened(free) as tunnel:
        assert ask(tunnel.url).status == 502


def test_what_the_agent_is_asked_for(agent: InstallAgent, tmp_path: Path) -> None:
    opened(5000, domain=" https://Cat.ngrok-free.app/ ").close()
    [asked] = diary(tmp_path, "asked")
    assert asked["upstream"] == {"url": "http://127.0.0.1:5000"}
    assert asked["url"] == "https://cat.ngrok-free.app"
    assert asked["inspect"] is False
    [config] = diary(tmp_path, "config")
    assert config["version"] == "3"
    assert config["agent"]["inspect_db_size"] == -1


def test_an_agent_that_dies_is_seen(agent: InstallAgent) -> None:
    with opened() as tunnel:
        agent_process(tunnel).kill()
        wait_until(lambda: not tunnel.alive)


def test_an_agent_that_hangs_is_ended_all_the_same(agent: InstallAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_agent, "CLOSE_REQUEST_SECONDS", 0.2)
    tunnel = opened()
    agent_process(tunnel).suspend()
    tunnel.close()
    assert not tunnel.alive


def test_the_agent_does_not_get_the_keyboards_interrupt(agent: InstallAgent) -> None:
    with opened() as tunnel:
        assert os.getsid(agent_process(tunnel).pid) != os.getsid(0)


def test_a_second_tunnel_replaces_the_first(agent: InstallAgent, tmp_path: Path) -> None:
    first = opened()
    with opened() as second:
        assert not first.alive
        assert refuses(first.url)
        first.close()
        assert second.alive
        assert len(diary(tmp_path, "deleted")) == 1
        assert len(list((tmp_path / "tmp").iterdir())) == 1


def test_reruns_keep_no_file_open(agent: InstallAgent) -> None:
    opened().close()
    before = psutil.Process().num_fds()
    for _ in range(3):
        opened().close()
    assert psutil.Process().num_fds() <= before


# --- the token


def test_the_token_stands_in_one_private_file_that_goes_with_the_tunnel(agent: InstallAgent) -> None:
    with opened() as tunnel:
        command = command_of(agent_process(tunnel))
        file = Path(command[command.index("--config") + 1])
        assert TOKEN in file.read_text(encoding="utf-8")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not file.parent.exists()


def test_no_process_shows_the_token(agent: InstallAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGROK_AUTHTOKEN", TOKEN)
    with opened() as tunnel:
        for entry in ("cmdline", "environ"):
            shown = Path(f"/proc/{agent_process(tunnel).pid}/{entry}").read_bytes()
            assert shown
            assert TOKEN.encode() not in shown


def test_a_token_in_the_environment_does_not_win_over_the_one_given(
    agent: InstallAgent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NGROK_AUTHTOKEN", "anotherToken")
    with caplog.at_level(logging.DEBUG), opened() as tunnel:
        assert tunnel.alive
    assert "anotherToken" not in caplog.text
    assert "client session established with [ngrok token]" in caplog.text


@pytest.mark.parametrize("behaviour", [{}, {"session_error": "ERR_NGROK_105"}, {"endpoint_text": f"no {TOKEN}"}])
def test_no_log_shows_the_token(
    agent: InstallAgent, behaviour: dict[str, Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    agent(**behaviour)
    with caplog.at_level(logging.DEBUG):
        try:
            opened().close()
        except errors.TunnelError as error:
            logging.getLogger("colab_llm_chat").exception("refused: %s", error)
    assert caplog.records
    assert TOKEN not in caplog.text
    assert "pyngrok" not in {record.name.partition(".")[0] for record in caplog.records}
    assert capfd.readouterr() == ("", "")


def test_white_space_around_the_token_is_dropped(agent: InstallAgent, tmp_path: Path) -> None:
    open_tunnel(port=9, ngrok_token=SecretStr(f" \t{TOKEN}\r\n")).close()
    assert diary(tmp_path, "config")[0]["agent"]["authtoken"] == TOKEN


@pytest.mark.parametrize("token", [None, SecretStr(""), SecretStr(" \n")])
def test_without_a_token_the_error_says_where_to_put_one(token: SecretStr | None) -> None:
    with pytest.raises(errors.NgrokTokenMissing) as caught:
        open_tunnel(port=9, ngrok_token=token)
    assert "dashboard.ngrok.com" in caught.value.hint


def test_a_whole_command_in_place_of_the_token_is_refused() -> None:
    with pytest.raises(errors.NgrokTokenRefused) as caught:
        open_tunnel(port=9, ngrok_token=SecretStr(f"ngrok config add-authtoken {TOKEN}"))
    assert TOKEN not in "".join(traceback.format_exception(caught.value)) + caught.value.hint


# --- refusals


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("105", errors.NgrokTokenRefused, "does not look like"),
        ("106", errors.NgrokTokenRefused, "ngrok 1"),
        ("107", errors.NgrokTokenRefused, "reset or revoked"),
        ("4018", errors.NgrokTokenMissing, "no authtoken"),
        ("108", errors.TooManySessions, "as many agents"),
        ("120", errors.AgentRefused, "too old"),
        ("121", errors.AgentRefused, "too old"),
        ("9040", errors.AgentRefused, "address"),
        ("123", errors.AgentRefused, "not verified"),
        ("777", errors.TunnelError, "refused"),
    ],
)
def test_a_refused_session_is_one_line_with_the_next_step(
    agent: InstallAgent, code: str, kind: type[errors.TunnelError], said: str
) -> None:
    agent(session_error=f"ERR_NGROK_{code}")
    error = refusal(kind)
    assert said in error.message
    assert error.message.endswith(f"(ERR_NGROK_{code}).")
    assert "\n" not in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("334", errors.EndpointOnline, "cat.example.org is already online"),
        ("324", errors.TooManySessions, "as many endpoints"),
        ("319", errors.DomainRefused, "cat.example.org is not reserved"),
        ("320", errors.DomainRefused, "cat.example.org belongs to another ngrok account"),
        ("9037", errors.DomainRefused, "cat.example.org is not a name"),
        ("15013", errors.DomainRefused, "no domain of its own"),
        ("777", errors.TunnelError, "refused"),
    ],
)
def test_a_refused_endpoint_is_one_line_and_ends_the_agent(
    agent: InstallAgent, code: str, kind: type[errors.TunnelError], said: str
) -> None:
    agent(endpoint_error=f"ERR_NGROK_{code}", endpoint_text=f"Your authtoken: {TOKEN}")
    error = refusal(kind, domain="cat.example.org")
    assert said in error.message
    assert error.message.endswith(f"(ERR_NGROK_{code}).")
    assert error.hint
    assert not any(each.proc.poll() is None for each in agents._current_processes.values())


def test_an_unknown_code_points_to_its_page(agent: InstallAgent) -> None:
    agent(session_error="ERR_NGROK_777")
    error, page = refusal(errors.TunnelError), "https://ngrok.com/docs/errors/err_ngrok_777"
    assert (error.hint, page in error.japanese) == (f"See {page}.", True)


def test_too_many_sessions_says_where_to_end_the_other_one(agent: InstallAgent) -> None:
    agent(session_error="ERR_NGROK_108")
    assert "https://dashboard.ngrok.com/agents" in refusal(errors.TooManySessions).hint


def test_without_a_domain_the_account_s_own_is_named(agent: InstallAgent) -> None:
    agent(endpoint_error="ERR_NGROK_334")
    assert "The address of your ngrok account is already online" in refusal(errors.EndpointOnline).message


@pytest.mark.parametrize("phase", ["session_text", "endpoint_text"])
def test_a_refusal_without_a_code_repeats_the_agents_words(agent: InstallAgent, phase: str) -> None:
    agent(**{phase: f"no route to {TOKEN} host"})
    message = refusal(errors.TunnelError).message
    assert ("no route to [ngrok token] host" in message, "\\n" in message) == (True, False)


def test_an_agent_that_knows_no_endpoints_is_too_old(agent: InstallAgent) -> None:
    agent(without_endpoints=True)
    assert "too old" in refusal(errors.AgentRefused).message


@pytest.mark.parametrize("domain", ["cat", "cat example.org", "cat.example.org/path", "Katze.ä.org"])
def test_what_cannot_be_a_domain_is_refused_at_once(domain: str) -> None:
    with pytest.raises(errors.DomainRefused) as caught:
        opened(domain=domain)
    assert domain in caught.value.message


@pytest.mark.parametrize("behaviour", [{"silent": True}, {"hangs_in_api": True}])
def test_a_silent_agent_is_ended_and_told(agent: InstallAgent, behaviour: dict[str, Any]) -> None:
    agent(**behaviour)
    assert "within 0.5 s" in refusal(errors.AgentSilent, connect_seconds=0.5).message


def test_an_agent_whose_children_hold_its_output_is_ended_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ngrok"
    program.write_text(f"#!/bin/sh\n{sys.executable} -c 'input()' <>{tmp_path}/pipe\necho over\n")
    os.mkfifo(tmp_path / "pipe")
    program.chmod(0o700)
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(program))
    assert "within 0.5 s" in refusal(errors.AgentSilent, connect_seconds=0.5).message


def test_a_program_that_is_no_agent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "ngrok"
    broken.write_bytes(b"\x7fELF cut short")
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(broken))
    assert f"Delete {broken}" in refusal(errors.AgentSilent).hint


def test_without_a_network_the_agent_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(tmp_path / "bin" / "ngrok"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(errors.AgentMissing) as caught:
        opened()
    assert str(tmp_path / "bin" / "ngrok") in caught.value.message
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert list((tmp_path / "bin").iterdir()) == []


# --- interrupts and hard kills

OPENS_A_TUNNEL = f"""
import sys
from pydantic import SecretStr
from colab_llm_chat.colab.tunnel import open_tunnel
print("opening", flush=True)
tunnel = open_tunnel(port=9, ngrok_token=SecretStr({TOKEN!r}))
print(tunnel._agent._process.pid, flush=True)
sys.stdin.read()
"""


def other_kernel() -> subprocess.Popen[str]:
    """Another process that opens a tunnel and holds it until its input ends."""
    command = [sys.executable, "-c", OPENS_A_TUNNEL]
    kernel = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert kernel.stdout is not None
    assert kernel.stdout.readline() == "opening\n"
    return kernel


def agent_of(kernel: subprocess.Popen[str]) -> psutil.Process:
    assert kernel.stdout is not None
    return psutil.Process(int(kernel.stdout.readline()))


def test_an_interrupt_while_connecting_leaves_nothing(agent: InstallAgent, tmp_path: Path) -> None:
    agent(silent=True)
    with other_kernel() as kernel:
        wait_until(lambda: (tmp_path / "diary").exists())
        kernel.send_signal(signal.SIGINT)
        _, said = kernel.communicate()
    assert "KeyboardInterrupt" in said
    assert TOKEN not in said


def test_the_next_start_ends_the_agent_of_a_hard_killed_kernel(agent: InstallAgent, tmp_path: Path) -> None:
    with other_kernel() as kernel:
        orphan = agent_of(kernel)
        kernel.kill()
    assert orphan.is_running()
    with opened() as tunnel:
        assert tunnel.alive
        assert not command_of(orphan)
        assert len(list((tmp_path / "tmp").iterdir())) == 1


def test_the_agent_of_a_living_kernel_is_left_alone(agent: InstallAgent) -> None:
    with other_kernel() as kernel:
        neighbour = agent_of(kernel)
        opened().close()
        assert command_of(neighbour)
        kernel.communicate()
    wait_until(lambda: not command_of(neighbour))
    orphans.end_orphans()
