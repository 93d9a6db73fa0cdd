"""Who holds a port of this machine, and which one is free instead. Knows nothing of what is served."""

from __future__ import annotations

import os
import socket

import psutil

LAST_PORT = 65535
OTHER = "another program"
ITSELF = "this program itself"


def holder_of(port: int) -> str:
    """The program that listens on this port, as far as this user may know."""
    try:
        for connection in psutil.net_connections("inet"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return _described(connection.pid)
    except psutil.Error:
        return OTHER
    return OTHER


def _described(pid: int | None) -> str:
    if pid == os.getpid():
        return ITSELF
    return f"{psutil.Process(pid).name()} (process {pid})" if pid else OTHER


def next_free(host: str, port: int) -> int:
    """The first port above this one on which this host can be listened on; 0, which takes any, when there is none."""
    for candidate in range(port + 1, LAST_PORT + 1):
        try:
            family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), candidate, type=socket.SOCK_STREAM)[0]
            with socket.create_server(address[:2], family=family):
                return candidate
        except OSError:
            continue
    return 0
