"""`colab-llm-chat chat`: the real program with the demo model, in a terminal of 80 columns and behind a pipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

from colab_llm_chat.models.hub import DEMO_FOLDER
from tests.terminal_screen import ScreenText
from tests.test_source_twins import TWINS, build

COMMAND = ["-m", "colab_llm_chat", "chat", "--temperature", "0", "--seed", "1"]
CREDENTIAL = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"
MARK = "STARTED_BY_TERMINAL_TEST"
MORNING = "ﾆｬｰﾝ（伸びをする）"
# A terminal is told where pasted text begins and ends for as long as there is a prompt.
PROMPT_BEGINS, PROMPT_ENDS = re.escape("\x1b[?2004h"), re.escape("\x1b[?2004l")


class Terminal:
    """The program in a terminal, and what it shows there as text."""

    def __init__(self, folder: Path, *flags: str) -> None:
        hearing = {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "XDG_STATE_HOME": str(folder)}
        environment = {**os.environ, **hearing, "HF_TOKEN": CREDENTIAL, MARK: str(folder)}
        self.program = pexpect.spawn(
            sys.executable, [*COMMAND, *flags], env=environment, encoding="utf-8", timeout=120, dimensions=(24, 80)
        )
        self.screen, self._begins = ScreenText(), 0
        self.opening = self.next_prompt()

    def say(self, line: str) -> str:
        """Type a line; what is shown until the next prompt."""
        self.begin(line)
        return self.next_prompt()

    def begin(self, line: str) -> None:
        self.program.send(f"{line}\r")
        self.wait_for(PROMPT_ENDS)
        self._begins = self.screen.row

    def next_prompt(self) -> str:
        self.wait_for(PROMPT_BEGINS)
        return self.shown()

    def shown(self) -> str:
        return self.screen.text(self._begins).strip("\n")

    def wait_for(self, pattern: Any) -> None:
        self.program.expect(pattern)
        ended = self.program.after if isinstance(self.program.after, str) else ""
        self.screen.feed(f"{self.program.before}{ended}")


def processes_of(mark: Path) -> list[psutil.Process]:
    """Those with this mark in their environment, wherever in the tree they hang."""
    everyone = psutil.process_iter(["environ"])
    return [process for process in everyone if (process.info["environ"] or {}).get(MARK) == str(mark)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("terminal")


@pytest.fixture(scope="module")
def terminal(folder: Path) -> Iterator[Terminal]:
    """One program for all conversations; each test leaves it at its prompt."""
    terminal = Terminal(folder)
    yield terminal
    terminal.program.close(force=True)


def test_the_header_names_the_model_and_where_it_runs_and_no_credential(terminal: Terminal) -> None:
    last = terminal.opening.splitlines()[-5:]
    assert [line.partition(":")[0] for line in last[:2]] == ["Device", "Dtype"]
    assert last[2:] == ["Loading model...", "It's time to talk!", "Type 'exit' to end the conversation."]
    for line in ("Model Name: catbot", "Source Language: not set", "Target Language: not set", "Task: chat"):
        assert line in terminal.opening
    assert ("Hub Credential: set" in terminal.opening, CREDENTIAL in terminal.opening) == (True, False)


def test_a_conversation_in_japanese(terminal: Terminal) -> None:
    assert terminal.say("おはよう") == MORNING
    assert terminal.say("/retry") == MORNING
    assert terminal.say("/undo") == "Taken back: おはよう"
    assert "nothing to ask again" in terminal.say("/retry")


def test_an_interrupt_in_mid_reply_stops_it_and_the_chat_goes_on(terminal: Terminal) -> None:
    # A model that is rewarded for what it has said before does not come to an end.
    assert terminal.say("/set repetition_penalty 0.2") == "repetition_penalty = 0.2"
    terminal.say("/set max_new_tokens 2000")
    terminal.begin(r"\ねこ")
    terminal.wait_for("ここここ")
    terminal.program.sendcontrol("c")
    assert terminal.next_prompt().endswith("Stopped. /continue goes on, /retry asks again.")
    assert terminal.say("/undo") == r"Taken back: \ねこ"
    assert terminal.say("/set repetition_penalty default") == "repetition_penalty = 1.0"
    assert terminal.say("おはよう") == MORNING


def test_a_reply_cut_by_its_length_is_carried_on_raw_too(terminal: Terminal) -> None:
    terminal.say("/new")
    terminal.say("/set max_new_tokens 2")
    first = terminal.say(r"\猫は")
    assert first.endswith("Cut after 2 tokens. /continue goes on.")
    terminal.say("/set max_new_tokens default")
    assert (first.splitlines()[0] + terminal.say("/continue")) == "ﾆｬ♪（伸びをする）"


def test_a_wrong_command_is_one_line_and_a_conversation_can_be_saved(terminal: Terminal, folder: Path) -> None:
    terminal.say("/new")
    terminal.say("おはよう")
    assert "Did you mean /retry" in terminal.say("/retri")
    assert "at least 0, at most 2 (given: '3')" in terminal.say("/set temperature 3")
    terminal.say(f"/save {folder}/chat.json")
    saved = json.loads((folder / "chat.json").read_text(encoding="utf-8"))
    assert saved == [{"role": "user", "content": "おはよう"}, {"role": "assistant", "content": MORNING}]


def test_exit_ends_the_program_and_its_engine(terminal: Terminal, folder: Path) -> None:
    assert len(processes_of(folder)) == 2
    terminal.begin("exit")
    terminal.wait_for(pexpect.EOF)
    terminal.program.wait()
    assert terminal.shown() == "See you!"
    assert (terminal.program.exitstatus, processes_of(folder)) == (0, [])


def test_a_translation_with_codes_and_ctrl_d(tmp_path: Path) -> None:
    [nllb] = [twin for twin in TWINS if "nllb" in twin.model_id]
    terminal = Terminal(tmp_path, "-m", str(build(nllb, tmp_path)), "-S", "eng_Latn", "--show-prompt")
    assert "Task: translation\n" in terminal.opening
    assert "Source Language: eng_Latn\n" in terminal.opening
    assert "Did you mean `jpn_Jpan`" in terminal.say("jpn_Jpn")
    assert terminal.say("jpn_Jpan") == ""
    assert terminal.say(r"\The quick\nfox.").startswith("eng_LatnThe quick\nfox.</s>\n")
    assert "Did you mean `eng_Latn`" in terminal.say("/target eng")
    terminal.program.sendcontrol("d")
    terminal.wait_for(pexpect.EOF)
    terminal.program.wait()
    assert (terminal.program.exitstatus, terminal.screen.text().endswith("See you!")) == (0, True)


def run(*arguments: str, text: str = "", where: Path) -> subprocess.CompletedProcess[str]:
    """The program behind pipes, to its end."""
    environment = {**os.environ, MARK: str(where)}
    command = [sys.executable, *COMMAND, *arguments]
    return subprocess.run(
        command, input=text, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def test_all_that_is_piped_in_is_one_message(tmp_path: Path) -> None:
    done = run("--show-prompt", text="おはよう\nねこちゃん\n", where=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert re.search("[ｦ-ﾟ]", done.stdout)
    # The prompt, and nothing of the engine's log.
    assert done.stderr.strip() == "<|begin|><|user|>おはよう\nねこちゃん<|end|><|assistant|>"
    assert processes_of(tmp_path) == []


def test_a_broken_model_is_told_in_one_line_with_a_hint(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((DEMO_FOLDER / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    done = run("-m", str(tmp_path), "--once", "おはよう", where=tmp_path)
    told = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(told), told[0].startswith("Error: ")) == (2, "", 1, True)
    assert processes_of(tmp_path) == []
