"""The state of one conversation: what was said, and how the next reply is asked for. Knows no screen and no keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...protocol.body import well_formed
from ...protocol.messages import ChatRequest, Message, system_first
from ...protocol.simple import unescape
from ...settings import SamplingParams, Settings
from ...text.personas import persona_of, with_persona


@dataclass(slots=True)
class Exchange:
    """A message as it was typed, and the reply so far; `unfinished` when it was cut by its length or stopped."""

    typed: str
    reply: str = ""
    unfinished: bool = False

    @property
    def is_raw(self) -> bool:
        return self.typed.startswith("\\")

    @property
    def message(self) -> Message:
        return Message("user", unescape(self.typed))

    def messages(self) -> Iterator[Message]:
        yield self.message
        if self.reply:
            yield Message("assistant", self.reply)


class Conversation:
    """Exchanges in their order, with what the next reply gets of the settings, of their persona, or of another one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.persona = settings.persona
        self._begin_with(with_persona(settings))
        self.source_language = settings.language_source
        self.target_language = settings.language_target
        self.exchanges: list[Exchange] = []
        # What was asked last and got no answer.
        self.unanswered: str | None = None

    def request(self, exchange: Exchange) -> ChatRequest:
        """For the reply to this exchange, or for the rest of the one it has."""
        earlier = [one for other in self.exchanges if other is not exchange for one in other.messages()]
        last = list(exchange.messages())
        return ChatRequest(
            messages=system_first([*earlier, *last], default=self.system),
            sampling=self.sampling,
            raw=exchange.is_raw,
            continue_final=last[-1].role == "assistant",
            source_language=self.source_language,
            target_language=self.target_language,
        )

    def keep(self, exchange: Exchange) -> None:
        """Take it into the history, if it has a reply; else it can be asked again."""
        if exchange.reply:
            self.unanswered = None
            if exchange not in self.exchanges:
                self.exchanges.append(exchange)
        else:
            self.unanswered = exchange.typed

    def play(self, persona: str | None) -> None:
        """Take system prompt and sampling from this persona, None from no one. Raises UsageError for an unknown one."""
        self._begin_with(persona_of(persona).over(self._settings) if persona else self._settings)
        self.persona = persona

    def draw_by(self, sampling: SamplingParams) -> None:
        self.sampling = sampling

    def clear(self) -> None:
        self.exchanges, self.unanswered = [], None

    def take_back(self) -> Exchange | None:
        """Remove the last exchange, a failed one before any other, and return it; None where there is none."""
        if self.unanswered is not None:
            failed, self.unanswered = Exchange(self.unanswered), None
            return failed
        return self.exchanges.pop() if self.exchanges else None

    def _begin_with(self, settings: Settings) -> None:
        self.system = settings.system if settings.system is None else well_formed(settings.system)
        self.sampling = self.started_with = settings.sampling

    def messages(self) -> list[dict[str, str]]:
        """All of it as JSON has it elsewhere: roles and contents."""
        said = [one for exchange in self.exchanges for one in exchange.messages()]
        return [{"role": one.role, "content": one.content} for one in system_first(said, default=self.system)]
