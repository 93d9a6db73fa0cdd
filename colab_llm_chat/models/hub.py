"""Where a model's files come from: the bundled demo, a folder, the Hub, or an earlier download of it.

Nothing here imports torch or transformers, and nothing looks into the weights.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BrokenModel, HubUnreachable, LoadError, ModelNotFound, UnsupportedModel, UsageError
from ..settings import DEMO_MODEL, Settings
from .copies import ModelCopies, folder_name
from .hub_errors import Asked, hub_errors, no_room
from .hub_files import choose_files, missing_files
from .record import PARTIAL, RECORD, ListedFile, ModelRecord

log = logging.getLogger("colab_llm_chat")

OnProgress = Callable[[float, str], None]

DEMO_FOLDER = Path(__file__).parent / "demo"


@dataclass(frozen=True)
class ModelFiles:
    """A folder that holds a whole model; `revision` is the commit on the Hub, None for a folder of the user's."""

    folder: Path
    model_id: str
    revision: str | None


def fetch_model(
    settings: Settings, *, to: Path | None = None, on_progress: OnProgress = lambda fraction, detail: None
) -> ModelFiles:
    """A folder with the model's files, `to` if given, downloaded when it must be; any failure is one LoadError.

    `on_progress` gets a fraction of 0 to 1 and a line to show, from the downloading threads, one at a time.
    """
    model_id = settings.model_id
    folder = DEMO_FOLDER if model_id == DEMO_MODEL else _own_folder(model_id)
    if folder is not None:
        return ModelFiles(folder, model_id, None)
    place = _place(settings) if to is None else _Place(_own_place(to))
    hf_token = settings.hf_token.get_secret_value() if settings.hf_token else None
    source = _HubModel(model_id, settings.revision or None, _checked_token(hf_token), place, settings.trust_remote_code)
    with hub_errors(source.asked):
        return source.fetch(on_progress)


@dataclass(frozen=True)
class _Place:
    """Where files go: `target`, or the client's own cache when None; `copies` is looked at before the Hub."""

    target: Path | None
    copies: ModelCopies | None = None


def _place(settings: Settings) -> _Place:
    if not settings.model_dir:
        return _Place(None)
    kept_in = Path(os.path.expanduser(settings.model_dir)).absolute()
    if not settings.use_google_drive_cache:
        return _Place(kept_in / folder_name(settings.model_id))
    local = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "colab-llm-chat", "models")
    return _Place(local.absolute() / folder_name(settings.model_id), ModelCopies(kept_in, settings.model_id))


def _own_place(folder: Path) -> Path:
    """A folder of the user's for one model: what else lies in it might have the names of the model's files."""
    folder = folder.expanduser().absolute()
    try:
        there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise UsageError(
            f"{str(folder)!r} cannot be used as a folder: {error.strerror}.", hint="Name another folder."
        ) from error
    if there and not there & {RECORD, PARTIAL}:
        raise UsageError(
            f"The folder {str(folder)!r} holds other files, which a model's could replace.",
            hint="Name an empty or a new folder.",
        )
    return folder


def _own_folder(model_id: str) -> Path | None:
    """The folder that `model_id` names; None when it can only be a Hub id."""
    path = os.path.expanduser(model_id)
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "config.json")):
            raise BrokenModel(
                f"The folder {path!r} holds no config.json, so it is not a model.",
                hint="Give the folder that holds config.json, the weights and the tokenizer.",
            )
        return Path(path).absolute()
    if model_id.startswith(("http://", "https://")):
        raise ModelNotFound(f"{model_id!r} is an address, not a model.", hint="Give its last two parts: OWNER/NAME.")
    if os.path.isfile(path):
        raise ModelNotFound(f"{path!r} is a file.", hint="Give the folder with config.json that it lies in.")
    if path.startswith(("/", "./", "../", "~")) or path.count("/") > 1 or "\\" in path:
        raise ModelNotFound(f"The folder {path!r} was not found.", hint="Check the path, or give a Hub id: OWNER/NAME.")
    return None


def _checked_token(hf_token: str | None) -> str | None:
    token = (hf_token or "").strip()
    # The HTTP client would quote a broken header, and so the token, in its error.
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise LoadError(
            "The Hub token holds a space or a character that no token has.",
            hint="Copy it again from https://huggingface.co/settings/tokens.",
        )
    return token or None


@dataclass(frozen=True)
class _HubModel:
    """One model on the Hub and where its files go."""

    model_id: str
    revision: str | None
    hf_token: str | None
    place: _Place
    trust_remote_code: bool

    @property
    def target(self) -> Path | None:
        return self.place.target

    @property
    def asked(self) -> Asked:
        from huggingface_hub import constants, get_token

        folder = self.target or Path(constants.HF_HUB_CACHE)
        return Asked(self.model_id, self.revision, bool(self.hf_token or get_token()), folder)

    def fetch(self, on_progress: OnProgress) -> ModelFiles:
        try:
            with hub_errors(self.asked):
                plan = self._look_up()
        except HubUnreachable as error:
            found = self._found(on_progress)
            if found is None:
                raise
            log.warning("%s Loading the copy in %s.", error.message, found.folder)
            return found
        return ModelFiles(self._download(plan, on_progress), self.model_id, plan.commit)

    def _found(self, on_progress: OnProgress) -> ModelFiles | None:
        """What is there without the Hub."""
        found = self._kept() if self.target else self._cached()
        record = self.place.copies.find(self.revision) if self.place.copies and not found else None
        if record is None:
            return found
        return ModelFiles(self._download(record, on_progress), self.model_id, record.commit)

    def _look_up(self) -> ModelRecord:
        from huggingface_hub import HfApi

        api = HfApi(token=self.hf_token)
        info = api.model_info(self.model_id, revision=self.revision, files_metadata=True, timeout=20)
        listed = {file.rfilename: ListedFile(file.size or 0, file.blob_id or "") for file in info.siblings or ()}
        names = choose_files(listed, model_id=self.model_id, trust_remote_code=self.trust_remote_code)
        return ModelRecord(self.revision, info.sha or "", {name: listed[name] for name in names})

    def _download(self, plan: ModelRecord, on_progress: OnProgress) -> Path:
        if self.target:
            self._clear_old(self.target, plan)
            plan.write(self.target / PARTIAL)
        missing = self._missing(plan)
        if missing:
            self._check_room(plan.size_of(missing))
            self._remove(plan, missing)
            self._get(plan, missing, _Progress(self.model_id, plan, missing, on_progress))
            missing = self._missing(plan)
        if missing:
            raise HubUnreachable(f"The download of {self.model_id} ended without {', '.join(missing[:3])}.")
        on_progress(1.0, f"{self.model_id} is complete")
        if self.target:
            os.replace(self.target / PARTIAL, self.target / RECORD)
        return self._path(plan, "config.json").parent

    def _get(self, plan: ModelRecord, missing: list[str], progress: _Progress) -> None:
        if self.place.copies and self.target:
            self.place.copies.take(plan, missing, self.target, on_bytes=progress.add)
            missing = self._missing(plan)
        if missing:
            # The client would read a copied file whole, to compare it with the Hub's.
            self._snapshot(plan, missing if self.place.copies else list(plan.files), progress)

    def _snapshot(self, plan: ModelRecord, names: list[str], progress: _Progress) -> None:
        from huggingface_hub import snapshot_download

        snapshot_download(
            self.model_id,
            # By name, the cache remembers what the name stood for; a folder of its own has its record.
            revision=plan.commit if self.target else self.revision,
            token=self.hf_token,
            local_dir=self.target,
            allow_patterns=[glob.escape(name) for name in names],
            tqdm_class=progress.bar_class(),
        )

    def _missing(self, plan: ModelRecord) -> list[str]:
        return [name for name, listed in plan.files.items() if not listed.is_whole(self._path(plan, name))]

    def _path(self, plan: ModelRecord, name: str) -> Path:
        return self.target / name if self.target else self._cache_path(plan, name)

    def _cache_path(self, plan: ModelRecord, name: str) -> Path:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.model_id, name, revision=plan.commit)
        return Path(found) if isinstance(found, str) else self.asked.folder / "missing"

    def _check_room(self, needed: int) -> None:
        folder = self.asked.folder
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if shutil.disk_usage(existing).free < needed:
            raise no_room(folder, needed)

    def _remove(self, plan: ModelRecord, names: list[str]) -> None:
        """The client takes a file that is there for a whole one."""
        for name in names:
            path = self._path(plan, name)
            content = path.resolve()
            path.unlink(missing_ok=True)
            content.unlink(missing_ok=True)

    def _clear_old(self, target: Path, plan: ModelRecord) -> None:
        """Removes what an earlier commit left: cut off, the client would take an old file for the new one."""
        for old in filter(None, (ModelRecord.read(target / RECORD), ModelRecord.read(target / PARTIAL))):
            if old.commit == plan.commit:
                continue
            (target / RECORD).unlink(missing_ok=True)
            for name, listed in old.files.items():
                if plan.files.get(name) != listed:
                    (target / name).unlink(missing_ok=True)

    def _kept(self) -> ModelFiles | None:
        """The finished download in `target`, when it is the revision asked for."""
        plan = ModelRecord.read(self.target / RECORD) if self.target else None
        if plan is None or self.target is None or self._missing(plan):
            return None
        if not plan.answers(self.revision):
            return None
        return ModelFiles(self.target, self.model_id, plan.commit)

    def _cached(self) -> ModelFiles | None:
        """The finished download in the client's cache, whoever put it there."""
        from huggingface_hub import get_cached_repo_tree, snapshot_download
        from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

        try:
            folder = Path(
                snapshot_download(
                    self.model_id, revision=self.revision, local_files_only=True, allow_patterns="config.json"
                )
            )
            try:
                names = [file.path for file in get_cached_repo_tree(self.model_id, revision=folder.name)]
            except CachedRepoTreeNotFoundError:
                names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
            chosen = choose_files(names, model_id=self.model_id, trust_remote_code=self.trust_remote_code)
        except (LocalEntryNotFoundError, UnsupportedModel):
            return None
        return None if missing_files(folder, chosen) else ModelFiles(folder, self.model_id, folder.name)


class _Progress:
    """Counts bytes from all downloading threads into one fraction; the client's bars stay as they are."""

    def __init__(self, model_id: str, plan: ModelRecord, missing: list[str], on_progress: OnProgress) -> None:
        self._model_id = model_id
        self._total = sum(listed.size for listed in plan.files.values())
        self._done = float(self._total - sum(plan.files[name].size for name in missing))
        self._on_progress = on_progress
        self._told_at = 0.0
        self._lock = threading.Lock()

    def add(self, count: float) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._told_at < 0.2:
                return
            self._told_at = now
            done = min(max(self._done, 0.0), self._total)
            unit, divisor = ("GB", 1e9) if self._total >= 1e9 else ("MB", 1e6)
            detail = f"{self._model_id}, {done / divisor:.1f} of {self._total / divisor:.1f} {unit}"
            self._on_progress(done / self._total if self._total else 0.0, detail)

    def bar_class(self) -> type[Any]:
        """The client's own progress bar, which also tells us the bytes written."""
        from huggingface_hub.utils.tqdm import tqdm

        progress = self

        class CountingBar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                # Of the client's three bars, the one of bytes on the disk.
                self._is_counted = kwargs.get("name") == "huggingface_hub.snapshot_download"
                super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # the client does not say

            def update(self, n: float | None = 1) -> bool | None:
                if self._is_counted:
                    progress.add(n or 0)
                shown: bool | None = super().update(n)
                return shown

        return CountingBar
