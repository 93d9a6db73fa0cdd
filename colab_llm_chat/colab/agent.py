"""One ngrok agent through pyngrok: found or downloaded, started with a private configuration, watched, ended.

The token stands in one file that only this user can read, and nowhere else: not in arguments, environment, logs or
errors. Knows nothing of the app behind the tunnel.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path

from pydantic import SecretStr
from pyngrok import installer, ngrok
from pyngrok import process as agents
from pyngrok.conf import PyngrokConfig
from pyngrok.exception import PyngrokError, PyngrokNgrokHTTPError, PyngrokNgrokURLError
from pyngrok.log import NgrokLog

from ..errors import AgentMissing, TunnelError
from . import agent_errors, orphans

log = logging.getLogger("colab_llm_chat")

KIND = "ngrok"
FOLDER_PREFIX = f"{orphans.FOLDER_PREFIX}{KIND}-"
ENDPOINT_NAME = "colab-llm-chat"
# pyngrok hands its whole environment to the agent, for which a token in there goes before its file.
SECRET_VARIABLES = ("NGROK_AUTHTOKEN", "NGROK_API_KEY", "COLAB_LLM_CHAT_NGROK_TOKEN")
DOWNLOAD_SECONDS = 20
REQUEST_SECONDS = 10
CLOSE_REQUEST_SECONDS = 2
CHECK_SECONDS = 0.05
MOST_COMPLAINTS = 20
END_SECONDS = 5.0
AGENT_FAULTS = (PyngrokError, OSError, ValueError, HTTPException)


class Agent:
    """An agent of its own for one tunnel, though pyngrok keeps one per program: it is started by a private path."""

    def __init__(self, program: Path, ngrok_token: SecretStr) -> None:
        self._program = program
        self._token = ngrok_token
        self._folder = orphans.private_folder(KIND)
        self._config = PyngrokConfig(
            ngrok_path=str(_launcher(self._folder, program)),
            config_path=str(_configuration(self._folder, ngrok_token)),
            request_timeout=REQUEST_SECONDS,
            start_new_session=True,
            log_event_callback=self._heard,
        )
        # pyngrok takes these from the environment, and would put the token into the agent's arguments.
        self._config.auth_token = self._config.api_key = None
        self._process: subprocess.Popen[str] | None = None
        # Not the thread itself: a join that is interrupted takes it for ended.
        self._settled = threading.Event()
        self._settled.set()
        self._complaints: deque[str] = deque(maxlen=MOST_COMPLAINTS)
        _quieten_pyngrok()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def connect(self, upstream: str, *, domain: str | None, seconds: float) -> str:
        """The public address that now leads to `upstream`. Raises TunnelError, at the latest after `seconds`."""
        outcome: list[str | TunnelError] = []
        self._config.startup_timeout = max(1, int(seconds))
        self._settled.clear()
        threading.Thread(target=self._attempt, args=(upstream, domain, outcome), daemon=True).start()
        until = time.monotonic() + seconds
        while self._is_starting() and time.monotonic() < until:
            self._settled.wait(CHECK_SECONDS)
        if self._is_starting():
            self._stop_starting()
            outcome = [self._silence(domain, seconds)]
        [answer] = outcome or [self._silence(domain, seconds)]
        if isinstance(answer, TunnelError):
            raise answer
        self._config.request_timeout = CLOSE_REQUEST_SECONDS
        return answer

    def close(self) -> None:
        """Take the endpoint back and end the agent; returns when it is gone."""
        try:
            self._stop_starting()
        finally:
            _end_agent(self._config)
            if self._process is not None:
                orphans.forget(self._process.pid, KIND)
                _close_output(self._process)

    def _attempt(self, upstream: str, domain: str | None, outcome: list[str | TunnelError]) -> None:
        """In a thread of its own: pyngrok waits for the agent's next line for ever."""
        address = {"url": f"https://{domain}"} if domain else {}
        try:
            tunnel = ngrok.connect(upstream, name=ENDPOINT_NAME, pyngrok_config=self._config, inspect=False, **address)
            outcome.append(str(tunnel.public_url))
        except AGENT_FAULTS as error:
            # Made here, raised elsewhere: as a cause or context, pyngrok's error would carry the token along.
            outcome.append(self._explained(error, domain))
        finally:
            self._settled.set()

    def _is_starting(self) -> bool:
        """Whether pyngrok is still at it; notes the agent as soon as there is one."""
        running = agents._current_processes.get(self._config.ngrok_path)
        if self._process is None and running is not None:
            self._process = running.proc
            orphans.remember(running.proc.pid, KIND, folder=self._folder)
        return not self._settled.is_set()

    def _stop_starting(self) -> None:
        """pyngrok holds its lock while it starts an agent, so that only the agent's end frees it."""
        until = time.monotonic() + END_SECONDS
        while self._is_starting() and time.monotonic() < until:
            if self._process is not None:
                _kill(self._process)
            self._settled.wait(CHECK_SECONDS)

    def _explained(self, error: Exception, domain: str | None) -> TunnelError:
        if isinstance(error, PyngrokNgrokHTTPError):
            if error.status_code == HTTPStatus.NOT_FOUND:
                return agent_errors.too_old(self._program)
            said = _said_by_api(error.body)
        elif isinstance(error, PyngrokNgrokURLError) or not isinstance(error, PyngrokError):
            said = str(error)
        else:
            said = " ".join(self._complaints)
        return agent_errors.explained(self._scrubbed(said), domain=domain, program=self._program)

    def _silence(self, domain: str | None, seconds: float) -> TunnelError:
        """Silence after complaints: the agent tries again and again to reach ngrok."""
        if self._complaints:
            return agent_errors.explained(" ".join(self._complaints), domain=domain, program=self._program)
        return agent_errors.silent(self._program, seconds)

    def _heard(self, line: NgrokLog) -> None:
        log.debug("ngrok agent: %s", self._scrubbed(line.line))
        complaint = self._scrubbed(line.err or "")
        if line.lvl in ("ERROR", "CRITICAL") and complaint not in (*self._complaints, ""):
            self._complaints.append(complaint)

    def _scrubbed(self, text: str) -> str:
        return text.replace(self._token.get_secret_value(), "[ngrok token]")


def agent_program() -> Path:
    """The agent's program, downloaded when there is none yet. Raises AgentMissing."""
    program = Path(PyngrokConfig().ngrok_path)
    if program.exists():
        return program
    try:
        program.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place and moved there whole: a download cut short must not be taken for the program.
        with tempfile.TemporaryDirectory(dir=program.parent) as folder, contextlib.redirect_stdout(sys.stderr):
            fresh = Path(folder) / program.name
            installer.install_ngrok(str(fresh), timeout=DOWNLOAD_SECONDS)
            fresh.replace(program)
    except AGENT_FAULTS as error:
        raise AgentMissing(f"The ngrok agent could not be downloaded to {program}: {error}.") from error
    return program


def end_agents() -> None:
    """End what this process and earlier ones left running, so that address and session are free again."""
    for running in list(agents._current_processes.values()):
        config = running.pyngrok_config
        # By its folder's name, since an object may stem from a copy of this module that was loaded before.
        if config.config_path and Path(config.config_path).parent.name.startswith(FOLDER_PREFIX):
            _end_agent(config)
            orphans.forget(running.proc.pid, KIND)
    orphans.end_orphans()


def _end_agent(config: PyngrokConfig) -> None:
    """Ended in order: endpoint, process, files; each of them also when the one before fails."""
    with contextlib.ExitStack() as last:
        last.callback(shutil.rmtree, Path(str(config.config_path)).parent, ignore_errors=True)
        running = agents._current_processes.get(config.ngrok_path)
        last.callback(_wait_for_reader, running)
        last.callback(ngrok.kill, config)
        for url in [url for url, tunnel in ngrok._current_tunnels.items() if tunnel.pyngrok_config is config]:
            with contextlib.suppress(*AGENT_FAULTS):
                ngrok.disconnect(url, config)


def _wait_for_reader(running: agents.NgrokProcess | None) -> None:
    """pyngrok's thread that reads the agent's output is done once the agent is gone."""
    reader = running._monitor_thread if running else None
    if running and reader is not None:
        reader.join(END_SECONDS)
        if not reader.is_alive():
            _close_output(running.proc)


def _kill(process: subprocess.Popen[str]) -> None:
    """With its children, who may hold its output open, for whose end pyngrok waits."""
    if os.name == "posix":
        # It leads a session of its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _close_output(process: subprocess.Popen[str]) -> None:
    """pyngrok leaves it open, a file number lost with each rerun."""
    if process.stdout is not None:
        process.stdout.close()


def _launcher(folder: Path, program: Path) -> Path:
    """A path that is this agent's alone; its errors go nowhere, since they repeat the token in the clear."""
    if os.name != "posix":
        return program
    script = folder / "ngrok"
    script.write_text(
        f"#!/bin/sh\nunset {' '.join(SECRET_VARIABLES)}\n"
        f'exec {shlex.quote(str(program.absolute()))} "$@" </dev/null 2>/dev/null\n',
        encoding="utf-8",
    )
    script.chmod(0o700)
    return script


def _configuration(folder: Path, ngrok_token: SecretStr) -> Path:
    """The agent's settings; without its inspector, which would keep conversations and show them on a port."""
    agent = {"authtoken": ngrok_token.get_secret_value(), "inspect_db_size": -1, "update_check": False}
    path = folder / "ngrok.yml"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        # JSON is YAML, too.
        json.dump({"version": "3", "agent": agent}, file)
    return path


def _said_by_api(body: str) -> str:
    """The agent's local API wraps ngrok's text; anything else is passed on as it is."""
    try:
        return str(json.loads(body)["details"]["err"])
    except (ValueError, KeyError, TypeError):
        return body


def _quieten_pyngrok() -> None:
    """pyngrok logs each line of the agent, with the token in some; `_heard` logs them scrubbed, for those who ask."""
    for name in ("pyngrok.ngrok", "pyngrok.process", "pyngrok.process.ngrok", "pyngrok.installer"):
        logging.getLogger(name).addFilter(_refuse)


def _refuse(_: logging.LogRecord) -> bool:
    return False
