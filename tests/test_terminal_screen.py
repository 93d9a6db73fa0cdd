"""How the terminal chat is shown: Markdown that grows, lines that break in Japanese, keys and what they do."""

from __future__ import annotations

import io
import random
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.cells import cell_len
from rich.console import Console

from colab_llm_chat.cli.terminal.breaking import NOT_FIRST, breaks
from colab_llm_chat.cli.terminal.lines import kept_history, line_reader
from colab_llm_chat.cli.terminal.markdown import THEME, ChatMarkdown, last_block, lines_of, printable
from colab_llm_chat.cli.terminal.rich_screen import RichScreen
from colab_llm_chat.cli.terminal.screen import PlainReply, PlainScreen
from colab_llm_chat.cli.terminal.talk import Talk
from colab_llm_chat.settings import Settings
from tests.chat_services import ScriptedChat, reply_end, wait_until
from tests.terminal_screen import ScreenText

REPLY = """# 猫の一日

Pythonは (readable) 文法と「豊富な」ライブラリがあり、機械学習に広く使われています。
次の行。**太字** and `code`.

1. いち、ながいながいながいながいながいながいながい項目
2. <b>bold</b> [link](https://example.org)
   - nested

| 名前 | 値 |
| --- | ---: |
| 猫 | にゃーにゃーにゃーにゃーにゃーにゃーにゃーにゃー |

```python
def f(x: int) -> str:

    return "にゃー"
```

おしまい👨‍👩‍👧 ﾆｬｰ
"""


TABLE = re.compile(r"(\|.*\|\n)+\n")


class Shown:
    """A rich screen that writes onto a screen of text."""

    def __init__(self, *, width: int = 40, height: int = 10) -> None:
        self.screen = ScreenText(width=width, height=height)
        self.file = io.StringIO()
        console = Console(
            file=self.file, force_terminal=True, width=width, height=height, theme=THEME, color_system="standard"
        )
        self.rich = RichScreen(lambda prompt: "", console)

    def text(self) -> str:
        # A terminal's line discipline begins each line at its left.
        self.screen.feed(self.file.getvalue().replace("\n", "\r\n"))
        self.file.seek(0)
        self.file.truncate()
        return self.screen.text()


def rendered(text: str, *, width: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width, theme=THEME)
    return lines_of(console, ChatMarkdown(text), width - 1)


def test_markdown_at_forty_columns() -> None:
    # How rich spaces the columns of a table differs from version to version.
    assert rendered(TABLE.sub("", REPLY)) == [
        "猫の一日",
        "",
        "Pythonは (readable) 文法と「豊富な」ラ",
        "イブラリがあり、機械学習に広く使われて",
        "います。",
        "次の行。太字 and code.",
        "",
        " 1 いち、ながいながいながいながいながい",
        "   ながいながい項目",
        " 2 <b>bold</b> link",
        "   (https://example.org)",
        "    • nested",
        "",
        "```python",
        "def f(x: int) -> str:",
        "",
        '    return "にゃー"',
        "```",
        "",
        "おしまい👨‍👩‍👧 ﾆｬｰ",
    ]


def test_a_table_is_as_wide_as_the_terminal_and_loses_no_text() -> None:
    [table] = [match[0] for match in TABLE.finditer(REPLY)]
    lines = rendered(table)
    assert max(map(cell_len, lines)) <= 39
    assert re.sub(r"[\s─]", "", "".join(lines)) == re.sub(r"[\s|:-]", "", table)


@pytest.mark.parametrize("height", [4, 10, 40])
@pytest.mark.parametrize("seed", range(4))
def test_however_a_reply_comes_in_pieces_the_same_stands_there(height: int, seed: int) -> None:
    shown, sizes = Shown(height=height), random.Random(seed)
    view = shown.rich.reply()
    at = 0
    while at < len(REPLY):
        size = sizes.randint(1, 40)
        view.feed(REPLY[at : at + size], "")
        at += size
        view.tick()
    view.close()
    assert shown.text().rstrip() == "\n".join(rendered(REPLY))


def test_a_code_block_longer_than_the_screen_stays_whole_in_the_scrollback() -> None:
    shown = Shown()
    view = shown.rich.reply()
    lines = [f"line {at}" for at in range(50)]
    for line in ["```", *lines, "```"]:
        view.feed(f"{line}\n", "")
        view.tick()
    view.close()
    assert shown.text().rstrip().splitlines() == ["```", *lines, "```"]


def test_a_growing_line_is_written_anew_alone() -> None:
    shown = Shown(width=80)
    view = shown.rich.reply()
    view.feed("one\n\ntwo\n\nthree", "")
    view.tick()
    shown.text()
    view.feed(" four", "")
    view.tick()
    written = shown.file.getvalue()
    assert ("three four" in written, "one" in written, "two" in written) == (True, False, False)


def test_a_window_that_becomes_wider_in_mid_reply_loses_nothing() -> None:
    shown = Shown(width=20, height=40)
    view = shown.rich.reply()
    view.feed("first\n\nsecond one", "")
    view.tick()
    shown.text()
    shown.rich._console.width = shown.screen.width = 60
    view.feed(" goes on\n\nthird", "")
    view.close()
    assert shown.text().splitlines()[-5:] == ["first", "", "second one goes on", "", "third"]


def test_a_warning_in_mid_reply_stands_above_what_is_still_written() -> None:
    shown = Shown()
    view = shown.rich.reply()
    view.feed("begun", "")
    view.tick()
    shown.rich.warn("危ない")
    view.feed(" and ended", "")
    view.close()
    shown.rich.note("told")
    assert shown.text().splitlines() == ["危ない", "begun and ended", "told"]


def test_thoughts_stand_before_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown()
    plain = PlainReply()
    for view in (shown.rich.reply(), plain):
        view.feed("", "hm ")
        view.feed("", "well")
        view.feed("answer", "")
        view.close()
    assert shown.text().splitlines() == ["hm well", "", "answer"]
    assert capsys.readouterr().out == "(thinking) hm well\n\nanswer\n"


def test_the_header_fills_itself_in_where_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown()
    plain = PlainScreen()
    for screen in (shown.rich, plain):
        screen.header([("Model Name", "catbot"), ("Device", "")], "10% looking")
        screen.header([("Model Name", "catbot"), ("Device", "")], "70% loading")
        screen.header([("Model Name", "catbot"), ("Device", "cpu")], None)
    assert shown.text().splitlines() == ["Model Name: catbot", "Device: cpu", "Loading model..."]
    printed = ScreenText()
    printed.feed(capsys.readouterr().out.replace("\n", "\r\n"))
    assert printed.text().splitlines() == ["Model Name: catbot", "Loading model...", "Device: cpu"]


@settings(max_examples=50, deadline=None)
@given(st.text(st.sampled_from("猫ねこ。、「」ﾆｬab (x)  é👍ー"), max_size=80), st.integers(4, 20))
def test_no_line_is_too_wide_or_begins_with_what_ends_a_sentence(text: str, width: int) -> None:
    begins = breaks(text, width)
    lines = [text[a:b] for a, b in zip([0, *begins], [*begins, len(text)], strict=True)]
    assert [line for line in lines if cell_len(line.rstrip()) > width] == []
    assert begins == sorted(set(begins))


def test_closing_signs_do_not_begin_a_line() -> None:
    text = "ねこねこねこ。「いぬ」です。"
    for width in range(6, 20):
        assert [at for at in breaks(text, width) if text[at] in NOT_FIRST or text[at - 1] == "「"] == []


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("one", "one"),
        ("one\n\ntwo", "one\n\ntwo"),
        ("one\n\ntwo\n", "two\n"),
        ("- a\n\n- b\n", "- a\n\n- b\n"),
        ("a\n\n```\nx\n\ny\n", "```\nx\n\ny\n"),
        ("a\n\n| b |\n", "| b |\n"),
        ("1. a\n\n2", "1. a\n\n2"),
    ],
)
def test_what_may_still_change_is_the_last_block(text: str, last: str) -> None:
    assert text[last_block(text) :] == last


def test_a_reply_cannot_command_the_terminal() -> None:
    assert printable("a\x1b[2J\x07b\r\nc\x9bd\te") == "a[2Jb\ncd    e"


def test_nor_can_it_where_the_pieces_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainReply()
    view.feed("", "\x1b]0;title\x07hm")
    view.feed("a\x1b[2J\tb\r\n", "")
    view.close()
    PlainScreen().note("\x9bnote")
    assert capsys.readouterr().out == "(thinking) ]0;titlehm\n\na[2J\tb\n\n(note)\n"


def test_plain_lines_typed_in_no_utf_8_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\x82\nnext\n"), encoding="utf-8"))
    screen = PlainScreen()
    assert [screen.read(""), screen.read("")] == ["\ufffd", "next"]


def typed_as(*keys: str) -> list[str | type[BaseException]]:
    """What is read when these keys are pressed, line by line."""
    read: list[str | type[BaseException]] = []
    with create_pipe_input() as source:
        source.send_text("".join(keys))
        reader = line_reader(["/help"], InMemoryHistory(["before"]), source=source, sink=DummyOutput())
        while not read or read[-1] is not EOFError:
            try:
                read.append(reader("> "))
            except (EOFError, KeyboardInterrupt) as ended:
                read.append(type(ended))
    return read


@pytest.mark.parametrize(
    ("keys", "read"),
    [
        ("おはよう\r", ["おはよう"]),
        # Typed before there was a prompt.
        ("hi\n", ["hi"]),
        ("\x1b[200~one\ntwo\x1b[201~\r", ["one\ntwo"]),
        ("one\x1b\rtwo\r", ["one\ntwo"]),
        ("wrong\x03right\r", ["right"]),
        ("\x03", [KeyboardInterrupt]),
        ("ねこ\x7fずみ\r", ["ねずみ"]),
        ("\x1b[A\r", ["before"]),
    ],
)
def test_keys_edit_a_line(keys: str, read: list[str | type[BaseException]]) -> None:
    assert typed_as(keys, "\x04") == [*read, EOFError]


def test_ctrl_d_ends_a_chat_typed_by_keys() -> None:
    shown = Shown()
    chat = ScriptedChat(steps=["**にゃー**"], end=reply_end())
    with create_pipe_input() as source:
        source.send_text("おはよう\r\x04")
        reader = line_reader([], InMemoryHistory(), source=source, sink=DummyOutput())
        shown.rich._read_line = reader
        Talk(chat, Settings(), shown.rich).run()
    assert shown.text().splitlines() == ["にゃー", "See you!"]


def test_what_was_typed_is_kept_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    kept_history().append_string("おはよう")
    [file] = (tmp_path / "state").rglob("history")
    assert (list(kept_history().load_history_strings()), file.stat().st_mode & 0o777) == (["おはよう"], 0o600)
    file.unlink()
    file.mkdir()
    kept_history().append_string("It cannot be kept, and the chat goes on.")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert isinstance(kept_history(), InMemoryHistory)


def test_a_reply_that_waits_shows_what_has_come() -> None:
    shown = Shown()
    gate = threading.Event()
    chat = ScriptedChat(steps=["be", "gun", gate])
    talk = Talk(chat, Settings(), shown.rich)
    seen: list[bool] = []

    def look() -> None:
        wait_until(lambda: "begun" in shown.file.getvalue())
        seen.append(True)
        gate.set()

    thread = threading.Thread(target=look)
    thread.start()
    talk.take("一")
    thread.join()
    assert seen == [True]
