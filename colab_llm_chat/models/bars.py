"""Progress of transformers while it loads weights, told to one caller instead of shown as its bars and warnings.

Uses transformers' own hook for bars; without it loading is only silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

OnProgress = Callable[[float, str], None]


@contextmanager
def loading_bars(on_progress: OnProgress) -> Iterator[None]:
    """While it lasts, `on_progress` gets a fraction and a line, and transformers logs errors only."""
    from transformers.utils import logging as transformers_logging

    def listening(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        bar = make(*args, **{**options, "disable": True})
        total = options.get("total") or (len(args[0]) if args and hasattr(args[0], "__len__") else 0)
        return _ListeningBar(bar, total, on_progress) if total else bar

    set_hook = getattr(transformers_logging, "set_tqdm_hook", lambda hook: None)
    previous, verbosity = set_hook(listening), transformers_logging.get_verbosity()
    # Its report on weights that do not fit becomes one of our errors.
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        set_hook(previous)


class _ListeningBar:
    """A hidden progress bar that tells how far it is, at each full percent."""

    def __init__(self, bar: Any, total: int, on_progress: OnProgress) -> None:
        self._bar, self._total, self._on_progress = bar, total, on_progress

    def __iter__(self) -> Iterator[Any]:
        told = 0
        for count, item in enumerate(self._bar, start=1):
            yield item
            if (percent := 100 * count // self._total) > told:
                told = percent
                self._on_progress(count / self._total, f"loading weights, {percent} %")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)

    def __enter__(self) -> _ListeningBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
