"""What a model's folder must hold: commit, files and sizes, kept beside the files once all are there.

Knows neither where the files come from nor what is in them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

# Put there last, so that a folder filled halfway is never taken for a model.
RECORD = ".download.json"
PARTIAL = ".download.partial.json"


@dataclass(frozen=True)
class ListedFile:
    """A file as the Hub lists it; a new `blob_id` is new content. A size of 0 is one that the Hub does not know."""

    size: int
    blob_id: str

    def is_whole(self, path: Path) -> bool:
        return path.is_file() and self.size in (0, path.stat().st_size)


@dataclass(frozen=True)
class ModelRecord:
    """The commit and its needed files; `revision` is the name under which it was asked for."""

    revision: str | None
    commit: str
    files: dict[str, ListedFile]

    @staticmethod
    def read(path: Path) -> ModelRecord | None:
        """None where there is no record, or none that can be trusted to name files inside its folder."""
        try:
            record = json.loads(path.read_bytes())
            files = {name: ListedFile(**listed) for name, listed in record["files"].items()}
            if not all(_is_inside(name) for name in (record["commit"], *files)):
                return None
            return ModelRecord(record["revision"], record["commit"], files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def answers(self, revision: str | None) -> bool:
        """Whether this is what was asked for by branch, tag or commit."""
        return (revision or "main") in (self.revision or "main", self.commit)

    def missing_in(self, folder: Path) -> list[str]:
        return [name for name, listed in self.files.items() if not listed.is_whole(folder / name)]

    def size_of(self, names: list[str]) -> int:
        return sum(self.files[name].size for name in names)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
