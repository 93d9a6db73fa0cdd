"""Who holds a port, and which one is free instead."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from subprocess import PIPE

import psutil
import pytest

from colab_llm_chat.web.ports import ITSELF, LAST_PORT, OTHER, holder_of, next_free


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_the_holder_is_named_with_its_process() -> None:
    listening = (
        "import socket; it = socket.create_server(('127.0.0.1', 0)); print(it.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", listening], stdin=PIPE, stdout=PIPE, encoding="utf-8") as other:
        assert other.stdout
        port = int(other.stdout.readline())
        assert holder_of(port) == f"{psutil.Process(other.pid).name()} (process {other.pid})"
        other.communicate("\n")


def test_a_port_that_this_program_holds_is_told_apart(taken: int) -> None:
    assert holder_of(taken) == ITSELF


def test_a_port_that_nobody_holds_has_no_name(taken: int) -> None:
    free = next_free("127.0.0.1", taken)
    assert holder_of(free) == OTHER


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_the_next_free_port_can_be_listened_on(host: str, taken: int) -> None:
    free = next_free(host, taken)
    assert free > taken
    with socket.create_server(("127.0.0.1", free)):
        pass


def test_beyond_the_last_port_any_is_offered() -> None:
    assert next_free("127.0.0.1", LAST_PORT) == 0
