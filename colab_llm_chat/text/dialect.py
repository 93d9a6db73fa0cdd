"""How one model marks reasoning and tool calls in its replies, found once from its tokenizer; parsers for each reply.

Knows the formats by their table only.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..errors import UnsupportedParameter
from ..protocol.messages import ChatRequest, Tool
from .formats import HARMONY, CallFormat, call_format, is_harmony, thinking
from .marked import Harmony, Marked
from .pieces import Splitter, Unsplit
from .reply import ReplyParser
from .templated import Templated

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Dialect:
    """One tokenizer's; `template` is its chat template's text, "" where it has none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer = tokenizer
        self.templated = bool(template) and getattr(tokenizer, "response_template", None) is not None
        self.harmony = is_harmony(template) and not self.templated
        self.marks = None if self.harmony else thinking(template)
        self.thinking = None if self.templated else self.marks
        self.syntax: CallFormat | None = None if self.harmony else call_format(template)
        self.calls = None if self.templated else self.syntax

    @property
    def is_plain(self) -> bool:
        """Its replies are never split."""
        return not (self.templated or self.harmony or self.thinking or self.calls)

    def check(self, request: ChatRequest) -> None:
        """Raises UnsupportedParameter for tools whose calls nobody could find in the reply."""
        if offered(request) and not (self.templated or self.harmony or self.calls):
            raise UnsupportedParameter(
                "The model's chat template takes tools, but writes calls in a way that is not known here.",
                param="tools",
                hint="Leave tools out, or load a model that was made for them, such as Qwen/Qwen3-4B.",
            )

    def opened(self, request: ChatRequest, prompt: str) -> bool:
        """Whether the prompt's end has begun the reasoning."""
        if self.marks is None:
            return False
        if request.continue_final:
            text = request.messages[-1].content
            return text.rfind(self.marks.open) > text.rfind(self.marks.close)
        return prompt.rstrip().endswith(self.marks.open)

    def parser(self, request: ChatRequest, prompt: str, *, form_stop: tuple[str, ...]) -> ReplyParser:
        """For the reply to a prompt of that text; `form_stop` are the strings that the prompt's form needs."""
        tools = {tool.name: tool for tool in offered(request)}
        if request.raw or self.is_plain or (not tools and self.thinking is None and self.calls is not None):
            return ReplyParser(Unsplit(), stream_stop=(*request.stop, *form_stop))
        return ReplyParser(
            self._splitter(request, prompt, tools),
            shown_ids=self._shown_ids(bool(tools)),
            stream_stop=form_stop,
            answer_stop=request.stop,
            parallel=request.tool_use is None or request.tool_use.parallel,
        )

    def _splitter(self, request: ChatRequest, prompt: str, tools: dict[str, Tool]) -> Splitter:
        if self.templated:
            return Templated(self.tokenizer, tools, prompt)
        if self.harmony:
            return Harmony(tools)
        opened = self.opened(request, prompt)
        carries_on = request.continue_final and bool(request.messages[-1].content.strip())
        return Marked(self.thinking, self.calls if tools else None, tools, opened=opened, carries_on=carries_on)

    def _shown_ids(self, tools: bool) -> frozenset[int]:
        if self.templated:
            written = json.dumps(self.tokenizer.response_template, ensure_ascii=False).replace("\\", "")
            added = self.tokenizer.added_tokens_decoder.items()
            return frozenset(at for at, one in added if one.special and one.content in written)
        marks = list(HARMONY) if self.harmony else []
        if self.thinking is not None:
            marks += [self.thinking.open, self.thinking.close]
        if self.calls is not None and tools:
            marks += [*self.calls.openings, self.calls.close, "[ARGS]", "[CALL_ID]"]
        return frozenset(one for one in map(self.special_id, marks) if one is not None)

    def special_id(self, mark: str) -> int | None:
        """The id of a mark that is a special token, which no decoding shows."""
        found = self._added(mark)
        return None if found is None or not found[1] else found[0]

    def grammar_id(self, mark: str) -> int | None:
        """The id of a mark that llguidance takes for a special token: those in angle brackets, too."""
        found = self._added(mark)
        return None if found is None or not (found[1] or (mark[0], mark[-1]) == ("<", ">")) else found[0]

    def _added(self, mark: str) -> tuple[int, bool] | None:
        added = self.tokenizer.added_tokens_decoder.items()
        return next(((at, bool(one.special)) for at, one in added if one.content == mark), None)


def offered(request: ChatRequest) -> tuple[Tool, ...]:
    """The tools that the model may call in this reply."""
    use = request.tool_use
    return use.tools if use is not None and use.choice != "none" else ()
