"""One model's repository on the Hub: what is wanted of it, downloading it, and the copy kept from before.

A copy counts as complete only when a listing says so: the Hub client's own in its cache, a manifest written last
in a folder of ours. Knows nothing of what is in the files; imports no torch.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import HubUnreachable, LoadError, UnsupportedModel
from .hub_errors import told
from .progress import DownloadProgress, OnProgress, bars, gigabytes

__all__ = ["OnProgress", "Repository", "told"]

log = logging.getLogger("colab_llm_chat")

# Names as transformers itself looks for them: other weights in a repository are copies for other programs.
SAFETENSORS = ["model.safetensors", "model-*[0-9].safetensors"]
PICKLES = ["pytorch_model.bin", "pytorch_model-*[0-9].bin"]
TEXTS = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
CODE = ["*.py"]
# In subfolders lie other forms of the model; an adapter's settings would make transformers look for its base.
LEFT_OUT = ["*/*.json", "*/*.model", "*/*.txt", "*/*.tiktoken", "*/*.safetensors", "*/*.bin", "adapter_*"]
LISTING_TIMEOUT_SECONDS = 15
MANIFEST = ".complete.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What is wanted of one commit: sizes in bytes by file name, 0 where the Hub does not say."""

    revision: str
    commit: str
    files: dict[str, int]

    def missing(self, folder: Path) -> dict[str, int]:
        """The files that are not in `folder`, or not whole."""
        return {name: size for name, size in self.files.items() if not _is_whole(folder / name, size)}


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and size in (0, path.stat().st_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """`folder` is where the files go as plain files; None is the Hub client's own cache."""

    model_id: str
    revision: str
    hf_token: str | None
    folder: Path | None
    with_code: bool

    def fetch(self, on_progress: OnProgress) -> tuple[Path, str]:
        """Folder and commit of the newest copy that can be had: without the Hub, the one from before."""
        try:
            with told(self.model_id, revision=self.revision, has_token=self.hf_token is not None):
                listing = self._list()
        except HubUnreachable as error:
            kept = self._kept_in_cache() if self.folder is None else self._kept_in_folder(self.folder)
            if kept is None:
                raise
            log.warning("%s Going on with the copy in %s.", error.message, kept[0])
            return kept
        if self.folder is not None and _read_manifest(self.folder) == listing and not listing.missing(self.folder):
            return self.folder, listing.commit
        return self._download(listing, on_progress), listing.commit

    def _list(self) -> Listing:
        from huggingface_hub import HfApi

        info = HfApi(token=self.hf_token).model_info(
            self.model_id, revision=self.revision, files_metadata=True, timeout=LISTING_TIMEOUT_SECONDS
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        weights = next((kind for kind in (SAFETENSORS, PICKLES) if _any_match(sizes, kind)), None)
        if weights is None or info.sha is None:
            raise _without_weights(self.model_id, list(sizes))
        files = {name: size for name, size in sizes.items() if self._wants(name, weights)}
        return Listing(revision=self.revision, commit=info.sha, files=files)

    def _patterns(self, weights: list[str]) -> list[str]:
        return [*TEXTS, *weights, *(CODE if self.with_code else [])]

    def _wants(self, name: str, weights: list[str]) -> bool:
        return _any_match([name], self._patterns(weights)) and not _any_match([name], LEFT_OUT)

    def _download(self, listing: Listing, on_progress: OnProgress) -> Path:
        from huggingface_hub import snapshot_download

        here = self.folder or self._cached(listing.commit)
        needed = sum(listing.missing(here).values())
        _check_room(here, needed)
        if self.folder is not None:
            _forget_old(self.folder, listing)
        progress = DownloadProgress(self.model_id, total=sum(listing.files.values()), needed=needed, tell=on_progress)
        weights = SAFETENSORS if _any_match(listing.files, SAFETENSORS) else PICKLES
        here = Path(
            snapshot_download(
                self.model_id,
                # A branch's name leaves a note in the cache, by which it is found again without the Hub.
                revision=self.revision if self.folder is None else listing.commit,
                local_dir=self.folder,
                token=self.hf_token,
                allow_patterns=self._patterns(weights),
                ignore_patterns=LEFT_OUT,
                tqdm_class=bars(progress),
            )
        )
        # The client returns what there is when the Hub goes away meanwhile.
        if missing := listing.missing(here):
            raise HubUnreachable(f"The download of {self.model_id} broke off: {', '.join(missing)} is not whole.")
        if self.folder is not None:
            _write_manifest(self.folder, listing)
        return here

    def _cached(self, commit: str) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE, "models--" + self.model_id.replace("/", "--"), "snapshots", commit)

    def _kept_in_cache(self) -> tuple[Path, str] | None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        for weights in (SAFETENSORS, PICKLES):
            try:
                folder = snapshot_download(
                    self.model_id,
                    revision=self.revision,
                    local_files_only=True,
                    allow_patterns=self._patterns(weights),
                    ignore_patterns=LEFT_OUT,
                )
            except LocalEntryNotFoundError:
                continue
            if _any_match(os.listdir(folder), weights):
                return Path(folder), Path(folder).name
        return None

    def _kept_in_folder(self, folder: Path) -> tuple[Path, str] | None:
        listing = _read_manifest(folder)
        if listing is None or listing.missing(folder):
            return None
        matches = self.revision == listing.revision or listing.commit.startswith(self.revision)
        return (folder, listing.commit) if matches else None


def _any_match(names: Any, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _without_weights(model_id: str, names: list[str]) -> UnsupportedModel:
    if "adapter_config.json" in names:
        return UnsupportedModel(f"{model_id} is an adapter, not a whole model.", hint="Give its base model.")
    if any(name.endswith(".gguf") for name in names):
        message = f"{model_id} holds GGUF files only, which are for llama.cpp."
        return UnsupportedModel(message, hint="Give the repository that it was converted from.")
    return UnsupportedModel(f"{model_id} holds no model.safetensors or pytorch_model.bin.")


def _check_room(folder: Path, needed: int) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise LoadError(
            f"The disk of {existing} has {gigabytes(free)} GB free, the model needs {gigabytes(needed)} GB.",
            hint="Free some space, or set --model-dir to a folder on a larger disk.",
        )


def _read_manifest(folder: Path) -> Listing | None:
    try:
        return Listing(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_manifest(folder: Path, listing: Listing) -> None:
    half = folder / (MANIFEST + ".half")
    half.write_text(json.dumps(asdict(listing), indent=1), encoding="utf-8")
    half.replace(folder / MANIFEST)


def _forget_old(folder: Path, listing: Listing) -> None:
    """Files of an older commit that the new one lacks would be loaded in place of the new ones."""
    old = _read_manifest(folder)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in set(old.files if old else ()) - set(listing.files):
        (folder / name).unlink(missing_ok=True)
