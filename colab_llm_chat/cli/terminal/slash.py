"""The commands that begin with `/`: what each is called, what it does, and what it says. Knows no model and no keys."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

from ...errors import ChatError, UsageError
from ...text.personas import bundled
from . import knobs
from .conversation import Conversation
from .screen import Screen

COMMAND = re.compile(r"[/／](\w+)(?:\s+(.*))?", re.DOTALL)
NOTHING = "-"


class Talking(Protocol):
    """What the commands act on."""

    conversation: Conversation
    screen: Screen

    def ask_again(self) -> None: ...
    def carry_on(self) -> None: ...
    def use_languages(self, source: str | None, target: str | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Slash:
    """A command: what may follow it, what it does in words, and that in code."""

    takes: str
    help: str
    run: Callable[[Talking, str], None]


def parsed(text: str) -> tuple[str, str] | None:
    """The name and the rest of a command; None where the text is a message, such as a path or a comment."""
    match = COMMAND.fullmatch(text.rstrip())
    return (unicodedata.normalize("NFKC", match[1]).casefold(), (match[2] or "").strip()) if match else None


def run(talking: Talking, name: str, rest: str) -> None:
    """Do what the command says. Raises UsageError where there is none of this name, or it cannot be done."""
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
        meant = f"Did you mean {' or '.join(f'/{one}' for one in near)}?" if near else "/help lists the commands."
        raise UsageError(f"There is no command /{name}.", hint=f"{meant} A space before / makes it a message.")
    COMMANDS[name].run(talking, rest)


def _help(talking: Talking, rest: str) -> None:
    names = [f"/{name} {command.takes}".rstrip() for name, command in COMMANDS.items()]
    width = max(map(len, names))
    for name, command in zip(names, COMMANDS.values(), strict=True):
        talking.screen.say(f"{name:<{width}}  {command.help}", hang=min(width, 22) + 2)
    talking.screen.say(OTHER_WAYS)


def _new(talking: Talking, rest: str) -> None:
    talking.conversation.clear()
    talking.screen.note("A new conversation.")


def _retry(talking: Talking, rest: str) -> None:
    talking.ask_again()


def _undo(talking: Talking, rest: str) -> None:
    taken = talking.conversation.take_back()
    if taken is None:
        raise UsageError("There is nothing to take back.", hint="Nothing was said yet.")
    talking.screen.note(f"Taken back: {_short(taken.typed)}")


def _continue(talking: Talking, rest: str) -> None:
    talking.carry_on()


def _system(talking: Talking, rest: str) -> None:
    if rest:
        talking.conversation.system = None if rest == NOTHING else rest
    talking.screen.note(f"System prompt: {talking.conversation.system or 'none'}")


def _persona(talking: Talking, rest: str) -> None:
    conversation, screen = talking.conversation, talking.screen
    if rest:
        conversation.play(None if rest == NOTHING else rest)
        screen.note(f"Persona: {conversation.persona or 'none'}, from the next message on. /new begins anew.")
        return
    screen.note(f"Persona: {conversation.persona or 'none'}")
    for name, persona in bundled().items():
        screen.say(f"{name}: {persona.description}", hang=4)


def _set(talking: Talking, rest: str) -> None:
    conversation, screen = talking.conversation, talking.screen
    name, _, value = rest.replace("=", " ", 1).partition(" ")
    if value.strip():
        new = knobs.with_knob(conversation.sampling, name, value.strip(), start=conversation.started_with)
        conversation.draw_by(new)
    only = knobs.known_name(name) if name else ""
    for field, shown, bounds in knobs.listed(conversation.sampling):
        if field == (only or field):
            screen.say(f"{field} = {shown}" if value else f"{field} = {shown} ({bounds})", hang=4)


def _source(talking: Talking, rest: str) -> None:
    talking.use_languages(rest or None, talking.conversation.target_language)


def _target(talking: Talking, rest: str) -> None:
    talking.use_languages(talking.conversation.source_language, rest or None)


def _save(talking: Talking, rest: str) -> None:
    messages = talking.conversation.messages()
    if not rest or not messages:
        problem = "needs a file's name" if messages else "has nothing to save yet"
        raise UsageError(f"/save {problem}.", hint="/save chat.md writes Markdown, /save chat.json a list of messages.")
    try:
        path = Path(rest).expanduser()
        text = json.dumps(messages, ensure_ascii=False, indent=2) if path.suffix == ".json" else _as_markdown(messages)
        # Never over something that is there.
        with path.open("x", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")
    # For a home that nobody has, and for names that no file can have.
    except (OSError, RuntimeError, ValueError) as error:
        why = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise UsageError(f"{rest} cannot be written: {why}.", hint="Give another file.") from None
    talking.screen.note(f"{len(messages)} messages are saved in {path}")


def _as_markdown(messages: list[dict[str, str]]) -> str:
    return "\n\n".join(f"## {one['role'].capitalize()}\n\n{one['content'].strip()}" for one in messages)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"


def told(error: ChatError) -> str:
    """An error in one line."""
    return f"Error: {' '.join(error.message.split())} {' '.join(error.hint.split())}"


OTHER_WAYS = r"\TEXT goes to the model as it is, without any template. Ctrl+C stops a reply; 'exit' or Ctrl+D ends."
COMMANDS = {
    "help": Slash("", "shows this list", _help),
    "new": Slash("", "begins a new conversation", _new),
    "retry": Slash("", "asks the last message again", _retry),
    "undo": Slash("", "takes back the last message and its reply", _undo),
    "continue": Slash("", "goes on with a reply that was cut", _continue),
    "save": Slash("FILE", "saves the conversation: .json as messages, else as Markdown", _save),
    "system": Slash("[TEXT]", "shows or sets the system prompt; - means none", _system),
    "persona": Slash("[NAME]", "shows or changes the persona, by name or YAML file; - means none", _persona),
    "set": Slash("[NAME [VALUE]]", "shows or sets how replies are drawn; default takes it back", _set),
    "source": Slash("[CODE]", "sets the language you write in, for translation models; alone: by the text", _source),
    "target": Slash("[CODE]", "sets the language to translate into", _target),
}
