"""From settings to a chat where somebody sits: in a terminal, in a notebook's cell, or behind a pipe.

Whatever ends it ends the engine's process, too.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import TextIOWrapper
from typing import Any

from pydantic import SecretStr

from ...chat import Chat
from ...chat.remote import Address, RemoteChat
from ...colab import orphans
from ...colab.runtime import in_colab, read_secret
from ...errors import SecretMissing
from ...launch import note_worker
from ...settings import Settings
from ...text.personas import with_persona
from .interrupts import ended_by_signals
from .keys import quiet_keys
from .languages import settle_languages
from .once import answer_once, message_from
from .opening import open_chat, wait
from .screen import PlainScreen, Screen
from .stray import caught_stderr
from .talk import FAREWELL, Talk
from .upstream import open_upstream

HF_SECRET = "HF_TOKEN"


def run_chat(settings: Settings, *, once: str | None, show_prompt: bool, upstream: Address | None = None) -> None:
    """Talk until the end. Raises LoadError when the model cannot be had, UpstreamError when the upstream cannot,
    UsageError for an empty message.
    """
    lose_no_reply(sys.stdout)
    in_cell = in_kernel()
    if upstream is None and in_colab() and settings.hf_token is None:
        settings = settings.model_copy(update={"hf_token": _colab_secret()})
    # A stream that was closed by whoever started the program is None.
    if once is not None or not (in_cell or (sys.stdin is not None and sys.stdin.isatty())):
        text = message_from(once, sys.stdin)
        with _opened(with_persona(settings), upstream) as chat:
            answer_once(chat, settings, text, show_prompt=show_prompt)
        return
    screen = _screen(in_cell)
    with _opened(with_persona(settings), upstream, screen) as chat:
        talk = Talk(chat, settings, screen, show_prompt=show_prompt)
        try:
            settle_languages(chat, talk.conversation, screen)
        except (EOFError, KeyboardInterrupt):
            screen.say(FAREWELL)
            return
        talk.run()


@contextmanager
def _opened(settings: Settings, upstream: Address | None, screen: Screen | None = None) -> Iterator[Chat | RemoteChat]:
    """A chat that can answer, here or elsewhere; the screen, if any, shows how far that is."""
    if upstream is not None:
        with ended_by_signals(), closing(RemoteChat(settings, upstream)) as remote:
            open_upstream(remote, screen)
            yield remote
        return
    with started(settings, screen.warn if screen else None) as chat:
        if screen is None:
            wait(chat.start())
        else:
            with quiet_keys():
                open_chat(chat, screen)
        yield chat


@contextmanager
def started(settings: Settings, warn: Callable[[str], None] | None = None) -> Iterator[Chat]:
    """A chat that ends with the block; what its process says on standard error goes to `warn`."""
    logging.getLogger("colab_llm_chat").setLevel(logging.WARNING)
    orphans.end_orphans()
    with ended_by_signals(), caught_stderr(warn):
        chat = Chat(settings, on_spawn=note_worker)
        try:
            yield chat
        finally:
            chat.close()


def lose_no_reply(stream: Any) -> None:
    """Have a mark printed for what the terminal's encoding lacks, as Windows' Japanese one lacks emoji."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")


def in_kernel() -> bool:
    """Whether this runs in a notebook's cell, where `input` asks below the cell."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _screen(in_cell: bool) -> Screen:
    if in_cell or sys.stdout is None or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return PlainScreen(leaves_by_interrupt=in_cell)
    from .lines import kept_history, line_reader
    from .rich_screen import RichScreen
    from .slash import COMMANDS

    return RichScreen(line_reader([f"/{name}" for name in COMMANDS], kept_history()))


def _colab_secret() -> SecretStr | None:
    try:
        return SecretStr(read_secret(HF_SECRET))
    except SecretMissing:
        return None
