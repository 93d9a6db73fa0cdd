"""What others write on standard error while people talk: the engine's process, C libraries, warnings of packages."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of the package's own lines these are for whoever reads a log.
UNSAID = ("INFO ", "DEBUG ")


@contextmanager
def caught_stderr(tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Give each line to `tell`, from a thread, or let it pass; progress bars and news for logs are left out."""
    # Closed by whoever started the program.
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    source, sink = os.pipe()
    os.dup2(sink, 2)
    os.close(sink)

    def pass_on(line: str) -> None:
        os.write(kept, f"{line}\n".encode())

    thread = threading.Thread(target=_read, args=(source, tell or pass_on), daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        # A process that outlives us would keep the pipe open.
        thread.join(1.0)
        if not thread.is_alive():
            os.close(kept)


def _read(source: int, tell: Callable[[str], None]) -> None:
    with open(source, encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            # A bar comes back to the line's beginning for each of its states.
            said = line.rstrip("\n").rpartition("\r")[2].rstrip()
            if said and "\r" not in line.rstrip("\r\n") and not said.startswith(UNSAID):
                tell(said)
