"""One message for a script: the reply alone on standard output. Knows no conversation of several turns."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import TextIO

from ...errors import ChatError, UsageError
from ...protocol.body import well_formed
from ...protocol.messages import ChatService, ReplyEnd
from ...settings import Settings
from .conversation import Conversation, Exchange
from .harmless import harmless
from .prompt import prompt_text
from .pump import Pump


def message_from(once: str | None, source: TextIO | None) -> str:
    """The message of `--once`, else all that is piped in; a closed source is None. Raises UsageError where that is
    nothing.
    """
    text = well_formed(once if once is not None else _piped(source))
    if not text.strip():
        where = "--once" if once is not None else "Standard input"
        raise UsageError(f"{where} holds no message.", hint="Pipe a text in, or give one by --once.")
    return text.strip()


def answer_once(chat: ChatService, settings: Settings, text: str, *, show_prompt: bool = False) -> None:
    """Print the reply as it comes; notes go to standard error. Raises ChatError where it cannot be written, and
    SystemExit where nobody reads on.
    """
    request = Conversation(settings).request(Exchange(text))
    if show_prompt:
        print(harmless(prompt_text(chat, request)), file=sys.stderr, flush=True)
    reply = chat.stream(request)
    said = ""
    try:
        for piece in Pump(reply).pieces(every=10.0):
            if piece is None:
                continue
            said = harmless(piece.text) or said
            _write(harmless(piece.text))
            if piece.end is not None:
                _tell(piece.end)
    finally:
        reply.cancel()
        if not said.endswith("\n"):
            _write("\n")


def _piped(source: TextIO | None) -> str:
    """All of it: as UTF-8 if it can be, else as the locale says, with marks for what is no text."""
    if source is None:
        return ""
    bare = getattr(source, "buffer", None)
    if bare is None:
        return source.read()
    data: bytes = bare.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.removeprefix(codecs.BOM_UTF8).decode(source.encoding, errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _tell(end: ReplyEnd) -> None:
    cut = [f"The reply was cut after {end.usage.completion_tokens} tokens."] if end.finish_reason == "length" else []
    for note in [*end.notes, *cut]:
        print(harmless(note), file=sys.stderr, flush=True)


def _write(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except OSError as error:
        _write_nowhere()
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1) from None
        problem = f"The reply cannot be written to standard output: {error.strerror}."
        raise ChatError(problem, hint="Send it elsewhere.") from None


def _write_nowhere() -> None:
    """What is left in the buffer would fail once more at the program's end."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
