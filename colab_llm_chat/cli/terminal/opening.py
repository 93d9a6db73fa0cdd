"""The beginning of a chat: who it is with, how far its loading is, and how to leave. Knows no keys."""

from __future__ import annotations

from collections.abc import Callable

from ...chat import Chat
from ...errors import ChatError
from ...launch import follow
from ...protocol.messages import Status
from ...settings import Settings
from .languages import UNSET, source_shown
from .screen import Rows, Screen

WELCOME = "It's time to talk!"
HOW_TO_END = "Type 'exit' to end the conversation."


def open_chat(chat: Chat, screen: Screen) -> None:
    """Load the model and say how far that is. Raises the ChatError for which it cannot be had."""
    has_credential = known_credential(chat.settings)

    def on_progress(status: Status) -> None:
        screen.header(rows(chat, status, has_credential), told(status))

    on_progress(chat.status())
    chat.start()
    status = wait(chat, on_progress)
    screen.header(rows(chat, status, has_credential), None)
    screen.say(WELCOME)
    screen.say(HOW_TO_END)


def wait(chat: Chat, on_progress: Callable[[Status], None] = lambda status: None) -> Status:
    """Return when the chat can answer. Raises the ChatError for which it cannot."""
    status = follow(chat, on_progress)
    if status.error is not None:
        raise ChatError.from_dict(status.error)
    return status


def told(status: Status) -> str:
    return f"{status.progress:.0%} {status.detail}".rstrip()


def rows(chat: Chat, status: Status, has_credential: bool) -> Rows:
    """Names and values; what is not known before the model is there is empty."""
    settings, facts = chat.settings, chat.engine.status.facts
    return [
        ("Model Name", settings.model_id),
        ("Hub Credential", "set" if has_credential else UNSET),
        ("Source Language", source_shown(settings, status, known=bool(facts))),
        ("Target Language", settings.language_target or UNSET),
        *([("Persona", settings.persona)] if settings.persona else []),
        ("Task", status.task if facts else ""),
        ("Device", facts.get("device", "")),
        ("Dtype", facts.get("dtype", "")),
    ]


def known_credential(settings: Settings) -> bool:
    """Whether there is one, given or by the Hub client's own login; its value is nobody's business here."""
    # An empty one is as good as none: the client then uses its own.
    if settings.hf_token is not None and settings.hf_token.get_secret_value().strip():
        return True
    from huggingface_hub import get_token

    return get_token() is not None
