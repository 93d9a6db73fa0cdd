"""Copies of models in a slow folder: what is taken from them, and that a half copy is never taken for a whole one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from colab_llm_chat.models.copies import BLOCK_BYTES, STALE_SECONDS, ModelCopies, copy_file
from colab_llm_chat.models.record import PARTIAL, RECORD, ListedFile, ModelRecord

MODEL = "me/小さな モデル"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 400, "sub/x.jinja": b"{{ x }}"}


def ignore(count: int) -> None:
    """Progress that nobody looks at."""


def record_of(files: dict[str, bytes], *, commit: str = "c1", revision: str | None = None) -> ModelRecord:
    listed = {name: ListedFile(len(content), f"{hash(content):x}") for name, content in files.items()}
    return ModelRecord(revision, commit, listed)


def made(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failing_after(blocks: int, number: int) -> Callable[[int, memoryview], int]:
    """A disk that writes so many blocks, then fails."""
    left = [blocks]

    def write(handle: int, block: memoryview) -> int:
        if not left[0]:
            raise OSError(number, os.strerror(number))
        left[0] -= 1
        return os.write(handle, block)

    return write


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    folder = tmp_path / "マイ ドライブ" / "models"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made(tmp_path / "local")


@pytest.fixture
def kept(drive: Path, source: Path) -> ModelCopies:
    """Copies that hold the model."""
    copies = ModelCopies(drive, MODEL)
    copies.add(source, record_of(FILES), on_bytes=ignore)
    return copies


def taken(copies: ModelCopies, record: ModelRecord, target: Path) -> dict[str, bytes]:
    copies.take(record, list(record.files), target, on_bytes=ignore)
    return contents(target) if target.exists() else {}


def test_what_was_added_comes_back(kept: ModelCopies, tmp_path: Path) -> None:
    assert kept.find(None) == record_of(FILES)
    assert taken(kept, record_of(FILES), tmp_path / "back") == FILES


def test_a_copy_is_plain_files_under_their_own_names_and_a_record(kept: ModelCopies, drive: Path) -> None:
    folder = drive / "me--小さな モデル" / "c1"
    assert set(contents(folder)) == {*FILES, RECORD}
    assert not any(path.is_symlink() for path in drive.rglob("*"))


def test_links_are_followed(drive: Path, tmp_path: Path) -> None:
    blob = made(tmp_path / "blobs", {"abc": b"content"}) / "abc"
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "config.json").symlink_to(blob)
    copies = ModelCopies(drive, MODEL)
    copies.add(tmp_path / "snapshot", record_of({"config.json": b"content"}), on_bytes=ignore)
    copy = next(drive.rglob("config.json"))
    assert (copy.is_symlink(), copy.read_bytes()) == (False, b"content")


def test_every_byte_is_told_once(kept: ModelCopies, tmp_path: Path) -> None:
    told: list[int] = []
    kept.take(record_of(FILES), list(FILES), tmp_path / "back", on_bytes=told.append)
    assert sum(told) == sum(map(len, FILES.values()))


def test_a_file_of_several_blocks_is_copied_whole_through_short_writes(tmp_path: Path) -> None:
    content = os.urandom(BLOCK_BYTES + 12345)
    source = made(tmp_path, {"big": content}) / "big"
    told: list[int] = []
    copy_file(source, tmp_path / "part", on_bytes=told.append, write=lambda to, block: os.write(to, block[:1_000_000]))
    assert ((tmp_path / "part").read_bytes() == content, told) == (True, [BLOCK_BYTES, 12345])


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_half_copy_is_never_taken_and_goes_on_next_time(
    drive: Path, source: Path, tmp_path: Path, blocks: int, number: int
) -> None:
    with pytest.raises(OSError, match="Errno") as caught:
        ModelCopies(drive, MODEL, write=failing_after(blocks, number)).add(source, record_of(FILES), on_bytes=ignore)
    copies = ModelCopies(drive, MODEL)
    assert (caught.value.errno, copies.find(None)) == (number, None)
    assert taken(copies, record_of(FILES), tmp_path / "back") == {}
    assert len(copies.missing(record_of(FILES))) == len(FILES) - blocks
    copies.add(source, record_of(FILES), on_bytes=ignore)
    assert copies.find(None) == record_of(FILES)
    assert {path.name for path in drive.rglob(".*")} == {RECORD}


def test_a_kept_file_is_not_written_again(kept: ModelCopies, drive: Path, source: Path) -> None:
    ModelCopies(drive, MODEL, write=failing_after(0, errno.EIO)).add(source, record_of(FILES), on_bytes=ignore)


@pytest.mark.parametrize("harm", ["cut", "gone", "no record", "broken record", "empty record"])
def test_a_copy_that_was_harmed_is_not_found(kept: ModelCopies, drive: Path, tmp_path: Path, harm: str) -> None:
    weights, record = next(drive.rglob("model.safetensors")), next(drive.rglob(RECORD))
    {
        "cut": lambda: os.truncate(weights, 100),
        "gone": weights.unlink,
        "no record": record.unlink,
        "broken record": lambda: record.write_text("{"),
        "empty record": lambda: record.write_text("[]"),
    }[harm]()
    assert kept.find(None) is None
    assert taken(kept, record_of(FILES), tmp_path / "back") == {}


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil", ""])
def test_a_record_that_names_files_elsewhere_is_not_trusted(drive: Path, name: str) -> None:
    listed = {"size": 0, "blob_id": "1"}
    made(
        drive / "me--x" / "c1",
        {RECORD: json.dumps({"revision": None, "commit": "c1", "files": {name: listed}}).encode()},
    )
    assert ModelCopies(drive, "me/x").find(None) is None


@pytest.mark.parametrize(
    ("kept_as", "asked", "there"),
    [
        (None, None, True),
        (None, "main", True),
        (None, "c1", True),
        ("v1", "v1", True),
        ("v1", None, False),
        (None, "v1", False),
    ],
)
def test_a_copy_answers_only_for_its_revision(
    drive: Path, source: Path, kept_as: str | None, asked: str | None, there: bool
) -> None:
    copies = ModelCopies(drive, MODEL)
    copies.add(source, record_of(FILES, revision=kept_as), on_bytes=ignore)
    assert (copies.find(asked) is not None) is there


def test_only_files_with_the_same_content_are_taken_for_another_commit(kept: ModelCopies, tmp_path: Path) -> None:
    newer = FILES | {"config.json": b"[]"}
    back = taken(kept, record_of(newer, commit="c2"), tmp_path / "back")
    assert back == {name: content for name, content in FILES.items() if name != "config.json"}


def test_a_newer_commit_takes_the_place_of_the_older_without_writing_the_same_again(
    kept: ModelCopies, drive: Path, tmp_path: Path
) -> None:
    newer = FILES | {"config.json": b"[]"}
    kept.drop_superseded(record_of(newer, commit="c2"))
    assert kept.missing(record_of(newer, commit="c2")) == ["config.json"]
    kept.add(made(tmp_path / "newer", newer), record_of(newer, commit="c2"), on_bytes=ignore)
    assert [folder.name for folder in (drive / "me--小さな モデル").iterdir()] == ["c2"]
    assert kept.find(None) == record_of(newer, commit="c2")


def test_another_revision_and_foreign_files_are_left_alone(kept: ModelCopies, drive: Path) -> None:
    kept.drop_superseded(record_of(FILES, commit="c2", revision="v1"))
    assert kept.find(None) is not None
    made(drive / "me--小さな モデル" / "c1", {"notes.txt": b"mine"})
    kept.drop_superseded(record_of({}, commit="c2"))
    assert contents(drive) == {"me--小さな モデル/c1/notes.txt": b"mine"}


def test_what_an_ended_session_left_is_removed_and_a_running_ones_is_not(drive: Path, source: Path) -> None:
    folder = made(drive / "me--小さな モデル" / "c1", {".old.1.part": b"x", ".new.2.part": b"x"})
    long_ago = os.stat(folder).st_mtime - 2 * STALE_SECONDS
    os.utime(folder / ".old.1.part", (long_ago, long_ago))
    ModelCopies(drive, MODEL).add(source, record_of(FILES), on_bytes=ignore)
    assert set(contents(folder)) == {*FILES, RECORD, ".new.2.part"}


def test_two_sessions_writing_at_once_leave_one_whole_copy(drive: Path, source: Path, tmp_path: Path) -> None:
    together = threading.Barrier(2)
    failures: list[OSError] = []

    def write(handle: int, block: memoryview) -> int:
        together.wait(30)
        return os.write(handle, block)

    def add() -> None:
        try:
            ModelCopies(drive, MODEL, write=write).add(source, record_of(FILES), on_bytes=ignore)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert taken(ModelCopies(drive, MODEL), record_of(FILES), tmp_path / "back") == FILES
    assert {path.name for path in drive.rglob(".*")} == {RECORD}


def test_more_files_of_the_same_commit_join_the_copy(kept: ModelCopies, tmp_path: Path) -> None:
    more = FILES | {"code.py": b"pass"}
    kept.add(made(tmp_path / "more", more), record_of(more), on_bytes=ignore)
    kept.add(tmp_path / "more", record_of(FILES), on_bytes=ignore)
    assert kept.find(None) == record_of(more)


def test_a_folder_that_is_gone_is_not_made_again(source: Path, tmp_path: Path) -> None:
    gone = tmp_path / "unmounted"
    copies = ModelCopies(gone, MODEL)
    assert copies.find(None) is None
    with pytest.raises(FileNotFoundError):
        copies.add(source, record_of(FILES), on_bytes=ignore)
    assert not gone.exists()


def test_a_folder_that_vanishes_in_the_middle_is_not_made_again(drive: Path, source: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ModelCopies(drive, MODEL).add(source, record_of(FILES), on_bytes=lambda count: shutil.rmtree(drive))
    assert not drive.exists()


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_disk_that_fails_while_taking_leaves_whole_files_and_a_warning(
    kept: ModelCopies, drive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, blocks: int
) -> None:
    copies = ModelCopies(drive, MODEL, write=failing_after(blocks, errno.ENOSPC))
    told: list[int] = []
    copies.take(record_of(FILES), list(FILES), tmp_path / "back", on_bytes=told.append)
    assert contents(tmp_path / "back").items() <= FILES.items()
    assert sum(told) == sum(map(len, contents(tmp_path / "back").values()))
    assert [entry.levelname for entry in caplog.records].count("WARNING") == 1


def test_an_unfinished_copy_of_an_older_commit_is_removed_too(drive: Path, source: Path) -> None:
    with pytest.raises(OSError, match="Errno"):
        ModelCopies(drive, MODEL, write=failing_after(1, errno.EIO)).add(source, record_of(FILES), on_bytes=ignore)
    assert next(drive.rglob(PARTIAL))
    ModelCopies(drive, MODEL).drop_superseded(record_of({}, commit="c2"))
    assert contents(drive) == {}
