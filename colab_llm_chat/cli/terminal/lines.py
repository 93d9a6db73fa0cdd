"""Lines as they are typed in a terminal: editing, history, completion of commands, texts of several lines.

Knows no chat.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.patch_stdout import patch_stdout

COMMAND = r"^/\w*"


def line_reader(
    commands: Sequence[str], history: History, *, source: Input | None = None, sink: Output | None = None
) -> Callable[[str], str]:
    """A function that shows its prompt and returns what is typed. It raises EOFError, and KeyboardInterrupt for
    Ctrl+C in an empty line; in any other Ctrl+C takes the line away.
    """
    session: PromptSession[str] = PromptSession(
        history=history,
        # A text of several lines comes by pasting, or by Alt+Enter; Enter sends it.
        multiline=True,
        prompt_continuation="  ",
        key_bindings=_keys(),
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        # Without this a line leaves room for a menu of completions below it.
        reserve_space_for_menu=0,
        input=source,
        output=sink,
    )

    def read(prompt: str) -> str:
        # What others print meanwhile stands above the line.
        with patch_stdout(raw=True):
            return session.prompt(prompt)

    return read


def kept_history() -> History:
    """What was typed in earlier chats, in a file that only its owner reads; nothing where it cannot be kept."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(base) / "colab-llm-chat" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return _Kept(str(path))


class _Kept(FileHistory):
    """Lines in a file, as long as it can be written."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    # Keys pressed before the prompt is there have Enter as Ctrl+J, which prompt_toolkit takes for Enter by itself.
    @keys.add("escape", "enter")
    def begin_a_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    @keys.add("c-d")
    def leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.delete()
        else:
            event.app.exit(exception=EOFError())

    return keys
