"""The languages of a translation model, asked for where they are missing. What a code may be, its errors say."""

from __future__ import annotations

from ...errors import InvalidRequest
from ...errors.upstream import UpstreamLacks
from ...protocol.messages import ChatService
from .conversation import Conversation, Exchange
from .screen import Screen

ASKED = {
    "source_language": "Source Language (such as eng_Latn): ",
    "target_language": "Target Language (such as jpn_Jpan): ",
}


def settle_languages(chat: ChatService, conversation: Conversation, screen: Screen) -> None:
    """For a translation model ask until both codes are good. Raises EOFError, KeyboardInterrupt."""
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
        if error.param in ASKED:
            return error
    except UpstreamLacks:
        pass
    return None


def _ask(conversation: Conversation, screen: Screen, name: str) -> None:
    setattr(conversation, name, screen.read(ASKED[name]).strip() or None)
