"""One message for a script: the reply alone on standard output. Knows no conversation of several turns."""

from __future__ import annotations

import sys
from typing import TextIO

from ...errors import UsageError
from ...protocol.messages import ChatService
from ...settings import Settings
from .conversation import Conversation, Exchange
from .prompt import prompt_text
from .pump import Pump


def message_from(once: str | None, source: TextIO) -> str:
    """The message of `--once`, else all that is piped in. Raises UsageError where that is nothing."""
    text = once if once is not None else source.read()
    if not text.strip():
        where = "--once" if once is not None else "Standard input"
        raise UsageError(f"{where} holds no message.", hint="Pipe a text in, or give one by --once.")
    return text.strip()


def answer_once(chat: ChatService, settings: Settings, text: str, *, show_prompt: bool = False) -> None:
    """Print the reply as it comes; notes go to standard error."""
    request = Conversation(settings).request(Exchange(text))
    if show_prompt:
        print(prompt_text(chat, request), file=sys.stderr, flush=True)
    reply = chat.stream(request)
    said = ""
    try:
        for piece in Pump(reply).pieces(every=10.0):
            if piece is None:
                continue
            said += piece.text
            print(piece.text, end="", flush=True)
            if piece.end is not None:
                notes = [*piece.end.notes]
                if piece.end.finish_reason == "length":
                    notes.append(f"The reply was cut after {piece.end.usage.completion_tokens} tokens.")
                for note in notes:
                    print(note, file=sys.stderr, flush=True)
    finally:
        reply.cancel()
        if not said.endswith("\n"):
            print(flush=True)
