"""Google Drive: mounting it, and keeping a copy of the model there while the chat runs.

A failing Drive costs the copy and one warning, never the chat. How copies are laid out is models/copies.py's matter.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import DriveCopyFailed, DriveRefused, DriveUnavailable
from ..models.copies import ModelCopies, Write
from ..models.record import RECORD, ModelRecord
from ..settings import Settings
from .runtime import in_colab

log = logging.getLogger("colab_llm_chat")

MOUNT_POINT = "/content/drive"
# What Colab shows at the mount's root: one's own files, and those of shared drives.
_ROOTS = ("MyDrive", "My Drive", "Shareddrives", "Shared drives")
CLOSE_SECONDS = 5.0

_WITHOUT = "The chat works without it; the model is downloaded again next time."
_WITHOUT_JAPANESE = "チャットはこのまま使えます(次回はモデルをダウンロードし直します)。"


def mount_drive(mount_point: str = MOUNT_POINT) -> None:
    """Mount Drive unless it is mounted. Raises DriveRefused when the person said no, else DriveUnavailable."""
    if not in_colab():
        raise _unavailable("this is not a Colab notebook", "Colab のノートブックではないため")
    drive: Any = import_module("google.colab.drive")
    message: Any = import_module("google.colab._message")
    try:
        drive.mount(mount_point)
    except NotImplementedError:
        raise _unavailable("this kind of Colab has no Drive", "この種類の Colab では使えないため") from None
    except message.MessageError:
        raise DriveRefused(
            "Access to Google Drive was not given.",
            hint="To keep the model there, run the Drive cell again and allow access in the pop-up. " + _WITHOUT,
            japanese="Google ドライブへのアクセスが許可されませんでした。モデルを保存するには、ドライブのセルを"
            "もう一度実行し、表示される画面で許可してください。" + _WITHOUT_JAPANESE,
        ) from None
    except (ValueError, OSError) as error:
        raise _unavailable(f"Colab says: {error}", f"Colab のメッセージ: {error}") from error


def open_model_dir(model_dir: str) -> Path:
    """The folder for the copies, made when missing; Drive is mounted when it lies there. Raises DriveUnavailable."""
    folder = Path(model_dir).expanduser().absolute()
    mount_point = _mount_point_of(folder)
    if mount_point is not None:
        mount_drive(str(mount_point))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failure(error, folder) from error
    return folder


def settle_drive(settings: Settings) -> Settings:
    """The settings with which to load: Drive mounted and its folder made, or, after one warning, without Drive."""
    if settings.use_google_drive_cache and settings.model_dir:
        try:
            return settings.model_copy(update={"model_dir": str(open_model_dir(settings.model_dir))})
        except DriveUnavailable as error:
            log.warning("%s", error)
    elif not settings.model_dir or _mount_point_of(Path(settings.model_dir)) is None:
        return settings
    # A folder made in Drive's place would keep Drive from being mounted later.
    return settings.model_copy(update={"use_google_drive_cache": False, "model_dir": None})


def keep_on_drive(settings: Settings, folder: str, *, closing: threading.Event | None = None) -> DriveCopy | None:
    """Start copying the loaded model's folder, once the chat is up; None when no copies are wanted.

    The copy ends when `closing` is set, and writes nothing when it is set already.
    """
    if not (settings.use_google_drive_cache and settings.model_dir):
        return None
    model_dir = Path(settings.model_dir).expanduser().absolute()
    copy = DriveCopy(Path(folder), model_dir, model_id=settings.model_id)
    copy.closing = closing or copy.closing
    return copy.start()


def _mount_point_of(folder: Path) -> Path | None:
    """The folder above `MyDrive`; None for a folder that is not on Drive."""
    return next((at.parent for at in reversed([folder, *folder.parents]) if at.name in _ROOTS), None)


def _unavailable(why: str, why_japanese: str) -> DriveUnavailable:
    return DriveUnavailable(
        f"Google Drive cannot be used ({why}).",
        hint="Run the Drive cell again, or set USE_GOOGLE_DRIVE_CACHE to False. " + _WITHOUT,
        japanese=f"Google ドライブを使えません({why_japanese})。ドライブのセルをもう一度実行するか、"
        "USE_GOOGLE_DRIVE_CACHE を False にしてください。" + _WITHOUT_JAPANESE,
    )


class DriveCopy:
    """Copies a downloaded model's folder to Drive in a thread of its own; start it once the chat is up.

    `warning` is what went wrong, told once in the log; None while all is well.
    """

    def __init__(self, folder: Path, model_dir: Path, *, model_id: str, write: Write = os.write) -> None:
        self.warning: DriveCopyFailed | None = None
        self._folder = folder
        self._copies = ModelCopies(model_dir, model_id, write=write)
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drive-copy", daemon=True)

    def start(self) -> DriveCopy:
        self._thread.start()
        return self

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the copy; True when it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End copying: the file in the middle is dropped, whole ones are used next time."""
        self.closing.set()
        self.join(CLOSE_SECONDS)

    def _run(self) -> None:
        record = ModelRecord.read(self._folder / RECORD)
        # Without one it is a folder of the user's, or the demo model.
        if record is None or self.closing.is_set():
            return
        try:
            self._copy(record)
        except _Closed:
            log.info("copying to Drive was ended; it goes on next time")
        except OSError as error:
            self._warn(_failure(error, self._copies.folder))
        except DriveCopyFailed as failure:
            self._warn(failure)

    def _copy(self, record: ModelRecord) -> None:
        self._copies.drop_superseded(record)
        size = record.size_of(self._copies.missing(record))
        free = shutil.disk_usage(self._copies.folder).free
        if size > free:
            raise _too_large(size, free, self._copies.folder)
        began = time.monotonic()
        self._copies.add(self._folder, record, on_bytes=self._go_on)
        if size:
            log.info("copied %.3f GB to %s in %.0f s", size / 1e9, self._copies.folder, time.monotonic() - began)

    def _go_on(self, count: int) -> None:
        if self.closing.is_set():
            raise _Closed

    def _warn(self, failure: DriveCopyFailed) -> None:
        self.warning = failure
        log.warning("%s", failure)


class _Closed(Exception):
    """The copy was asked to end."""


def _too_large(size: int, free: int, folder: Path) -> DriveCopyFailed:
    needed, left = f"{size / 1e9:.1f} GB", f"{free / 1e9:.1f} GB"
    return DriveCopyFailed(
        f"The model was not copied: it needs {needed}, and {folder} has {left} free.",
        hint="Free some space on Drive (and empty its bin), or choose a smaller model or one already in 4 bit, "
        "or set USE_GOOGLE_DRIVE_CACHE to False. " + _WITHOUT,
        japanese=f"モデルをコピーしませんでした({needed} 必要ですが、{folder} の空きは {left} です)。"
        "ドライブの空きを増やす(ゴミ箱も空にする)か、小さいモデルや 4 ビット版のモデルを選ぶか、"
        "USE_GOOGLE_DRIVE_CACHE を False にしてください。" + _WITHOUT_JAPANESE,
    )


_FULL = (
    "it is full or over its quota",
    "Free some space on Drive (and empty its bin), then run all cells again.",
    "容量が足りないか、割り当てを超えています",
    "ドライブの空きを増やして(ゴミ箱も空にして)、全セルを実行し直してください。",
)
_READ_ONLY = (
    "it cannot be written to",
    "Give a folder of your own as MODEL_DIR.",
    "書き込めません",
    "MODEL_DIR に自分の書き込めるフォルダを指定してください。",
)
_GONE = (
    "it has gone away",
    "Run the Drive cell again to mount it.",
    "接続が切れました",
    "ドライブのセルをもう一度実行して接続し直してください。",
)
_OTHER = (
    "it failed",
    "Look at Drive in the browser, then run all cells again.",
    "エラーが起きました",
    "ブラウザでドライブを確かめ、全セルを実行し直してください。",
)
# Drive reports an exceeded quota as an input/output error.
_KINDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO), _FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR), _READ_ONLY),
    **dict.fromkeys((errno.ENOENT, errno.ENOTCONN, errno.ENODEV, errno.ESTALE), _GONE),
}


def _failure(error: OSError, folder: Path) -> DriveCopyFailed:
    what, step, what_japanese, step_japanese = _KINDS.get(error.errno or 0, _OTHER)
    detail = error.strerror or str(error)
    return DriveCopyFailed(
        f"The model is not kept in {folder}: {what} ({detail}).",
        hint=f"{step} {_WITHOUT}",
        japanese=f"モデルを {folder} に保存できません: {what_japanese}({detail})。{step_japanese}{_WITHOUT_JAPANESE}",
    )
