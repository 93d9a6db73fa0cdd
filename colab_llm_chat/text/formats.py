"""How model families mark reasoning and tool calls, found from the chat template's text: a new family is a new entry.

Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..protocol.messages import Tool
from . import forced
from .calls import Reader, bracket_calls, json_call, tagged_call
from .forced import Grammar


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """One syntax of tool calls. A template has it that has all of `found_by` in its text.

    A call begins with one of `openings`; before anything is said also with one of `first_openings`, and after a call
    with one of `next_openings`, both ending in the call's own first letter. `bare`: openings that belong to the call.
    `write` gives the grammar of a call behind its opening, `between` stands between two calls; with `around` the
    opening comes only once, and these about all calls together.
    """

    name: str
    found_by: tuple[str, ...]
    read: Callable[..., Reader]
    openings: tuple[str, ...] = ()
    first_openings: tuple[str, ...] = ()
    next_openings: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    close: str = ""
    write: Callable[[Grammar, Tool, bool], str]
    between: str = "\n"
    around: tuple[str, str] | None = None

    def begun_by(self, mark: str) -> str:
        """How much of an opening is the call's own."""
        return "" if mark not in self.bare else mark[-1] if mark[-1] == "{" else mark


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around reasoning, at a reply's beginning."""

    open: str
    close: str


HARMONY = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")

CALL_FORMATS = (
    CallFormat(
        name="tagged",
        found_by=("<function=", "<parameter="),
        read=tagged_call,
        write=forced.tagged,
        openings=("<tool_call>", "<function="),
        bare=("<function=",),
        close="</tool_call>",
    ),
    CallFormat(
        name="hermes",
        found_by=("<tool_call>", '"name"', '"arguments"'),
        read=json_call,
        write=forced.hermes,
        openings=("<tool_call>",),
        close="</tool_call>",
    ),
    CallFormat(
        name="mistral",
        found_by=("[TOOL_CALLS]", "[ARGS]"),
        read=bracket_calls,
        write=forced.mistral,
        openings=("[TOOL_CALLS]",),
        between="",
    ),
    CallFormat(
        name="mistral_array",
        found_by=("[TOOL_CALLS]",),
        read=bracket_calls,
        write=forced.mistral_array,
        openings=("[TOOL_CALLS]",),
        between=", ",
        around=("[", "]"),
    ),
    CallFormat(
        name="llama",
        found_by=('"name"', '"parameters"'),
        read=json_call,
        write=forced.llama,
        openings=("<|python_tag|>",),
        between="; ",
        first_openings=("{",),
        next_openings=("{", "; {", ";{"),
        bare=("{", "; {", ";{"),
    ),
)

THINKING = (Thinking("<think>", "</think>"), Thinking("[THINK]", "[/THINK]"))


def is_harmony(template: str) -> bool:
    return "<|channel|>" in template and "<|message|>" in template


def call_format(template: str) -> CallFormat | None:
    # Templates write JSON in strings of their own: its quotes may be escaped there.
    plain = template.replace("\\", "")
    return next((one for one in CALL_FORMATS if all(part in plain for part in one.found_by)), None)


def thinking(template: str) -> Thinking | None:
    return next((one for one in THINKING if one.open in template or one.close in template), None)
