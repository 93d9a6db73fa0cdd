"""Drive: mounting it with a stand-in `google.colab`, and copying a model to it while something always goes wrong."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from colab_llm_chat.colab.drive import DriveCopy, keep_on_drive, mount_drive, open_model_dir, settle_drive
from colab_llm_chat.colab.runtime import OVERRIDE
from colab_llm_chat.errors import ColabError, DriveCopyFailed, DriveRefused, DriveUnavailable
from colab_llm_chat.models.copies import ModelCopies
from colab_llm_chat.models.record import RECORD, ListedFile, ModelRecord
from colab_llm_chat.settings import Settings
from tests.google_colab import ColabStandIn, Drive, Scenario, forget_colab

MODEL = "me/small"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 400, "tokenizer.json": b"[]"}
RECORDED = ModelRecord(None, "c1", {name: ListedFile(len(content), name) for name, content in FILES.items()})
Write = Callable[[int, memoryview], int]


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ColabStandIn]:
    standin = ColabStandIn(tmp_path / "site")
    monkeypatch.syspath_prepend(str(standin.folder))
    monkeypatch.setenv(OVERRIDE, "1")
    yield standin
    forget_colab()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A downloaded model, its files linked as in the Hub client's cache."""
    folder = tmp_path / "local"
    (tmp_path / "blobs").mkdir()
    folder.mkdir()
    for name, content in FILES.items():
        (tmp_path / "blobs" / name).write_bytes(content)
        (folder / name).symlink_to(tmp_path / "blobs" / name)
    RECORDED.write(folder / RECORD)
    return folder


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "MyDrive" / "チャット の モデル"
    folder.mkdir(parents=True)
    return folder


def has_both_languages(error: ColabError) -> bool:
    english, japanese = str(error).split("\n")
    return error.hint in english and re.search("[ぁ-ん]", japanese) is not None


def copied(local: Path, model_dir: Path, write: Write = os.write) -> DriveCopy:
    """A copy that has come to its end."""
    copy = DriveCopy(local, model_dir, model_id=MODEL, write=write).start()
    assert copy.join(60)
    return copy


def failing(number: int, *, after: int = 1) -> Write:
    """A disk that takes so many files, then fails."""
    left = [after]

    def write(handle: int, block: memoryview) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return os.write(handle, block)

    return write


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]


# Mounting


def test_drive_is_mounted_once_and_mounted_already_is_fine(colab: ColabStandIn, tmp_path: Path) -> None:
    mount_drive(str(tmp_path / "drive"))
    mount_drive(str(tmp_path / "drive"))
    assert (tmp_path / "drive" / "MyDrive").is_dir()


@pytest.mark.parametrize(
    ("drive", "kind", "said"),
    [
        ("refused", DriveRefused, "was not given"),
        ("not_colab", DriveUnavailable, "this kind of Colab"),
        ("enterprise", DriveUnavailable, "this kind of Colab"),
        ("failed", DriveUnavailable, "mount failed"),
        ("timeout", DriveUnavailable, "initial read of root folder"),
        ("domain_disabled", DriveUnavailable, "domain policy"),
        ("not_empty", DriveUnavailable, "already contain files"),
    ],
)
def test_each_way_of_having_no_drive_is_told_in_both_languages(
    colab: ColabStandIn, tmp_path: Path, drive: Drive, kind: type[DriveUnavailable], said: str
) -> None:
    colab.behave(Scenario(drive=drive))
    with pytest.raises(DriveUnavailable) as caught:
        mount_drive(str(tmp_path / "drive"))
    assert (type(caught.value), said in caught.value.message) == (kind, True)
    assert has_both_languages(caught.value)


def test_drive_that_was_refused_can_be_allowed_at_the_next_try(colab: ColabStandIn, tmp_path: Path) -> None:
    colab.behave(Scenario(drive="refused"))
    with pytest.raises(DriveRefused):
        mount_drive(str(tmp_path / "drive"))
    colab.behave(Scenario())
    mount_drive(str(tmp_path / "drive"))


def test_outside_colab_there_is_no_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "0")
    with pytest.raises(DriveUnavailable, match="not a Colab notebook"):
        mount_drive()


@pytest.mark.parametrize("below", ["MyDrive/colab_llm_chat/models", "MyDrive/私の モデル", "Shareddrives/x/MyDrive"])
def test_the_model_folder_is_made_on_the_drive_that_its_path_names(
    colab: ColabStandIn, tmp_path: Path, below: str
) -> None:
    folder = open_model_dir(str(tmp_path / "drive" / below))
    assert folder.is_dir()
    assert [call["mountpoint"] for call in colab.calls("drive.mount")] == [str(tmp_path / "drive")]


def test_a_folder_elsewhere_needs_no_drive(colab: ColabStandIn, tmp_path: Path) -> None:
    assert open_model_dir(str(tmp_path / "models")).is_dir()
    assert colab.calls("drive.mount") == []


def test_without_drive_no_folder_is_made_in_its_place(colab: ColabStandIn, tmp_path: Path) -> None:
    colab.behave(Scenario(drive="failed"))
    with pytest.raises(DriveUnavailable):
        open_model_dir(str(tmp_path / "drive" / "MyDrive" / "models"))
    assert not (tmp_path / "drive").exists()


@pytest.mark.parametrize("below", ["taken", "taken/models"])
def test_a_model_folder_that_cannot_be_made_is_told(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DriveCopyFailed) as caught:
        open_model_dir(str(tmp_path / below))
    assert ("MODEL_DIR" in caught.value.hint, has_both_languages(caught.value)) == (True, True)


# Settings


def test_the_settings_of_a_mounted_drive_stay(colab: ColabStandIn, tmp_path: Path) -> None:
    settings = Settings(model_dir=str(tmp_path / "drive" / "MyDrive" / "models"), use_google_drive_cache=True)
    assert settle_drive(settings) == settings
    assert (tmp_path / "drive" / "MyDrive" / "models").is_dir()


@pytest.mark.parametrize(("wanted", "warnings"), [(True, 1), (False, 0)])
def test_without_drive_models_stay_on_the_local_disk(
    colab: ColabStandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture, wanted: bool, warnings: int
) -> None:
    colab.behave(Scenario(drive="refused"))
    settled = settle_drive(Settings(model_dir=f"{tmp_path}/drive/MyDrive/models", use_google_drive_cache=wanted))
    assert (settled.use_google_drive_cache, settled.model_dir) == (False, None)
    assert (len(warnings_in(caplog)), (tmp_path / "drive").exists()) == (warnings, False)


@pytest.mark.parametrize("settings", [Settings(), Settings(model_dir="models")])
def test_a_local_model_folder_is_none_of_drives_business(settings: Settings) -> None:
    assert settle_drive(settings) == settings
    assert keep_on_drive(settings, "folder") is None


def test_the_loaded_models_folder_is_kept_where_the_settings_say(local: Path, model_dir: Path) -> None:
    copy = keep_on_drive(Settings(model_id=MODEL, model_dir=str(model_dir), use_google_drive_cache=True), str(local))
    assert copy is not None
    assert copy.join(60)
    assert ModelCopies(model_dir, MODEL).find(None) == RECORDED


# Copying


def test_a_model_is_kept_on_drive_as_plain_files(local: Path, model_dir: Path) -> None:
    assert copied(local, model_dir).warning is None
    assert ModelCopies(model_dir, MODEL).find(None) == RECORDED
    kept = {path.name: path for path in model_dir.rglob("*") if path.is_file()}
    assert (set(kept), any(path.is_symlink() for path in kept.values())) == ({*FILES, RECORD}, False)
    assert {name: kept[name].read_bytes() for name in FILES} == FILES


def test_copying_again_writes_nothing(local: Path, model_dir: Path) -> None:
    copied(local, model_dir)
    assert copied(local, model_dir, write=failing(errno.EIO, after=0)).warning is None


def test_a_folder_that_was_not_downloaded_is_not_copied(local: Path, model_dir: Path) -> None:
    (local / RECORD).unlink()
    assert copied(local, model_dir).warning is None
    assert list(model_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "full"),
        (errno.EIO, "quota"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.ENOTCONN, "gone away"),
        (errno.EINVAL, "failed"),
    ],
)
def test_a_failing_drive_is_one_warning_with_the_next_step_and_no_copy(
    local: Path, model_dir: Path, caplog: pytest.LogCaptureFixture, number: int, said: str
) -> None:
    warning = copied(local, model_dir, write=failing(number)).warning
    assert warning is not None
    assert (said in warning.message, has_both_languages(warning)) == (True, True)
    assert warnings_in(caplog) == [str(warning)]
    assert ModelCopies(model_dir, MODEL).find(None) is None
    assert copied(local, model_dir).warning is None
    assert ModelCopies(model_dir, MODEL).find(None) == RECORDED


def test_a_limit_of_the_system_in_the_middle_of_a_file_is_told_as_full(local: Path, model_dir: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from colab_llm_chat.colab.drive import DriveCopy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "copy = DriveCopy(Path(sys.argv[1]), Path(sys.argv[2]), model_id='me/small').start()\n"
        "copy.join(); print(copy.warning.message)"
    )
    ran = subprocess.run([sys.executable, "-c", code, local, model_dir], capture_output=True, text=True, check=True)
    assert "full" in ran.stdout
    assert {path.name for path in model_dir.rglob("*.safetensors*")} == set()


def test_a_file_in_the_place_of_the_models_folder_is_told(local: Path, model_dir: Path) -> None:
    (model_dir / "me--small").write_text("mine")
    warning = copied(local, model_dir).warning
    assert warning is not None
    assert "cannot be written" in warning.message
    assert (model_dir / "me--small").read_text() == "mine"


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_a_drive_that_vanishes_is_told_and_not_made_again(local: Path, model_dir: Path, when: str) -> None:
    def write(handle: int, block: memoryview) -> int:
        shutil.rmtree(model_dir)
        return os.write(handle, block)

    if when == "before":
        model_dir.rmdir()
    warning = copied(local, model_dir, write).warning
    assert warning is not None
    assert "gone away" in warning.message
    assert not model_dir.exists()


def test_a_model_larger_than_drive_is_told_before_anything_is_written(
    local: Path, model_dir: Path, tmp_path: Path
) -> None:
    os.truncate(tmp_path / "blobs" / "model.safetensors", 2**43)
    ModelRecord(None, "c1", {"model.safetensors": ListedFile(2**43, "x")}).write(local / RECORD)
    warning = copied(local, model_dir).warning
    assert warning is not None
    assert ("needs 8796.1 GB" in warning.message, "4 bit" in warning.hint) == (True, True)
    assert has_both_languages(warning)
    assert list(model_dir.iterdir()) == []


def test_closing_drops_the_file_in_the_middle_and_keeps_the_whole_ones(
    local: Path, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = threading.Semaphore(0)

    def write(handle: int, block: memoryview) -> int:
        written.release()
        if len(block) > 100:
            copy.closing.wait()
        return os.write(handle, block)

    copy = DriveCopy(local, model_dir, model_id=MODEL, write=write).start()
    for _ in range(2):
        written.acquire()
    copy.close()
    assert (copy.join(0), copy.warning, warnings_in(caplog)) == (True, None, [])
    assert not list(model_dir.rglob("*.part"))
    assert ModelCopies(model_dir, MODEL).missing(RECORDED) == ["model.safetensors", "tokenizer.json"]


def test_closing_before_the_start_is_fine(local: Path, model_dir: Path) -> None:
    copy = DriveCopy(local, model_dir, model_id=MODEL)
    copy.close()
    assert copy.warning is None
    assert not list(model_dir.rglob("*.safetensors"))


def test_two_notebooks_copying_at_once_leave_one_whole_copy(local: Path, model_dir: Path) -> None:
    copies = [DriveCopy(local, model_dir, model_id=MODEL) for _ in range(3)]
    for copy in copies:
        copy.start()
    assert [copy.join(60) for copy in copies] == [True] * 3
    assert [copy.warning for copy in copies] == [None] * 3
    assert ModelCopies(model_dir, MODEL).find(None) == RECORDED
