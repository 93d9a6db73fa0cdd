"""The committed notebook in a real kernel: run its cells one by one, read along, interrupt, kill.

Only values of the form are replaced; everything else is what a person runs. Every run is searched, step by step and at
its end, for the secrets that the stand-in Colab hands out, and for the access key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import stat
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

SCENARIO = "*/google/colab/scenario.json"
AGENT_FILE = "tmp/colab-llm-chat-ngrok-*/ngrok.yml"
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "colab_llm_chat.ipynb"
MARK = "NOTEBOOK_UNDER_TEST"
KEYED_LINK = re.compile(r"/#key=([\w-]+)")
CELLS = ("install", "settings", "drive", "secrets", "model", "app", "run")


class Kernel:
    """One kernel with the notebook's cells, which are named by their ids."""

    def __init__(self, environment: dict[str, str], *, mark: str, folder: Path = NOTEBOOK.parent, **form: Any) -> None:
        self.notebook = nbformat.read(NOTEBOOK, as_version=4)
        self.mark = mark
        self.search = Search(Path(mark))
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
                self._client.async_start_new_kernel(env=self._environment(environment), stdout=said, stderr=said)
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
            self.start(name)
            self.join()
        return "".join(self.output(name) for name in names)

    def fail(self, name: str) -> str:
        """Run a cell that cannot succeed, and return what it shows."""
        with pytest.raises(CellExecutionError):
            self.run(name)
        return self.output(name)

    def set(self, **names: Any) -> None:
        """Variables of the kernel."""
        self.add("\n".join(f"{name} = {value!r}" for name, value in names.items()))

    def add(self, source: str) -> str:
        """Run a cell that somebody has added, and return what it prints."""
        cell = nbformat.v4.new_code_cell(source)
        self.notebook.cells.append(cell)
        return self.run(cell.id)

    def start(self, name: str) -> Future[Any]:
        """Run a cell and do not wait for its end."""
        self.look()
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
        self.look()
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
        try:
            self._running.result(120)
        finally:
            self.look()

    def kill(self) -> None:
        """As when the runtime is restarted by force: nothing of the kernel gets to clean up."""
        self.look()
        os.kill(self.pid, signal.SIGKILL)
        with pytest.raises(DeadKernelError):
            self.join()
        self.search.files()

    def shown(self) -> list[tuple[str, str]]:
        """Every output of every cell up to now, with the cell's name."""
        return [*self._past, *((cell.id, self.output(cell.id)) for cell in self._code_cells())]

    def look(self) -> None:
        """Search what shows now: the outputs of all cells, every process of this kernel."""
        now = [(cell.id, json.dumps(cell.outputs)) for cell in self._code_cells()]
        for name, text in [*self._past, *now]:
            self.search.keys |= set(KEYED_LINK.findall(text))
            self.search.text(f"output of {name}", text)
        for process in self.processes():
            self.search.text(f"arguments of {process.pid}", command_line(process))
            with contextlib.suppress(psutil.Error):
                self.search.text(f"environment of {process.pid}", json.dumps(process.environ()))

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

    def _environment(self, environment: dict[str, str]) -> dict[str, str]:
        """Temporary files are made where they are searched."""
        temporary = Path(self.mark) / "tmp"
        temporary.mkdir(exist_ok=True)
        # By this variable a kernel knows a test, and then keeps what its processes write out of the outputs.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        return {**inherited, "TMPDIR": str(temporary), **environment, MARK: self.mark}

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


class Search:
    """Where secrets of one run have shown, as pairs of secret and place."""

    def __init__(self, folder: Path) -> None:
        self.keys: set[str] = set()
        self.seen: set[tuple[str, str]] = set()
        self._folder = folder

    def text(self, place: str, text: str) -> None:
        self.seen |= {(name, place) for name, secret in self._secrets() if secret in text}

    def files(self) -> None:
        """All that lies in the run's folder: logs, notes, caches, histories, temporary files."""
        for parent, _, names in os.walk(self._folder):
            for path in (Path(parent, name) for name in names):
                # The first is Colab's own store, the second the stand-in's note of the page shown in a frame.
                if path.is_file() and path.name not in ("scenario.json", "calls.jsonl"):
                    with contextlib.suppress(FileNotFoundError):
                        self.text(self._place(path), path.read_bytes().decode("latin-1"))

    def spilled(self) -> set[tuple[str, str]]:
        """All but the link's own cell, and the file that is the agent's alone."""
        return self.seen - {("access key", "output of run"), ("NGROK_AUTHTOKEN", "private file of an agent")}

    def _secrets(self) -> list[tuple[str, str]]:
        held = [json.loads(path.read_text(encoding="utf-8"))["secrets"] for path in self._folder.glob(SCENARIO)]
        values = [(name, str(secret["value"]).strip()) for secrets in held for name, secret in secrets.items()]
        return [*((name, value) for name, value in values if value), *(("access key", key) for key in self.keys)]

    def _place(self, path: Path) -> str:
        place = path.relative_to(self._folder)
        modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)]
        if place.match(AGENT_FILE) and modes == [0o600, 0o700]:
            return "private file of an agent"
        return f"{place} ({modes[0]:o})"


@contextlib.contextmanager
def kernel(environment: dict[str, str], *, mark: str, **options: Any) -> Iterator[Kernel]:
    """A kernel that is gone at the end, with all that it started; it must have kept its secrets until then."""
    running = Kernel(environment, mark=mark, **options)
    try:
        yield running
        running.look()
    finally:
        running.close()
        for process in processes_of(mark):
            process.kill()
    running.search.files()
    assert not running.search.spilled(), running.search.spilled()


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
