"""The languages of a translation model, asked for where they are missing. What a code may be, its errors say.

The source may stay open: then each text is taken for what it looks like, where that can be seen.
"""

from __future__ import annotations

from ...errors import InvalidRequest
from ...errors.upstream import UpstreamLacks
from ...protocol.body import well_formed
from ...protocol.messages import ChatService, Status
from ...settings import Settings
from .conversation import Conversation, Exchange
from .screen import Screen

UNSET = "not set"
BY_TEXT = "by the text"
ASKED = {
    "source_language": "Source Language (such as eng_Latn; empty: by the text): ",
    "target_language": "Target Language (such as jpn_Jpan): ",
}


def settle_languages(chat: ChatService, conversation: Conversation, screen: Screen) -> None:
    """For a translation model ask until the codes are good. Raises EOFError, KeyboardInterrupt."""
    if chat.status().task != "translation":
        return
    for name in ASKED:
        if getattr(conversation, name) is None:
            _ask(conversation, screen, name)
    while (error := fault(chat, conversation)) is not None:
        screen.warn(f"{error.message} {error.hint}")
        _ask(conversation, screen, str(error.param))


def fault(chat: ChatService, conversation: Conversation) -> InvalidRequest | None:
    """What is wrong with the conversation's languages, as far as that can be asked."""
    try:
        chat.tokenize(conversation.request(Exchange("?")))
    except InvalidRequest as error:
        # Whether a source can be guessed, only a message shows.
        is_open = error.param == "source_language" and conversation.source_language is None
        if error.param in ASKED and not is_open:
            return error
    except UpstreamLacks:
        pass
    return None


def source_shown(settings: Settings, status: Status, *, known: bool) -> str:
    """The source for the header, empty while it is not `known` which model that is."""
    return settings.language_source or (unset_source(status) if known else "")


def unset_source(status: Status) -> str:
    return BY_TEXT if status.task == "translation" else UNSET


def _ask(conversation: Conversation, screen: Screen, name: str) -> None:
    setattr(conversation, name, well_formed(screen.read(ASKED[name])).strip() or None)
