"""Markdown as a terminal shows it, and where a text's last block begins. Knows no model and no cursor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, Paragraph, TableElement
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from .breaking import breaks
from .harmless import harmless

# Colours of the terminal's own palette, which its owner can read on whatever background.
THEME = Theme(
    {
        "markdown.code": "cyan",
        "markdown.code_block": "none",
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.link_url": "underline",
        "markdown.link": "none",
        "markdown.block_quote": "dim",
        "markdown.item.bullet": "none",
        "markdown.item.number": "none",
        "markdown.hr": "dim",
    },
    inherit=True,
)
CODE_COLOURS = "ansi_dark"
# Tags are text here: a reply about HTML must not lose them.
PARSER = MarkdownIt("commonmark", {"html": False}).enable("table").enable("strikethrough")
SPACES_AT_THE_END = re.compile(r" +((?:\x1b\[[\d;]*m)*)$")


def printable(text: str) -> str:
    """What is harmless of it, with tabs as the columns that they are counted for."""
    return harmless(text.replace("\t", "    "))


class BrokenAnywhere(Paragraph):
    """A paragraph whose lines may also break between Japanese characters."""

    hang = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from broken(self.text, options.max_width, hang=self.hang)


class PlainHeading(Heading):
    """A heading where the text begins, without a frame."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield from broken(self.text, options.max_width)


class FencedCode(CodeBlock):
    """Code between its fences, so that it can be copied with nothing around its lines."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        language = "" if self.lexer_name == "text" else self.lexer_name
        yield Text(f"```{language}", style="dim")
        code = str(self.text).rstrip("\n")
        if code:
            yield Syntax(code, self.lexer_name, theme=self.theme, word_wrap=True, background_color="default")
        yield Text("```", style="dim")


class FoldedTable(TableElement):
    """A table that is as wide as the terminal at most, and loses none of its text."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                table.box, table.show_edge = box.SIMPLE_HEAD, False
                for column in table.columns:
                    column.overflow = "fold"
            yield table


class ChatMarkdown(Markdown):
    """A reply's Markdown: single line breaks are kept, tags are text, addresses are written out."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "paragraph_open": BrokenAnywhere,
        "heading_open": PlainHeading,
        "fence": FencedCode,
        "code_block": FencedCode,
        "table_open": FoldedTable,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme=CODE_COLOURS, hyperlinks=False)
        self.markup = text
        self.parsed = PARSER.parse(text)
        for token in self.parsed:
            for inside in token.children or ():
                if inside.type == "softbreak":
                    inside.type = "hardbreak"


def broken(text: Text, width: int, *, hang: int = 0) -> RenderResult:
    """The text's lines, each no wider than that."""
    for line in text.split("\n", allow_blank=True):
        for at, part in enumerate(line.divide(breaks(line.plain, width, hang=hang))):
            part.rstrip()
            if at:
                part.pad_left(hang)
            part.no_wrap, part.overflow = True, "ignore"
            yield part


def paragraph(text: str, style: str, *, hang: int = 0) -> RenderableType:
    """Plain text, with its lines broken as those of Markdown are; what follows a break begins after `hang` columns."""
    element = BrokenAnywhere("left")
    element.hang = hang
    element.text = Text(text, style=style)
    return element


def lines_of(console: Console, shown: RenderableType, width: int) -> list[str]:
    """What the console would print, line by line, without spaces at their ends."""
    with console.capture() as captured:
        console.print(shown, width=width)
    return [SPACES_AT_THE_END.sub(r"\1", line) for line in captured.get().strip("\n").split("\n")]


def last_block(text: str) -> int:
    """Where the last block begins: whatever still comes changes nothing before it."""
    whole = text[: text.rfind("\n") + 1]
    begins = _beginnings(PARSER.parse(whole))
    return sum(len(line) + 1 for line in text.split("\n")[: begins[-1]]) if begins else 0


def _beginnings(tokens: Sequence[Token]) -> list[int]:
    """The first lines of the blocks."""
    return [token.map[0] for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
