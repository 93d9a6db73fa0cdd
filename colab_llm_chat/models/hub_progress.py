"""The bytes of a download as one fraction and one line, from all of its threads.

Knows the Hub client's progress bars, nothing of what is fetched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .record import ModelRecord

OnProgress = Callable[[float, str], None]


class DownloadProgress:
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
