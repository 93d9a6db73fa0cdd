"""What the model gets for a message, as people look at it. Knows no screen."""

from __future__ import annotations

from ...errors.upstream import UpstreamLacks
from ...protocol.messages import ChatRequest, ChatService


def prompt_text(chat: ChatService, request: ChatRequest) -> str:
    """The text of its prompt, or why there is none to be shown."""
    try:
        return chat.tokenize(request).text
    except UpstreamLacks as error:
        return f"{error.message} {error.hint}"
