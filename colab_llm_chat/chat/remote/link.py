"""The connection of one request, which any thread may cut, so that the other side stops its work at once."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from typing import Any

# By the HTTP client's tracing: a plain connection, then the secure one around it.
MADE = ("connect_tcp.complete", "start_tls.complete")


class Link:
    """Give its `trace` to the HTTP client. It may be cut while the connection is made, used, or over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_cut = False

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by the HTTP client for each of its steps."""
        if event.endswith(MADE):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                self._shut_if_cut()

    def cut(self) -> None:
        with self._lock:
            self.is_cut = True
            self._shut_if_cut()

    def _shut_if_cut(self) -> None:
        if self.is_cut and self._socket is not None:
            # Closing wakes nobody who reads; an SSLSocket's own shutdown would take its state away under the reader.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
