"""Processes that outlive a hard-killed parent: each is noted in a file, and the next start ends what was left behind.

Knows process ids and start times, not what the processes do. A process whose parent lives is never touched.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

log = logging.getLogger("colab_llm_chat")

FOLDER_PREFIX = "colab-llm-chat-"
# Of the process that made a private folder.
MADE_BY = re.compile(r"-(\d+)-[^-]+$")
END_SECONDS = 3.0
CHECK_SECONDS = 0.02
# A start time is reckoned from the time of boot, which shifts when the clock is set right.
CLOCK_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """A process and the one that started it, each with its start time: process ids are used again."""

    pid: int
    started: float
    parent: int
    parent_started: float
    folder: str | None = None


def remember(pid: int, kind: str, *, folder: Path | None = None) -> None:
    """Note a child of this process, so that the next start can end it and remove its private `folder`."""
    try:
        note = _Note(
            pid=pid,
            started=psutil.Process(pid).create_time(),
            parent=os.getpid(),
            parent_started=psutil.Process().create_time(),
            folder=str(folder) if folder else None,
        )
        notes = _notes_folder()
        notes.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = notes / f".{kind}-{pid}"
        fresh.write_text(json.dumps(asdict(note)), encoding="utf-8")
        fresh.replace(notes / f"{kind}-{pid}.json")
    except psutil.NoSuchProcess:
        log.debug("the %s ended before it could be noted", kind)
    except OSError as error:
        log.warning("A hard kill would leave the %s running: %s cannot be written (%s)", kind, error.filename, error)


def forget(pid: int, kind: str) -> None:
    """The child ended in good order."""
    _remove(_notes_folder() / f"{kind}-{pid}.json")


def private_folder(kind: str) -> Path:
    """A new folder that only this user can read; what a hard kill leaves of it the next start removes."""
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{kind}-{os.getpid()}-"))


def end_orphans() -> int:
    """End the noted processes whose parent is gone, and remove private folders of such; tells how many were ended."""
    ended = 0
    for path in sorted(_notes_folder().glob("*.json")):
        note = _read(path)
        if note is not None and _running(note.parent, note.parent_started):
            continue
        if note is not None:
            ended += _end(note.pid, note.started)
            _remove_folder(note.folder)
        _remove(path)
    if ended:
        log.info("Ended %d process(es) that an earlier run left behind", ended)
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*-*"):
        made_by = MADE_BY.search(folder.name)
        if made_by and not psutil.pid_exists(int(made_by[1])):
            _remove_folder(str(folder))
    return ended


def _notes_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "colab_llm_chat" / "processes"


def _read(path: Path) -> _Note | None:
    """None for what cannot be a note: a file cut short, or written by another version."""
    try:
        return _Note(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _running(pid: int, started: float) -> psutil.Process | None:
    """The process that was noted; None when it is gone and its number, perhaps, another's."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < CLOCK_SECONDS
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _end(pid: int, started: float) -> bool:
    """Ask, then insist: a process that is asked can still tell its other side that it leaves."""
    process = _running(pid, started)
    if process is None:
        return False
    for ask in (process.terminate, process.kill):
        try:
            ask()
        except psutil.Error:
            break
        until = time.monotonic() + END_SECONDS
        while _running(pid, started) and time.monotonic() < until:
            time.sleep(CHECK_SECONDS)
        if not _running(pid, started):
            break
    return True


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.debug("%s stays: %s", path, error)


def _remove_folder(folder: str | None) -> None:
    # A note names what to delete, so only a folder of our own making is believed.
    if folder and Path(folder).name.startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
