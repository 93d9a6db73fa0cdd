"""The beginning of a chat over an upstream: where that is, and which model answers there. Knows no keys."""

from __future__ import annotations

from ...chat.remote import RemoteChat
from ...errors import ChatError
from ...protocol.messages import Status
from .languages import UNSET, source_shown
from .opening import HOW_TO_END, WELCOME, told
from .screen import Rows, Screen


def open_upstream(chat: RemoteChat, screen: Screen | None) -> None:
    """Return when it can answer; a screen shows who does. Raises the ChatError for which it cannot."""
    if screen is not None:
        screen.say(f"Upstream: {chat.address.shown}")
    was_loading = False

    def on_progress(status: Status) -> None:
        nonlocal was_loading
        was_loading = True
        if screen is not None:
            screen.header(rows(chat, status), told(status))

    status = chat.start().follow(on_progress)
    if status.error is not None:
        raise ChatError.from_dict(status.error)
    if screen is None:
        return
    if was_loading:
        screen.header(rows(chat, status), None)
    else:
        for name, value in rows(chat, status):
            screen.say(f"{name}: {value}")
    screen.say(WELCOME)
    screen.say(HOW_TO_END)


def rows(chat: RemoteChat, status: Status) -> Rows:
    """Names and values."""
    settings = chat.settings
    return [
        ("Model Name", status.model_id),
        ("Source Language", source_shown(settings, status, known=status.state == "ok")),
        ("Target Language", settings.language_target or UNSET),
        *([("Persona", settings.persona)] if settings.persona else []),
        ("Task", status.task if status.state == "ok" else ""),
    ]
