"""The committed notebook of the terminal chat, run whole in a Jupyter kernel by somebody who types below its cell."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from jupyter_client.manager import start_new_kernel

from tests.google_colab import ColabStandIn, Scenario
from tests.kept_kernels import with_kernels
from tests.notebook_kernel import MARK, NOTEBOOK, processes_of

TERMINAL_NOTEBOOK = NOTEBOOK.with_name("terminal_chat.ipynb")
MORNING = "ﾆｬｰﾝ（伸びをする）"
HF_TOKEN = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"
TYPED = [
    "/set temperature 0",
    "おはよう",
    "/set repetition_penalty 0.2",
    "/set max_new_tokens 2000",
    r"\ねこ",
    "/undo",
    "exit",
]


class Cells:
    """The notebook's code cells in a kernel, its form filled in, and all that they print."""

    def __init__(self, manager: Any, client: Any) -> None:
        self._manager, self._client = manager, client
        self._typed = iter(TYPED)
        self._pressed = False
        self.shown = ""
        self.results: list[str] = []

    def run(self, **form: str) -> None:
        for cell in code_cells():
            source = cell.source
            for name, value in form.items():
                source = re.sub(rf"^{name} = .*?(?=  # @param)", f"{name} = {value!r}", source, flags=re.MULTILINE)
            self._client.execute_interactive(
                source, allow_stdin=True, timeout=120, stdin_hook=self._type, output_hook=self._show
            )

    def _type(self, message: dict[str, Any]) -> None:
        # The prompt comes by another way than what is printed, and may come before the end of that.
        assert message["content"]["prompt"] == "> "
        self._client.input(next(self._typed))

    def _show(self, message: dict[str, Any]) -> None:
        content = message["content"]
        self.shown += content.get("text", "") or "\n".join(content.get("traceback", []))
        if message["msg_type"] == "execute_result":
            self.results.append(content["data"]["text/plain"])
        if "ここここ" in self.shown and not self._pressed:
            # The cell's ■.
            self._pressed = True
            self._manager.interrupt_kernel()


def code_cells() -> list[Any]:
    return [cell for cell in nbformat.read(TERMINAL_NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cells, list[psutil.Process]]]:
    """A run from the first cell to the last, and the processes that it left."""
    place = tmp_path_factory.mktemp("notebook")
    colab = ColabStandIn(place / "site", Scenario(secrets={"HF_TOKEN": HF_TOKEN}))
    inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    own = {"IPYTHONDIR": str(place / "ipython"), "PIP_NO_INDEX": "1", "HF_TOKEN": "", MARK: str(place)}
    environment = {**inherited, **colab.environment, **own, "XDG_CACHE_HOME": with_kernels(place / "cache")}
    manager, client = start_new_kernel(env=environment, cwd=str(Path(TERMINAL_NOTEBOOK).parent))
    try:
        cells = Cells(manager, client)
        cells.run(MODEL_NAME="catbot")
        yield cells, processes_of(str(place))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        with contextlib.suppress(OSError):
            manager.cleanup_resources()


def test_cells_are_short_without_outputs_and_the_last_one_talks() -> None:
    nbformat.validate(nbformat.read(TERMINAL_NOTEBOOK, as_version=4))
    cells = code_cells()
    assert [
        cell.id for cell in cells if len(cell.source.splitlines()) > 15 or cell.outputs or cell.execution_count
    ] == []
    assert 'main(["-m", MODEL_NAME' in cells[-1].source
    assert 'MODEL_NAME = "elyza/ELYZA-japanese-Llama-2-7b-instruct"' in cells[-1].source
    assert [flag for flag in ("-t", "-S", "-T") if flag not in cells[-1].source] == []


def test_all_cells_run_and_somebody_talks(talked: tuple[Cells, list[psutil.Process]]) -> None:
    shown = talked[0].shown
    assert [error for error in ("Traceback", "Error", "INFO") if error in shown] == []
    for line in ("Model Name: catbot", "Hub Credential: set", "Loading model...", "Task: chat", "It's time to talk!"):
        assert f"{line}\n" in shown
    assert (MORNING in shown, HF_TOKEN in shown, talked[0].results) == (True, False, [])


def test_the_cells_stop_button_stops_a_reply_and_the_chat_goes_on(talked: tuple[Cells, list[psutil.Process]]) -> None:
    after = talked[0].shown.partition("ここここ")[2]
    assert "(Stopped. /continue goes on, /retry asks again.)" in after
    assert r"(Taken back: \ねこ)" in after
    assert after.endswith("See you!\n")


def test_the_engine_ends_with_the_chat(talked: tuple[Cells, list[psutil.Process]]) -> None:
    assert len(talked[1]) == 1
