"""Copies of downloaded models in a slow folder, such as one on Google Drive: taken from it, added to it.

FOLDER/OWNER--NAME/COMMIT/ holds plain files and, put there last, their record. A file appears under its name
only when it is whole, and a commit's files are the same whoever writes them, so several may write at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from .record import PARTIAL, RECORD, ModelRecord

log = logging.getLogger("colab_llm_chat")

OnBytes = Callable[[int], None]
Write = Callable[[int, memoryview], int]

# Network folders are slow by the request, not by the byte.
BLOCK_BYTES = 16 * 2**20
PART = ".part"
# A part that nobody has written to for so long belongs to a session that was ended.
STALE_SECONDS = 3600


class ModelCopies:
    """The copies of one model in `folder`, which must be there: made here, it might hide a lost mount."""

    def __init__(self, folder: Path, model_id: str, *, write: Write = os.write) -> None:
        self.folder = folder
        self._home = folder / folder_name(model_id)
        self._write = write

    def find(self, revision: str | None) -> ModelRecord | None:
        """The record of a whole copy of the revision asked for."""
        return next((record for at, record in self._whole() if record.answers(revision)), None)

    def take(self, record: ModelRecord, names: list[str], target: Path, *, on_bytes: OnBytes) -> None:
        """Copy those of the named files that are kept here into `target`, one after the other.

        Never raises for a disk: what is not there afterwards must be had from elsewhere.
        """
        began, taken = time.monotonic(), 0
        try:
            for name in names:
                source = self._kept(record, name)
                if source is not None:
                    self._take_file(source, target / name, on_bytes)
                    taken += source.stat().st_size
        except OSError as error:
            log.warning("The copy in %s broke off (%s); the rest is downloaded.", self._home, error.strerror or error)
        if taken:
            seconds = time.monotonic() - began
            log.info("%.3f GB from %s in %.0f s", taken / 1e9, self._home, seconds)

    def missing(self, record: ModelRecord) -> list[str]:
        """The files that `add` would write."""
        return record.missing_in(self._home / record.commit)

    def drop_superseded(self, record: ModelRecord) -> None:
        """Remove the copies of what the same branch or tag meant earlier; files that have not changed move on."""
        target = self._home / record.commit
        for at in self._commits():
            old = ModelRecord.read(at / RECORD) or ModelRecord.read(at / PARTIAL)
            if at == target or old is None or (old.revision or "main") != (record.revision or "main"):
                continue
            (at / RECORD).unlink(missing_ok=True)
            for name, listed in old.files.items():
                same = bool(listed.blob_id) and record.files.get(name) == listed and listed.is_whole(at / name)
                with suppress(FileNotFoundError):
                    if same and not listed.is_whole(target / name):
                        self._make_folder((target / name).parent)
                        os.replace(at / name, target / name)
                    else:
                        (at / name).unlink()
            _remove_emptied(at, old)

    def add(self, source: Path, record: ModelRecord, *, on_bytes: OnBytes) -> None:
        """Copy the record's files out of `source`; `on_bytes` may raise to end it. OSError when the folder fails."""
        target = self._home / record.commit
        kept = ModelRecord.read(target / RECORD)
        missing = record.missing_in(target)
        if kept is not None and not missing and record.files.items() <= kept.files.items():
            return
        self._make_folder(target)
        self._sweep(target)
        record.write(target / PARTIAL)
        for name in missing:
            self._make_folder((target / name).parent)
            part = _part_of(target / name)
            with _removed_at_the_end(part):
                copy_file(source / name, part, on_bytes=on_bytes, write=self._write)
                # Only now does a network folder tell that it is full.
                _flush(part)
                os.replace(part, target / name)
        self._finish(target, record, kept)

    def _finish(self, target: Path, record: ModelRecord, kept: ModelRecord | None) -> None:
        lacking = record.missing_in(target)
        if lacking:
            raise FileNotFoundError(None, f"{lacking[0]} has vanished", str(target))
        files = {**(kept.files if kept else {}), **record.files}
        part = _part_of(target / RECORD)
        with _removed_at_the_end(part):
            ModelRecord(record.revision, record.commit, files).write(part)
            os.replace(part, target / RECORD)
        (target / PARTIAL).unlink(missing_ok=True)

    def _take_file(self, source: Path, target: Path, on_bytes: OnBytes) -> None:
        counted = 0

        def count(number: int) -> None:
            nonlocal counted
            counted += number
            on_bytes(number)

        target.parent.mkdir(parents=True, exist_ok=True)
        # One name for all starts: what a killed one left is written over.
        part = target.with_name(target.name + PART)
        with _removed_at_the_end(part):
            try:
                copy_file(source, part, on_bytes=count, write=self._write)
            except OSError:
                on_bytes(-counted)
                raise
            os.replace(part, target)

    def _kept(self, record: ModelRecord, name: str) -> Path | None:
        """A whole file with this content, of whichever commit."""
        wanted = record.files[name]
        for at, kept in self._whole():
            known = bool(wanted.blob_id) or kept.commit == record.commit
            if known and kept.files.get(name) == wanted and wanted.is_whole(at / name):
                return at / name
        return None

    def _whole(self) -> list[tuple[Path, ModelRecord]]:
        records = [(at, ModelRecord.read(at / RECORD)) for at in self._commits()]
        return [(at, record) for at, record in records if record is not None and not record.missing_in(at)]

    def _commits(self) -> list[Path]:
        try:
            return sorted(self._home.iterdir(), key=lambda at: at.stat().st_mtime, reverse=True)
        except OSError:
            return []

    def _make_folder(self, path: Path) -> None:
        for level in reversed([path, *path.parents]):
            if level != self.folder and level.is_relative_to(self.folder):
                level.mkdir(exist_ok=True)

    def _sweep(self, target: Path) -> None:
        for part in target.rglob(f".*{PART}"):
            with suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > STALE_SECONDS:
                    part.unlink()


def folder_name(model_id: str) -> str:
    """The name of a model's folder among others."""
    return model_id.replace("/", "--")


def copy_file(source: Path, part: Path, *, on_bytes: OnBytes, write: Write = os.write) -> None:
    """Copy a file's content (a link's too) from its start to its end, in large blocks."""
    block = memoryview(bytearray(BLOCK_BYTES))
    size = source.stat().st_size
    with open(source, "rb", buffering=0) as reader, open(part, "wb", buffering=0) as writer:
        while count := reader.readinto(block):
            rest = block[:count]
            while rest:
                rest = rest[write(writer.fileno(), rest) :]
            on_bytes(count)
    if part.stat().st_size != size:
        raise OSError(None, f"{source.name} changed while it was copied", str(source))


@contextmanager
def _removed_at_the_end(part: Path) -> Iterator[None]:
    try:
        yield
    finally:
        # The folder may be gone altogether.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    """A name of one's own: another session may be writing the same file."""
    return path.with_name(f".{path.name}.{uuid4().hex[:12]}{PART}")


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _remove_emptied(folder: Path, record: ModelRecord) -> None:
    """The folder itself, unless somebody else keeps something in it."""
    (folder / PARTIAL).unlink(missing_ok=True)
    below = {(folder / name).parent for name in record.files}
    for emptied in sorted({*below, folder}, reverse=True):
        with suppress(OSError):
            emptied.rmdir()
