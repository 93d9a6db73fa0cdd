"""The committed notebook, run whole in a Jupyter kernel with a stand-in Colab and a stand-in ngrok agent."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Browser

from tests.browser import launched
from tests.google_colab import ColabStandIn, Scenario
from tests.ngrok_agent import install_agent
from tests.notebook_kernel import CELLS, NOTEBOOK, Kernel, kernel
from tests.visitors import expect_reply, send, visiting

NGROK_TOKEN = "2abcDEFghiJKLmnoPQRstuVWX_5yzABCdefGHIjklMNOpq"
HF_TOKEN = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"
SECRETS: dict[str, str | None] = {"NGROK_AUTHTOKEN": f"  {NGROK_TOKEN}\n", "HF_TOKEN": HF_TOKEN}
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
        "XDG_CACHE_HOME": str(folder / "cache"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PIP_NO_INDEX": "1",
        "NGROK_AUTHTOKEN": "",
        "HF_TOKEN": "",
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtime 実行")


@pytest.fixture(scope="module")
def colab(place: Path) -> ColabStandIn:
    return ColabStandIn(place / "site", Scenario(secrets=SECRETS))


@pytest.fixture(scope="module")
def shared(place: Path, colab: ColabStandIn) -> Iterator[Kernel]:
    """One kernel for the variants that leave it as it was: installed, idle, able to run any cell."""
    agent = install_agent(place)
    form = {
        "MODEL_NAME": "catbot",
        "MODEL_DIR": str(place / "drive" / "MyDrive" / "モデル 1"),
        "FLASK_PORT": free_port(),
    }
    with kernel(environment(place, colab, agent), mark=str(place), **form) as running:
        yield running


@pytest.fixture
def opened(shared: Kernel) -> Iterator[tuple[Kernel, str, str]]:
    """All cells run, the last one still running: the kernel, the public URL, the access key."""
    shared.run(*CELLS[:-1])
    shared.start("run")
    url = shared.wait_for("run", r"Public URL: (\S+)\n")
    yield shared, url, shared.wait_for("run", r"/#key=(\S+)")
    shared.interrupt()


def test_cells_are_short_and_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code] == list(CELLS)
    assert [
        cell.id for cell in code if len(cell.source.splitlines()) > 15 or cell.outputs or cell.execution_count
    ] == []
    assert (notebook.metadata.accelerator, notebook.metadata.colab.gpuType) == ("GPU", "A100")


def test_the_printed_link_opens_the_page_which_answers(opened: tuple[Kernel, str, str], browser: Browser) -> None:
    _, url, key = opened
    with visiting(browser) as visitors:
        page = visitors.open(f"{url}/#key={key}")
        send(page, "おはよう")
        expect_reply(page, CRY)
