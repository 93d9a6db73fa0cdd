"""The loop of a chat: a line is read, and it is a message, a command, or the end. Knows no terminal and no model."""

from __future__ import annotations

import unicodedata

from ...errors import ChatError, UsageError
from ...protocol.body import well_formed
from ...protocol.messages import ChatRequest, ChatService, ReplyEnd
from ...settings import Settings
from . import slash
from .conversation import Conversation, Exchange
from .interrupts import presses
from .languages import UNSET, fault, unset_source
from .prompt import prompt_text
from .pump import Pump
from .screen import Screen

PROMPT = "> "
FAREWELL = "See you!"
ENDINGS = frozenset({"exit", "quit", "終了", "/exit", "/quit"})
HOW_TO_LEAVE = "Type 'exit' or press Ctrl+D to leave."
TICK_SECONDS = 0.05


class Talk:
    """One chat, from the first prompt to the last word."""

    def __init__(self, chat: ChatService, settings: Settings, screen: Screen, *, show_prompt: bool = False) -> None:
        self.conversation = Conversation(settings)
        self.screen = screen
        self._chat = chat
        self._show_prompt = show_prompt
        self._told: set[str] = set()
        self._dropped = 0

    def run(self) -> None:
        """Until somebody ends it."""
        while True:
            try:
                line = self.screen.read(PROMPT)
            except EOFError:
                break
            except KeyboardInterrupt:
                if self.screen.leaves_by_interrupt:
                    break
                self.screen.note(HOW_TO_LEAVE)
                continue
            if unicodedata.normalize("NFKC", line).strip().casefold() in ENDINGS:
                break
            self.take(line)
        self.screen.say(FAREWELL)

    def take(self, line: str) -> None:
        """Do what was typed. A failure is told in one line, and the chat goes on."""
        # What is no UTF-8 comes with signs that no tokenizer takes.
        line = well_formed(line)
        command = slash.parsed(line)
        try:
            if command is not None:
                slash.run(self, *command)
            elif line.strip():
                self._ask(line.strip())
        except ChatError as error:
            self.screen.warn(slash.told(error))
        # Nothing of the system's may cost people their conversation.
        except (OSError, ValueError) as error:
            self.screen.warn(f"Error: {' '.join(str(error).split())} (/save FILE keeps the conversation.)")

    def ask_again(self) -> None:
        """The last message once more, in place of its reply. Raises UsageError where there is none."""
        unanswered = self.conversation.unanswered
        if unanswered is not None:
            self._ask(unanswered)
            return
        before = self.conversation.take_back()
        if before is None:
            raise UsageError("There is nothing to ask again.", hint="Nothing was said yet.")
        try:
            self._ask(before.typed)
        finally:
            if self.conversation.unanswered is not None:
                # It got no new reply, and keeps the old one.
                self.conversation.keep(before)

    def carry_on(self) -> None:
        """Go on with the last reply. Raises UsageError where it is whole."""
        last = self.conversation.exchanges[-1] if self.conversation.exchanges else None
        if last is None or not last.unfinished:
            raise UsageError("There is no reply that was cut.", hint="Write a message instead.")
        self._answer(last)

    def use_languages(self, source: str | None, target: str | None) -> None:
        """Those of the next messages. Raises InvalidRequest, and keeps the old ones, where the model lacks them."""
        conversation = self.conversation
        before = conversation.source_language, conversation.target_language
        conversation.source_language, conversation.target_language = source, target
        error: ChatError | None
        try:
            error = fault(self._chat, conversation)
        except ChatError as other:
            error = other
        if error is not None:
            conversation.source_language, conversation.target_language = before
            raise error
        shown = source or unset_source(self._chat.status())
        self.screen.note(f"Source Language: {shown}, Target Language: {target or UNSET}")

    def _ask(self, text: str) -> None:
        self._answer(Exchange(text))

    def _answer(self, exchange: Exchange) -> None:
        request = self.conversation.request(exchange)
        try:
            if self._show_prompt:
                self.screen.note(prompt_text(self._chat, request))
            end = self._stream(request, exchange)
        finally:
            self.conversation.keep(exchange)
        if end is None:
            self.screen.note("Stopped. /continue goes on, /retry asks again." if exchange.reply else "Stopped.")
        else:
            self._tell(end)

    def _stream(self, request: ChatRequest, exchange: Exchange) -> ReplyEnd | None:
        """Show the reply while it comes; None where it was stopped."""
        # So it is should it fail on the way.
        exchange.unfinished = True
        with presses() as pressed:
            reply = self._chat.stream(request)
            view = self.screen.reply()
            try:
                for piece in Pump(reply).pieces(every=TICK_SECONDS):
                    if pressed.is_set():
                        reply.cancel()
                    if piece is None:
                        view.tick()
                        continue
                    exchange.reply += piece.text
                    view.feed(piece.text, piece.reasoning)
                    if piece.end is not None:
                        exchange.unfinished = piece.end.finish_reason == "length"
                        return piece.end
            finally:
                reply.cancel()
                view.close()
        return None

    def _tell(self, end: ReplyEnd) -> None:
        if end.finish_reason == "length":
            self.screen.note(f"Cut after {end.usage.completion_tokens} tokens. /continue goes on.")
        if end.dropped_messages > self._dropped:
            self.screen.note(f"The oldest {end.dropped_messages} messages no longer fit and are left out.")
        self._dropped = end.dropped_messages
        for note in end.notes:
            if note not in self._told:
                self.screen.note(note)
        self._told |= set(end.notes)
