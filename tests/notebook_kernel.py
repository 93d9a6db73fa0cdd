"""The committed notebook in a real kernel: run its cells one by one, read along, interrupt, kill.

Only values of the form are replaced; everything else is what a person runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from tests.chat_services import wait_until

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "colab_llm_chat.ipynb"
MARK = "NOTEBOOK_UNDER_TEST"
CELLS = ("install", "settings", "drive", "secrets", "model", "app", "run")


class Kernel:
    """One kernel with the notebook's cells, which are named by their ids."""

    def __init__(self, environment: dict[str, str], *, mark: str, folder: Path = NOTEBOOK.parent, **form: Any) -> None:
        self.notebook = nbformat.read(NOTEBOOK, as_version=4)
        self.mark = mark
        self.form: dict[str, Any] = {}
        self.set_form(**form)
        self._past: list[tuple[str, str]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = NotebookClient(self.notebook, timeout=None, resources={"metadata": {"path": str(folder)}})
        self._client.create_kernel_manager()
        # What the kernel's processes say past the notebook; each of them has a copy of the file of its own.
        with open(Path(mark) / f"{len(list(Path(mark).glob('*.log')))}.log", "wb") as said:
            self._call(
                self._client.async_start_new_kernel(
                    env={**os.environ, **environment, MARK: mark}, stdout=said, stderr=said
                )
            )
        self._call(self._client.async_start_new_kernel_client())
        self._running: Future[Any] = Future()
        self._started = ""

    def set_form(self, **form: Any) -> None:
        """Put other values into the fields of the form, wherever they stand."""
        self.form |= form
        for name, value in form.items():
            pattern = re.compile(rf"^{name} = .*?(?=  # @param)", re.MULTILINE)
            changed = 0
            for cell in self._code_cells():
                cell.source, count = pattern.subn(lambda _, name=name, value=value: f"{name} = {value!r}", cell.source)
                changed += count
            assert changed == 1, f"the form has no field {name}"

    def run(self, *names: str) -> str:
        """Run these cells to their end, and return what they print. Raises CellExecutionError."""
        for name in names:
            self.start(name).result(120)
        return "".join(self.output(name) for name in names)

    def fail(self, name: str) -> str:
        """Run a cell that cannot succeed, and return what it shows."""
        with pytest.raises(CellExecutionError):
            self.run(name)
        return self.output(name)

    def set(self, **names: Any) -> None:
        """Variables of the kernel, as from a cell that somebody has added."""
        cell = nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in names.items()))
        self.notebook.cells.append(cell)
        self.run(cell.id)

    def start(self, name: str) -> Future[Any]:
        """Run a cell and do not wait for its end."""
        cell = self._cell(name)
        self._started = name
        self._past.append((name, self.output(name)))
        cell.outputs = []
        self._running = self._submit(self._client.async_execute_cell(cell, self.notebook.cells.index(cell)))
        return self._running

    def is_running(self, name: str) -> bool:
        return self._started == name and not self._running.done()

    def wait_for(self, name: str, pattern: str) -> str:
        """Wait until a running cell has printed this; the first group of the match."""
        wait_until(lambda: bool(re.search(pattern, self.output(name))) or self._ended())
        match = re.search(pattern, self.output(name))
        assert match, self.output(name)
        return match[1] if match.groups() else match[0]

    def output(self, name: str) -> str:
        """All that stands below a cell: streams, results, and errors as they are shown."""
        texts = []
        for output in list(self._cell(name).outputs):
            texts.append(output.get("text", "") or "\n".join(output.get("traceback", [])))
        return "".join(texts)

    def press_stop(self) -> None:
        """The cell's ■."""
        self._call(self._client.km.interrupt_kernel())

    def interrupt(self) -> None:
        """The cell's ■ until the cell has ended. Raises CellExecutionError when it ends with an error."""
        self.press_stop()
        self.join()

    def join(self) -> None:
        """Wait for the end of the cell that runs. Raises CellExecutionError when it ends with an error."""
        self._running.result(60)

    def kill(self) -> None:
        """As when the runtime is restarted by force: nothing of the kernel gets to clean up."""
        os.kill(self.pid, signal.SIGKILL)
        with pytest.raises(DeadKernelError):
            self._running.result(60)

    def shown(self) -> list[tuple[str, str]]:
        """Every output of every cell up to now, with the cell's name."""
        return [*self._past, *((cell.id, self.output(cell.id)) for cell in self._code_cells())]

    @property
    def pid(self) -> int:
        return int(self._client.km.provisioner.pid)

    def processes(self, words: str = "") -> list[psutil.Process]:
        """All that stems from this kernel and still lives, by their command lines."""
        return [process for process in processes_of(self.mark) if words in command_line(process)]

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._call(self._client._async_cleanup_kernel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _code_cells(self) -> list[Any]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    def _cell(self, name: str) -> Any:
        return next(cell for cell in self._code_cells() if cell.id == name)

    def _ended(self) -> bool:
        return self._running.done()

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._submit(work).result(60)


@contextlib.contextmanager
def kernel(environment: dict[str, str], *, mark: str, **options: Any) -> Iterator[Kernel]:
    """A kernel that is gone at the end, with all that it started."""
    running = Kernel(environment, mark=mark, **options)
    try:
        yield running
    finally:
        running.close()
        for process in processes_of(mark):
            process.kill()


def processes_of(mark: str) -> list[psutil.Process]:
    """Living processes with this mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def command_line(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
