"""Notes about child processes: what a dead parent left is ended, and nothing else is ever touched."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from colab_llm_chat.colab import orphans

ROOT = Path(__file__).parents[1]
PATIENT = "import signal; print(flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {PATIENT}"
# Notes a child that says when it is ready, and is killed as hard as a kernel can be.
PARENT = """
import os, signal, subprocess, sys
from pathlib import Path
from colab_llm_chat.colab import orphans
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", sys.argv[2]], stdout=subprocess.PIPE)
child.stdout.readline()
orphans.remember(child.pid, "worker", folder=Path(sys.argv[1]))
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
LeaveBehind = Callable[..., psutil.Process]


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's own notes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "colab_llm_chat" / "processes"


@pytest.fixture
def leave_behind(tmp_path: Path) -> Iterator[LeaveBehind]:
    """Make an orphan; whatever a test does to it, it is gone afterwards."""
    left: list[psutil.Process] = []

    def make(folder: Path = tmp_path, *, source: str = PATIENT) -> psutil.Process:
        parent = subprocess.run(
            [sys.executable, "-c", PARENT, str(folder), source], cwd=ROOT, stdout=subprocess.PIPE, check=False
        )
        left.append(psutil.Process(int(parent.stdout)))
        return left[-1]

    yield make
    for process in left:
        if lives(process):
            process.kill()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", PATIENT], stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def lives(process: psutil.Process) -> bool:
    """Whether it runs: a dead one may wait for an init process that never collects it."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def rewrite(notes: Path, **values: object) -> None:
    """Change the one note there is."""
    [note] = notes.glob("*.json")
    note.write_text(json.dumps({**json.loads(note.read_text()), **values}))


@pytest.mark.parametrize("source", [PATIENT, STUBBORN])
def test_what_a_hard_killed_parent_left_is_ended(
    leave_behind: LeaveBehind, notes: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "END_SECONDS", 0.3)
    orphan = leave_behind(source=source)
    assert orphans.end_orphans() == 1
    assert not lives(orphan)
    assert list(notes.iterdir()) == []


def test_a_private_folder_goes_once_its_process_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours = orphans.private_folder("ngrok")
    with subprocess.Popen(["true"]) as ended:
        pass
    left = tmp_path / f"colab-llm-chat-ngrok-{ended.pid}-abc_1"
    left.mkdir()
    orphans.end_orphans()
    assert (ours.exists(), left.exists()) == (True, False)
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700


def test_only_a_folder_of_our_own_making_is_removed(leave_behind: LeaveBehind, tmp_path: Path) -> None:
    ours, other = tmp_path / "colab-llm-chat-ngrok-x", tmp_path / "photos"
    for folder in (ours, other):
        folder.mkdir()
        leave_behind(folder)
    assert orphans.end_orphans() == 2
    assert (ours.exists(), other.exists()) == (False, True)


def test_the_child_of_a_living_parent_is_left(child: subprocess.Popen[bytes], notes: Path) -> None:
    orphans.remember(child.pid, "worker")
    assert orphans.end_orphans() == 0
    assert child.poll() is None
    assert len(list(notes.iterdir())) == 1


def test_a_number_used_again_by_another_process_is_left(child: subprocess.Popen[bytes], notes: Path) -> None:
    orphans.remember(child.pid, "worker")
    rewrite(notes, started=1.0, parent_started=1.0)
    assert orphans.end_orphans() == 0
    assert child.poll() is None
    assert list(notes.iterdir()) == []


def test_a_parent_s_number_used_again_does_not_hide_its_orphan(child: subprocess.Popen[bytes], notes: Path) -> None:
    orphans.remember(child.pid, "worker")
    rewrite(notes, parent_started=1.0)
    assert orphans.end_orphans() == 1
    assert child.wait() != 0


def test_a_forgotten_child_leaves_no_note(child: subprocess.Popen[bytes], notes: Path) -> None:
    orphans.remember(child.pid, "worker")
    assert stat.S_IMODE(notes.stat().st_mode) == 0o700
    orphans.forget(child.pid, "worker")
    orphans.forget(child.pid, "worker")
    assert list(notes.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": "x", "version": 2}'])
def test_a_note_that_cannot_be_read_is_dropped(notes: Path, text: str) -> None:
    notes.mkdir(parents=True)
    (notes / "worker-1.json").write_text(text)
    assert orphans.end_orphans() == 0
    assert list(notes.iterdir()) == []


def test_without_a_place_for_notes_there_is_a_warning(
    child: subprocess.Popen[bytes], notes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes.parent.write_text("a file in the way")
    with caplog.at_level(logging.WARNING):
        orphans.remember(child.pid, "worker")
    assert "cannot be written" in caplog.text
    assert orphans.end_orphans() == 0
    orphans.forget(child.pid, "worker")


def test_a_process_that_is_gone_already_is_not_noted(notes: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    orphans.remember(ended.pid, "worker")
    assert orphans.end_orphans() == 0
