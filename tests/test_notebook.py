"""The committed notebook, run whole in a Jupyter kernel with a stand-in Colab and a stand-in ngrok agent."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient.exceptions import CellExecutionError
from playwright.sync_api import Browser

from tests.chat_services import events_of
from tests.google_colab import ColabStandIn, Scenario
from tests.kept_kernels import with_kernels
from tests.ngrok_agent import install_agent
from tests.notebook_kernel import CELLS, NOTEBOOK, Kernel, kernel
from tests.visitors import expect_reply, send, visiting

NGROK_TOKEN = "2abcDEFghiJKLmnoPQRstuVWX_5yzABCdefGHIjklMNOpq"
HF_TOKEN = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"
SECRETS: dict[str, str | None] = {"NGROK_AUTHTOKEN": f"  {NGROK_TOKEN}\n", "HF_TOKEN": HF_TOKEN}
DEMO = NOTEBOOK.parents[1] / "colab_llm_chat" / "models" / "demo"
CRY = re.compile("[ｦ-ﾟ]")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def is_open(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def post(url: str, message: str, *, key: str | None = None, stream: bool = False) -> Any:
    body = json.dumps({"message": message, "stream": stream, "temperature": 0}).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return urllib.request.urlopen(urllib.request.Request(f"{url}/chat", body, headers), timeout=60)


def environment(folder: Path, colab: ColabStandIn, agent: Path) -> dict[str, str]:
    """Of a fresh runtime: nothing remembered, no index to install from."""
    return {
        **colab.environment,
        "PYNGROK_NGROK_PATH": str(agent),
        "XDG_CACHE_HOME": with_kernels(folder / "cache"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PIP_NO_INDEX": "1",
        "NGROK_AUTHTOKEN": "",
        "HF_TOKEN": "",
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtime")


@pytest.fixture(scope="module")
def colab(place: Path) -> ColabStandIn:
    return ColabStandIn(place / "site", Scenario(secrets=SECRETS))


@pytest.fixture(scope="module")
def shared(place: Path, colab: ColabStandIn) -> Iterator[Kernel]:
    """One kernel for all the variants that leave it able to run any cell."""
    agent = install_agent(place)
    form = {
        "MODEL_NAME": "catbot",
        "MODEL_DIR": str(place / "drive" / "MyDrive" / "モデル 1"),
        "FLASK_PORT": free_port(),
    }
    with kernel(environment(place, colab, agent), mark=str(place), **form) as running:
        # Streams show at once that they wait.
        running.set(PING_SECONDS=0.1)
        running.run("install")
        yield running


@dataclass(frozen=True)
class Opened:
    """The last cell, running."""

    kernel: Kernel
    url: str
    key: str
    port: int


def opened_by(kernel: Kernel) -> Opened:
    """Run the last cell and read what it prints, as a person does."""
    if not kernel.is_running("run"):
        kernel.start("run")
    url = kernel.wait_for("run", r"Public URL: (\S+)\n")
    key = kernel.wait_for("run", r"/#key=(\S+)\n")
    kernel.wait_for("run", "Ready")
    return Opened(kernel, url, key, kernel.form["FLASK_PORT"])


@pytest.fixture
def opened(shared: Kernel) -> Opened:
    """All cells run, the last one still running."""
    if not shared.is_running("run"):
        shared.run(*CELLS[1:-1])
    return opened_by(shared)


def test_cells_are_short_and_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code] == list(CELLS)
    assert [
        cell.id for cell in code if len(cell.source.splitlines()) > 15 or cell.outputs or cell.execution_count
    ] == []
    assert (notebook.metadata.accelerator, notebook.metadata.colab.gpuType) == ("GPU", "A100")


def without_errors(kernel: Kernel, name: str) -> bool:
    return not re.search("Traceback|Error", kernel.output(name))


def is_one_clear_message(text: str) -> bool:
    """No traceback, and no more lines than a person reads."""
    return "Traceback" not in text and text.count("Error") == 1 and len(text.strip().splitlines()) <= 12


def is_bilingual(text: str) -> bool:
    return bool(re.search("[a-z]{3}", text) and re.search("[ぁ-ん]", text))


def only_the_kernel(kernel: Kernel) -> bool:
    return [process.pid for process in kernel.processes()] == [kernel.pid]


def worker_of(kernel: Kernel) -> psutil.Process:
    [worker] = kernel.processes("colab_llm_chat.worker")
    return worker


def all_command_lines() -> str:
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))


def test_the_printed_link_opens_the_page_which_answers(opened: Opened, browser: Browser) -> None:
    with visiting(browser) as visitors:
        page = visitors.open(f"{opened.url}/#key={opened.key}")
        send(page, "おはよう")
        expect_reply(page, CRY)


def test_scripts_need_the_key(opened: Opened) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(opened.url, "おはよう")
    refused.value.close()
    with post(opened.url, "おはよう", key=opened.key) as answer:
        assert CRY.search(json.load(answer)["response"])
    assert refused.value.code == 401


def test_a_reply_streams_through_the_public_url(opened: Opened) -> None:
    with post(opened.url, "おはよう", key=opened.key, stream=True) as answer:
        events = events_of(answer.read().decode())
    assert len(events) > 3
    assert CRY.search("".join(event.get("delta", "") for event in events if isinstance(event, dict)))


def test_the_printed_command_works_as_it_stands(opened: Opened) -> None:
    command = opened.kernel.wait_for("run", "curl .*")
    ran = subprocess.run(["sh", "-c", command], capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert CRY.search(json.loads(ran.stdout)["response"])


def test_the_app_has_the_routes_that_its_cell_names(opened: Opened) -> None:
    routes = opened.kernel.output("app")
    assert re.search(r"^GET +/$", routes, re.MULTILINE)
    assert re.search(r"^POST +/chat$", routes, re.MULTILINE)


def test_no_process_shows_a_secret(opened: Opened) -> None:
    lines = all_command_lines()
    assert [secret for secret in (NGROK_TOKEN, HF_TOKEN, opened.key) if secret in lines] == []


def test_an_interrupt_ends_all_and_the_last_cell_can_be_run_again(opened: Opened) -> None:
    kernel = opened.kernel
    kernel.interrupt()
    assert (without_errors(kernel, "run"), only_the_kernel(kernel)) == (True, True)
    assert not is_open(opened.url)
    assert not is_open(f"http://127.0.0.1:{opened.port}")
    again = opened_by(kernel)
    with post(again.url, "おはよう", key=again.key) as answer:
        assert CRY.search(json.load(answer)["response"])
    assert again.key == opened.key


def test_an_interrupt_ends_a_stream_with_an_event_and_a_second_one_does_not_cut_the_end_short(opened: Opened) -> None:
    kernel = opened.kernel
    worker = worker_of(kernel)
    worker.suspend()
    with post(opened.url, "おはよう", key=opened.key, stream=True) as answer:
        assert answer.readline().startswith(b":")
        kernel.press_stop()
        kernel.press_stop()
        last = answer.read().decode()
    worker.resume()
    kernel.join()
    assert "stopping" in last
    assert (without_errors(kernel, "run"), only_the_kernel(kernel)) == (True, True)


# What goes wrong is told in one message, and the cell can be run again.


@pytest.fixture
def stopped(shared: Kernel) -> Kernel:
    """The kernel with nothing running, no model loaded, the cells up to the token's run."""
    if shared.is_running("run"):
        shared.interrupt()
    shared.run("settings", "drive", "secrets")
    return shared


@pytest.fixture
def built(stopped: Kernel) -> Kernel:
    """Ready for the last cell, which then loads the model itself."""
    stopped.run("app")
    return stopped


@pytest.mark.parametrize(
    ("secrets", "told"),
    [({}, "There is no secret NGROK_AUTHTOKEN"), ({"NGROK_AUTHTOKEN": None}, "has no access to the secret")],
)
def test_a_secret_that_cannot_be_had_ends_the_cell_with_the_next_step(
    stopped: Kernel, colab: ColabStandIn, secrets: dict[str, str | None], told: str
) -> None:
    colab.behave(Scenario(secrets=secrets))
    shown = stopped.fail("secrets")
    colab.behave(Scenario(secrets=SECRETS))
    assert told in shown
    assert (is_one_clear_message(shown), is_bilingual(shown)) == (True, True)
    stopped.run("secrets")


def test_a_wrong_value_in_the_form_is_named_by_its_field(stopped: Kernel) -> None:
    stopped.set_form(TEMPERATURE=3.5)
    shown = stopped.fail("settings")
    stopped.set_form(TEMPERATURE=0.7)
    assert "TEMPERATURE: Input should be less than or equal to 2 (given: 3.5)" in shown
    assert (is_one_clear_message(shown), is_bilingual(shown)) == (True, True)


REFUSALS = {
    "ERR_NGROK_105": {"session_error": "ERR_NGROK_105", "session_text": "does not look like a proper authtoken"},
    "ERR_NGROK_334": {"endpoint_error": "ERR_NGROK_334", "endpoint_text": "is already online"},
}


def test_a_refusal_of_ngrok_and_a_taken_port_are_one_message_and_leave_the_model_for_the_next_try(
    built: Kernel, place: Path
) -> None:
    built.run("model")
    port, worker = built.form["FLASK_PORT"], worker_of(built).pid
    for code, refusal in REFUSALS.items():
        install_agent(place, **refusal)
        shown = built.fail("run")
        assert (code in shown, is_one_clear_message(shown), is_bilingual(shown)) == (True, True, True)
        assert {process.pid for process in built.processes()} == {built.pid, worker}
    install_agent(place)
    with socket.create_server(("127.0.0.1", port)):
        shown = built.fail("run")
        free = re.search(r"FLASK_PORT = (\d+) is free", shown)
        assert free, shown
        assert f"process {os.getpid()}" in shown
        assert (is_one_clear_message(shown), is_bilingual(shown)) == (True, True)
        built.set_form(FLASK_PORT=int(free[1]))
        built.run(*CELLS[1:-1])
        assert opened_by(built).port > port
    assert worker_of(built).pid == worker
    built.interrupt()
    assert only_the_kernel(built)


def test_a_model_that_does_not_fit_names_the_fields_that_would(stopped: Kernel, tmp_path: Path) -> None:
    large = tmp_path / "large"
    shutil.copytree(DEMO, large)
    header = json.dumps({"w": {"dtype": "F16", "shape": [2**39], "data_offsets": [0, 2**40]}}).encode()
    (large / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    # A hole takes no room on the disk.
    os.truncate(large / "model.safetensors", 8 + len(header) + 2**40)
    stopped.set_form(MODEL_NAME=str(large))
    stopped.run("settings")
    shown = stopped.fail("model")
    stopped.set_form(MODEL_NAME="catbot")
    shown = shown.rpartition("\r")[2].partition("\n")[2]
    assert ("GB free" in shown, 'QUANTIZATION = "4bit"' in shown, "MODEL_NAME" in shown) == (True, True, True)
    assert (is_one_clear_message(shown), is_bilingual(shown), only_the_kernel(stopped)) == (True, True, True)


def test_an_interrupt_while_the_model_loads_ends_the_worker_and_the_cell_can_be_run_again(stopped: Kernel) -> None:
    stopped.set_form(QUANTIZATION="none")
    stopped.run("settings")
    stopped.start("model")
    stopped.wait_for("model", "%")
    with pytest.raises(CellExecutionError):
        stopped.interrupt()
    shown = stopped.output("model").splitlines()
    assert any("Loading was interrupted" in line for line in shown)
    assert ("Traceback" in stopped.output("model"), only_the_kernel(stopped)) == (False, True)
    assert "Ready" in stopped.run("model")


def test_only_what_changed_is_loaded_again(stopped: Kernel) -> None:
    stopped.run("model")
    before = worker_of(stopped).pid
    stopped.set_form(MAX_NEW_TOKENS=2, FLASK_PORT=free_port())
    stopped.run("settings", "model")
    same = worker_of(stopped).pid
    stopped.set(MAX_ROWS=3)
    stopped.run("settings", "model", "app")
    opened = opened_by(stopped)
    with post(opened.url, "おはよう", key=opened.key) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] == 2
    after = worker_of(stopped).pid
    stopped.interrupt()
    stopped.set_form(MAX_NEW_TOKENS=512)
    assert (before == same, same != after) == (True, True)


def test_an_app_of_other_settings_is_not_opened(built: Kernel) -> None:
    built.set_form(SYSTEM_PROMPT="猫です。")
    built.run("settings")
    before = built.processes()
    shown = built.fail("run")
    assert "The settings have changed" in shown
    assert (is_one_clear_message(shown), is_bilingual(shown), built.processes()) == (True, True, before)


@pytest.mark.parametrize("how", ["off", "refused"])
def test_without_drive_the_whole_notebook_works(stopped: Kernel, colab: ColabStandIn, place: Path, how: str) -> None:
    before = dict(stopped.form)
    folder = place / f"drive-{how}" / "MyDrive" / "models"
    stopped.set_form(MODEL_DIR=str(folder), USE_GOOGLE_DRIVE_CACHE=how != "off")
    colab.behave(Scenario(secrets=SECRETS, drive="refused"))
    stopped.run(*CELLS[1:-1])
    opened = opened_by(stopped)
    with post(opened.url, "おはよう", key=opened.key) as answer:
        assert CRY.search(json.load(answer)["response"])
    colab.behave(Scenario(secrets=SECRETS))
    stopped.set_form(MODEL_DIR=before["MODEL_DIR"], USE_GOOGLE_DRIVE_CACHE=True)
    shown = stopped.output("drive")
    assert ("the local disk" in shown, folder.exists(), "was not given" in shown) == (True, False, how == "refused")


def test_without_a_tunnel_the_page_is_shown_in_the_notebook(built: Kernel, colab: ColabStandIn) -> None:
    built.set_form(TUNNEL="colab")
    built.run("settings", "app")
    built.start("run")
    port = built.form["FLASK_PORT"]
    key = built.wait_for("run", rf"https://abc-{port}-colab\.googleusercontent\.com/#key=(\S+)\n")
    built.wait_for("run", "To stop")
    built.interrupt()
    built.set_form(TUNNEL="ngrok")
    [frame] = colab.calls("output.serve_kernel_port_as_iframe")
    assert (frame["port"], frame["path"]) == (port, f"/#key={key}")
    assert "Colab's terms" in built.output("run")


def test_secrets_stand_nowhere_but_in_the_last_cell_and_the_token_nowhere_at_all(shared: Kernel, place: Path) -> None:
    logs = "".join(path.read_text(encoding="utf-8", errors="replace") for path in place.rglob("*.log"))
    shown = shared.shown()
    everywhere = logs + "".join(text for _, text in shown)
    [key] = set(re.findall(r"/#key=(\S+)\n", everywhere))
    assert [secret for secret in (NGROK_TOKEN, HF_TOKEN) if secret in everywhere] == []
    assert {name for name, text in shown if key in text} == {"run"}
    assert key not in logs


# Kernels of their own.


def test_without_a_checkout_the_first_cell_clones_it(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    (origin / "colab_llm_chat").mkdir(parents=True)
    (origin / "colab_llm_chat" / "notebook.py").write_text("Notebook = 'the cloned one'")
    (origin / "requirements.txt").write_text("click>=8\n")
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "--message", "Begin"]):
        subprocess.run(["git", *words], cwd=origin, check=True)
    runtime = environment(tmp_path, ColabStandIn(tmp_path / "site"), install_agent(tmp_path))
    checkout = tmp_path / "content" / "colab-llm-chat"
    checkout.parent.mkdir()
    with kernel(runtime, mark=str(tmp_path), folder=checkout.parent, REPOSITORY_URL=origin.as_uri()) as fresh:
        for before in ("nothing", "all", "half"):
            if before == "half":
                (checkout / "requirements.txt").unlink()
            assert str(checkout) in fresh.run("install")
        assert (checkout / "requirements.txt").exists()


def test_an_address_that_cannot_be_cloned_is_named_without_a_traceback(tmp_path: Path) -> None:
    runtime = environment(tmp_path, ColabStandIn(tmp_path / "site"), install_agent(tmp_path))
    (tmp_path / "content").mkdir()
    with kernel(runtime, mark=str(tmp_path), folder=tmp_path / "content", REPOSITORY_URL=str(tmp_path / "no")) as fresh:
        shown = fresh.fail("install")
    assert ("does not exist" in shown, "correct REPOSITORY_URL" in shown, "を直し" in shown) == (True, True, True)
    assert "Traceback" not in shown
