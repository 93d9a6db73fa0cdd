"""Where a model's files come from: the bundled demo, a folder, the Hub, or an earlier download of it.

Nothing here imports torch or transformers, and nothing looks into the weights.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BrokenModel, HubUnreachable, LoadError, ModelNotFound, UnsupportedModel, UsageError
from ..settings import DEMO_MODEL, Settings
from .copies import ModelCopies, folder_name
from .hub_errors import Asked, hub_errors, no_room
from .hub_files import (
    ADAPTER,
    WHICH_FOLDER,
    base_of,
    choose_files,
    missing_files,
    no_weights,
    no_weights_in,
    weights_among,
)
from .hub_progress import DownloadProgress, OnProgress
from .kinds import check_kind, check_type
from .record import PARTIAL, RECORD, ListedFile, ModelRecord
from .tokenizer import check_tokenizer

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

log = logging.getLogger("colab_llm_chat")

# From here on the download takes longer than to import transformers, which tells more of a model.
LARGE = 50_000_000
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
    if folder is not None and to is not None:
        raise UsageError(f"{model_id} lies in {folder} already.", hint="--to is for models of the Hub: leave it out.")
    if folder is not None:
        check_kind(folder, name=folder.name)
        return ModelFiles(folder, model_id, None)
    place = _place(settings) if to is None else _Place(_own_place(to))
    hf_token = settings.hf_token.get_secret_value() if settings.hf_token else None
    source = _HubModel(model_id, settings.revision or None, _checked_token(hf_token), place, settings.trust_remote_code)
    with hub_errors(source.asked):
        files = source.fetch(on_progress)
    check_kind(files.folder, name=model_id)
    return files


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
    folder = Path(os.path.expanduser(folder)).absolute()
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
        folder = Path(path).absolute()
        names = _listed(folder)
        if not weights_among(names) and not any(name.endswith(".index.json") for name in names):
            raise no_weights_in(folder, path)
        if "config.json" not in names:
            raise BrokenModel(f"The folder {path!r} holds no config.json, so it is not a model.", hint=WHICH_FOLDER)
        return folder
    if model_id.startswith(("http://", "https://")):
        raise ModelNotFound(f"{model_id!r} is an address, not a model.", hint="Give its last two parts: OWNER/NAME.")
    if path.endswith(".gguf") and os.path.isfile(path):
        raise no_weights([os.path.basename(path)], model_id)
    if os.path.isfile(path):
        raise ModelNotFound(f"{path!r} is a file.", hint="Give the folder with config.json that it lies in.")
    if path.startswith(("/", "./", "../", "~")) or path.count("/") > 1 or "\\" in path:
        raise ModelNotFound(f"The folder {path!r} was not found.", hint="Check the path, or give a Hub id: OWNER/NAME.")
    return None


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise BrokenModel(f"The folder {str(folder)!r} cannot be read: {error.strerror}.", hint=WHICH_FOLDER) from error


def _checked_token(hf_token: str | None) -> str | None:
    hf_token = (hf_token or "").strip()
    # The HTTP client would quote a broken header, and so the token, in its error.
    if not (hf_token.isascii() and hf_token.isprintable()) or " " in hf_token:
        raise LoadError(
            "The Hub token holds a space or a character that no token has.",
            hint="Copy it again from https://huggingface.co/settings/tokens.",
        )
    return hf_token or None


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
        if not weights_among(listed):
            raise no_weights(listed, self.model_id, base=self._base(listed, info.card_data))
        names = choose_files(listed, model_id=self.model_id, trust_remote_code=self.trust_remote_code)
        return ModelRecord(self.revision, info.sha or "", {name: listed[name] for name in names})

    def _base(self, names: Collection[str], card: ModelCardData | None) -> str:
        """The model that this one was made from, by its adapter's config or by its card."""
        from huggingface_hub import hf_hub_download

        if ADAPTER in names:
            path = hf_hub_download(self.model_id, ADAPTER, revision=self.revision, token=self.hf_token)
            base = base_of(Path(path).read_bytes())
            if base:
                return base
        told = getattr(card, "base_model", None) or ""
        return told if isinstance(told, str) else str(told[0])

    def _download(self, plan: ModelRecord, on_progress: OnProgress) -> Path:
        if self.target:
            self._clear_old(self.target, plan)
            plan.write(self.target / PARTIAL)
        missing = self._missing(plan)
        if missing:
            self._check_room(plan.size_of(missing))
            self._remove(plan, missing)
            progress = DownloadProgress(self.model_id, plan, missing, on_progress)
            self._get_small(plan, missing, progress)
            self._get(plan, self._missing(plan), progress)
            missing = self._missing(plan)
        if missing:
            raise HubUnreachable(f"The download of {self.model_id} ended without {', '.join(missing[:3])}.")
        on_progress(1.0, f"{self.model_id} is complete")
        if self.target:
            os.replace(self.target / PARTIAL, self.target / RECORD)
        return self._path(plan, "config.json").parent

    def _get_small(self, plan: ModelRecord, missing: list[str], progress: DownloadProgress) -> None:
        """All but the weights, and a look at them: what cannot be used is not worth its weights."""
        weights = weights_among(plan.files)
        small = [name for name in missing if name not in weights]
        if small:
            self._get(plan, small, progress)
        if self._missing(plan) != [name for name in missing if name in weights]:
            return
        folder = self._path(plan, "config.json").parent
        config = check_kind(folder, name=self.model_id)
        check_tokenizer(folder, trust_remote_code=self.trust_remote_code, name=self.model_id)
        if plan.size_of(missing) >= LARGE:
            check_type(config, name=self.model_id, trust_remote_code=self.trust_remote_code)

    def _get(self, plan: ModelRecord, names: list[str], progress: DownloadProgress) -> None:
        if self.place.copies and self.target:
            self.place.copies.take(plan, names, self.target, on_bytes=progress.add)
            names = [name for name in self._missing(plan) if name in names]
        if names:
            self._snapshot(plan, names, progress)

    def _snapshot(self, plan: ModelRecord, names: list[str], progress: DownloadProgress) -> None:
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
