"""Where a notebook's secrets could show: in what libraries tell when asked for all, in errors, after a hard kill.

Every notebook run is searched by tests/notebook_kernel.py itself; here are the runs that try hardest to make them show.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.chat_services import wait_until
from tests.google_colab import ColabStandIn, Scenario
from tests.hub_standin import HubStandIn, ModelOnHub
from tests.ngrok_agent import install_agent
from tests.notebook_kernel import CELLS, Search, kernel
from tests.test_notebook import (
    CRY,
    DEMO,
    HF_TOKEN,
    NGROK_TOKEN,
    SECRETS,
    environment,
    free_port,
    only_the_kernel,
    opened_by,
    post,
    worker_of,
)

# What somebody runs who looks for a fault: every logger's every word, and tracebacks with the values of variables.
TELL_ALL = "%xmode Verbose\nimport logging\nlogging.getLogger().setLevel(logging.DEBUG)\nlog_everything = True"
SHOW_ALL = "import os\nprint(dict(os.environ), notebook.settings, app)"


def model_of_the_demo() -> ModelOnHub:
    return ModelOnHub({path.name: path.read_bytes() for path in DEMO.iterdir()}, gated=True)


def private_files(folder: Path) -> list[Path]:
    return list(folder.glob("tmp/*/ngrok.yml"))


def is_for_its_owner_alone(path: Path) -> bool:
    return [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o600, 0o700]


def agent_was_told(diary: Path) -> tuple[str, str]:
    """The arguments of all agents of a run, and their configuration."""
    entries = [json.loads(line) for line in diary.read_text(encoding="utf-8").splitlines()]
    starts = [entry for entry in entries if "arguments" in entry]
    return json.dumps([entry["arguments"] for entry in starts]), json.dumps([entry["config"] for entry in starts])


def test_no_log_and_no_error_tells_a_secret_to_whoever_asks_for_everything(tmp_path: Path) -> None:
    colab = ColabStandIn(tmp_path / "site", Scenario(secrets=SECRETS))
    diary = tmp_path.parent / f"{tmp_path.name}-diary"
    refused = {"session_error": "ERR_NGROK_105", "session_text": "this is not a proper authtoken"}
    form = {"MODEL_NAME": "owner/cat", "USE_GOOGLE_DRIVE_CACHE": False, "FLASK_PORT": free_port()}
    with HubStandIn() as hub:
        hub.tokens = {HF_TOKEN: False}
        hub.models["owner/cat"] = model_of_the_demo()
        telling = {"HF_ENDPOINT": hub.endpoint, "HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"}
        agent = install_agent(tmp_path, diary=str(diary), **refused)
        with kernel(environment(tmp_path, colab, agent) | telling, mark=str(tmp_path), **form) as asked:
            asked.run("install", "settings")
            asked.add(TELL_ALL)
            asked.run("drive", "secrets")
            gated = asked.fail("model")
            hub.tokens = {HF_TOKEN: True}
            asked.run("model", "app")
            bad_token = asked.fail("run")
            install_agent(tmp_path, diary=str(diary))
            opened_by(asked).kernel.interrupt()
            asked.add(SHOW_ALL)
        assert HF_TOKEN in json.dumps([asdict(request) for request in hub.asked])
    arguments, configuration = agent_was_told(diary)
    assert ("is gated" in gated, "ERR_NGROK_105" in bad_token) == (True, True)
    assert (NGROK_TOKEN in configuration, NGROK_TOKEN in arguments, private_files(tmp_path)) == (True, False, [])


def test_what_killed_kernels_leave_is_ended_and_removed_by_the_next_which_takes_the_model_from_drive(
    tmp_path: Path,
) -> None:
    colab = ColabStandIn(tmp_path / "site", Scenario(secrets=SECRETS))
    port = free_port()
    form = {"MODEL_NAME": "owner/cat", "MODEL_DIR": str(tmp_path / "drive/MyDrive/猫 1"), "FLASK_PORT": port}
    with HubStandIn() as hub:
        hub.tokens = {HF_TOKEN: True}
        hub.models["owner/cat"] = model_of_the_demo()
        agent = install_agent(tmp_path, silent=True)
        runtime = environment(tmp_path, colab, agent) | {"HF_ENDPOINT": hub.endpoint}
        local = {"MODEL_NAME": "catbot", "USE_GOOGLE_DRIVE_CACHE": False, "FLASK_PORT": port}
        with kernel(runtime, mark=str(tmp_path), **local) as starting:
            starting.run("install", "settings", "drive", "secrets", "app")
            starting.start("run")
            wait_until(lambda: bool(list(tmp_path.glob("cache/*/processes/ngrok-*.json"))))
            starting.kill()
            [first] = private_files(tmp_path)
            install_agent(tmp_path)
            with kernel(runtime, mark=str(tmp_path), **form) as killed:
                killed.run(*CELLS[:-1])
                opened_by(killed)
                [second] = private_files(tmp_path)
                assert (second != first, is_for_its_owner_alone(second)) == (True, True)
                killed.wait_for("run", "copied .* GB to")
                left = [worker_of(killed), *killed.processes("ngrok_agent.py")]
                # A worker that is stuck does not see that its parent is gone.
                left[0].suspend()
                killed.kill()
                assert (len(left), [process for process in left if not process.is_running()]) == (2, [])
                fetched = len(hub.fetched())
                shutil.rmtree(tmp_path / "cache" / "colab-llm-chat" / "models")
                with kernel(runtime, mark=str(tmp_path), **form) as fresh:
                    fresh.run(*CELLS[:-1])
                    opened = opened_by(fresh)
                    with post(opened.url, "おはよう", key=opened.key) as answer:
                        assert CRY.search(json.load(answer)["response"])
                    assert [process for process in left if process in fresh.processes()] == []
                    fresh.interrupt()
                    assert (private_files(tmp_path), only_the_kernel(fresh)) == ([], True)
        everything = json.dumps([starting.shown(), killed.shown(), fresh.shown()])
    assert [secret for secret in (NGROK_TOKEN, HF_TOKEN) if secret in everything] == []
    assert hub.fetched()[fetched:] == []


# The search itself must be able to fail.

LEAKS = f"""
import os, subprocess, sys
waiting = [sys.executable, "-c", "input()"]
options = {{"stdin": subprocess.PIPE, "env": {{**os.environ, "COPY": "{NGROK_TOKEN}"}}}}
processes = [subprocess.Popen([*waiting, "{HF_TOKEN}"], stdin=subprocess.PIPE), subprocess.Popen(waiting, **options)]
print("{HF_TOKEN}", "https://example.org/#key=sesame")
with open("{{folder}}/some.log", "w") as log:
    log.write("{HF_TOKEN}")
"""


def test_the_search_finds_secrets_wherever_they_show(tmp_path: Path) -> None:
    colab = ColabStandIn(tmp_path / "site", Scenario(secrets=SECRETS))
    with pytest.raises(AssertionError), kernel(environment(tmp_path, colab, Path("none")), mark=str(tmp_path)) as leaky:
        leaky.add(LEAKS.replace("{folder}", str(tmp_path)))
    found = {(name, re.sub(r" (\(|of ).*", "", place)) for name, place in leaky.search.spilled()}
    assert found >= {
        ("HF_TOKEN", "arguments"),
        ("NGROK_AUTHTOKEN", "environment"),
        ("HF_TOKEN", "output"),
        ("access key", "output"),
        ("HF_TOKEN", "some.log"),
    }


@pytest.mark.parametrize(("mode", "spilled"), [(0o600, False), (0o644, True)])
def test_only_a_private_file_of_the_agent_may_hold_the_token(tmp_path: Path, mode: int, spilled: bool) -> None:
    ColabStandIn(tmp_path / "site", Scenario(secrets=SECRETS))
    file = tmp_path / "tmp" / "colab-llm-chat-ngrok-1" / "ngrok.yml"
    file.parent.mkdir(parents=True, mode=0o700)
    file.write_text(json.dumps({"authtoken": NGROK_TOKEN}), encoding="utf-8")
    file.chmod(mode)
    search = Search(tmp_path)
    search.files()
    assert bool(search.spilled()) == spilled
