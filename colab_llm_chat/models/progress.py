"""Progress of a download for a person who is not at the terminal; at the terminal the Hub's own bars stay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

OnProgress = Callable[[float, str], None]


class DownloadProgress:
    """Counts bytes from several threads and tells one caller at a time."""

    def __init__(self, model_id: str, *, total: int, needed: int, tell: OnProgress) -> None:
        self._model_id = model_id
        self._total = total
        self._done = total - needed
        self._tell = tell
        self._lock = threading.Lock()
        self.add(0)

    def add(self, count: int) -> None:
        """`count` bytes more are on the disk; below zero when some must be fetched again."""
        with self._lock:
            self._done = max(0, min(self._total, self._done + count))
            detail = f"downloading {self._model_id}: {gigabytes(self._done)} of {gigabytes(self._total)} GB"
            self._tell(self._done / self._total if self._total else 0.0, detail)


def bars(progress: DownloadProgress) -> type:
    """The Hub client's own bar, which also counts; it counts where bars are not shown, too."""
    from huggingface_hub.utils.tqdm import tqdm

    class CountingBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # Of its bars this one counts bytes on the disk, resumed ones too; another those from the network.
            self._counts = options.get("name") == "huggingface_hub.snapshot_download" and options.get("unit") == "B"
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]  # the client does not say

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts:
                progress.add(int(n or 0))
            shown: bool | None = super().update(n)
            return shown

    return CountingBar


def gigabytes(count: int) -> str:
    """16_070_000_000 is `16.1`; what is small keeps three decimals."""
    return f"{count / 1e9:.1f}" if count >= 1e8 else f"{count / 1e9:.3f}"
