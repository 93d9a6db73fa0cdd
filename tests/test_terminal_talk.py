"""The terminal chat's loop and commands over a scripted pipeline, on a screen that is a list."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from pydantic import SecretStr

from colab_llm_chat.cli.terminal.conversation import Conversation, Exchange
from colab_llm_chat.cli.terminal.interrupts import ended_by_signals, presses
from colab_llm_chat.cli.terminal.languages import settle_languages, source_shown
from colab_llm_chat.cli.terminal.once import answer_once, message_from
from colab_llm_chat.cli.terminal.opening import known_credential
from colab_llm_chat.cli.terminal.run import lose_no_reply, run_chat
from colab_llm_chat.cli.terminal.screen import PlainScreen, Rows
from colab_llm_chat.cli.terminal.stray import caught_stderr
from colab_llm_chat.cli.terminal.talk import HOW_TO_LEAVE, Talk
from colab_llm_chat.errors import ChatError, EngineFailed, UsageError
from colab_llm_chat.protocol.messages import ChatRequest, Delta, PromptTokens, Reply, Status
from colab_llm_chat.settings import Settings
from colab_llm_chat.text.direction import ByTokens
from tests.chat_services import ScriptedChat, reply_end, wait_until

End = type[EOFError] | type[KeyboardInterrupt]


class Paper(PlainScreen):
    """A screen that keeps what it is told, and types what it was given; after that somebody leaves."""

    def __init__(self, *typed: str | End, leaves_by_interrupt: bool = False) -> None:
        super().__init__(leaves_by_interrupt=leaves_by_interrupt)
        self.said: list[str] = []
        self._typed = iter(typed)

    def say(self, text: str, *, hang: int = 0) -> None:
        self.said.append(text)

    note = warn = say

    def header(self, rows: Rows, progress: str | None) -> None:
        self.said += [f"{name}: {value}" for name, value in rows]

    def read(self, prompt: str) -> str:
        line = next(self._typed, EOFError)
        if isinstance(line, str):
            return line
        raise line


def talked(*typed: str | End, chat: ScriptedChat | None = None, settings: Settings | None = None) -> tuple[Talk, Paper]:
    """A whole chat in which this was typed."""
    screen = Paper(*typed)
    talk = Talk(chat or ScriptedChat(), settings or Settings(), screen)
    talk.run()
    return talk, screen


def asked(chat: ScriptedChat, at: int = -1) -> list[str]:
    return [f"{message.role}: {message.content}" for message in chat.requests[at].messages]


@pytest.mark.parametrize("word", ["exit", " EXIT ", "quit", "終了", "ｅｘｉｔ", "/exit", EOFError])
def test_each_word_for_the_end_ends_it(word: str | End) -> None:
    talk, screen = talked(word, "never read")
    assert (screen.said, talk.conversation.exchanges) == (["See you!"], [])


def test_an_interrupt_at_the_prompt_tells_how_to_leave_and_ends_a_cell() -> None:
    _, screen = talked(KeyboardInterrupt)
    assert screen.said == [HOW_TO_LEAVE, "See you!"]
    cell = Paper(KeyboardInterrupt, "never read", leaves_by_interrupt=True)
    Talk(ScriptedChat(), Settings(), cell).run()
    assert cell.said == ["See you!"]


def test_each_message_goes_with_what_was_said_before() -> None:
    chat = ScriptedChat()
    talked("", "一", "  ", "二", chat=chat, settings=Settings(system="猫です"))
    assert [asked(chat, at) for at in (0, 1)] == [
        ["system: 猫です", "user: 一"],
        ["system: 猫です", "user: 一", "assistant: Hello", "user: 二"],
    ]


def test_a_failing_reply_is_one_line_and_can_be_asked_again() -> None:
    chat = ScriptedChat(steps=[EngineFailed("It\nbroke.", hint="Wait.")])
    talk, screen = talked("一", chat=chat)
    assert screen.said == ["Error: It broke. Wait.", "See you!"]
    chat.steps = ["good"]
    talk.take("/retry")
    assert (asked(chat), talk.conversation.exchanges[0].reply) == (["user: 一"], "good")


def test_a_retry_that_fails_keeps_the_old_reply() -> None:
    chat = ScriptedChat()
    talk, screen = talked("一", chat=chat)
    chat.refuses_with = EngineFailed("Gone.")
    talk.take("/retry")
    assert (talk.conversation.exchanges[0].reply, screen.said[-1][:12]) == ("Hello", "Error: Gone.")


def test_undo_takes_exchanges_back_one_by_one_and_new_all_of_them() -> None:
    talk, screen = talked("一", "二", "/undo", "三", "/new", "/undo")
    assert screen.said[:2] == ["Taken back: 二", "A new conversation."]
    assert "nothing to take back" in screen.said[2]
    assert talk.conversation.exchanges == []


def test_undo_takes_a_message_that_failed_before_an_answered_one() -> None:
    chat = ScriptedChat()
    talk, screen = talked("一", chat=chat)
    chat.refuses_with = EngineFailed("Gone.")
    for typed in ("二", "/undo", "/undo", "/undo"):
        talk.take(typed)
    assert screen.said[-3:-1] == ["Taken back: 二", "Taken back: 一"]
    assert "nothing to take back" in screen.said[-1]


def test_a_reply_cut_by_its_length_is_carried_on() -> None:
    chat = ScriptedChat(end=reply_end("length"))
    talk, screen = talked("一", "/continue", chat=chat)
    assert asked(chat) == ["user: 一", "assistant: Hello"]
    assert (chat.requests[-1].continue_final, talk.conversation.exchanges[0].reply) == (True, "HelloHello")
    assert screen.said[0] == "Cut after 3 tokens. /continue goes on."


def test_a_whole_reply_is_not_carried_on() -> None:
    _, screen = talked("/continue", "一", "/continue")
    assert [line[:36] for line in screen.said[:2]] == ["Error: There is no reply that was cut"[:36]] * 2


def test_a_raw_message_goes_unescaped_and_is_carried_on_with_its_reply() -> None:
    chat = ScriptedChat(end=reply_end("length"))
    talked(r"\あ\nb", "/continue", chat=chat)
    assert asked(chat) == ["user: あ\nb", "assistant: Hello"]
    assert [(one.raw, one.continue_final) for one in chat.requests] == [(True, False), (True, True)]


def test_the_system_prompt_is_shown_set_and_taken_away() -> None:
    chat = ScriptedChat()
    _, screen = talked("/system", "/system 犬です", "一", "/system -", "二", chat=chat)
    assert screen.said[:3] == ["System prompt: none", "System prompt: 犬です", "System prompt: none"]
    assert (asked(chat, 0)[0], asked(chat, 1)[0]) == ("system: 犬です", "user: 一")


def test_a_knob_is_set_for_the_next_reply_and_set_back() -> None:
    chat = ScriptedChat()
    typed = (
        "/set temperature 0.2",
        "/set top-p=0.5",
        "/set seed 7",
        "一",
        "/set seed none",
        "/set top_p default",
        "二",
    )
    talked(*typed, chat=chat)
    first, second = (request.sampling for request in chat.requests)
    assert (first.temperature, first.top_p, first.seed) == (0.2, 0.5, 7)
    assert (second.temperature, second.top_p, second.seed) == (0.2, 0.9, None)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("/set temperature 3", "temperature takes a number, at least 0, at most 2 (given: '3')."),
        ("/set top_p x", "top_p takes a number, above 0, at most 1 (given: 'x')."),
        ("/set max_new_tokens 0.5", "max_new_tokens takes a whole number, at least 1 (given: '0.5')."),
        ("/set temprature 1", "Did you mean temperature?"),
        ("/sytem x", "Did you mean /system"),
        ("/xyzzy", "/help lists the commands."),
        ("/save", "has nothing to save yet"),
    ],
)
def test_what_cannot_be_done_is_one_line(typed: str, told: str) -> None:
    _, screen = talked(typed)
    assert (told in screen.said[0], "\n" in screen.said[0], len(screen.said)) == (True, False, 2)


def test_set_alone_shows_every_knob_and_help_every_command() -> None:
    _, screen = talked("/set", "/help")
    shown = "\n".join(screen.said)
    names = [*Settings().sampling.model_fields_set, "/new", "/retry", "/undo", "/save FILE", "/system", "/continue"]
    assert [name for name in names if name not in shown] == []
    assert "temperature = 0.7 (a number, at least 0, at most 2)" in shown


@pytest.mark.parametrize("message", ["/etc/passwd とは?", " /help me", "// a comment"])
def test_a_path_or_a_comment_is_a_message(message: str) -> None:
    chat = ScriptedChat()
    talked(message, chat=chat)
    assert asked(chat) == [f"user: {message.strip()}"]


def test_a_conversation_is_saved_but_not_over_another(tmp_path: Path) -> None:
    _, screen = talked("一", f"/save {tmp_path}/a b.md", f"/save {tmp_path}/c.json", f"/save {tmp_path}/c.json")
    assert (tmp_path / "a b.md").read_text(encoding="utf-8") == "## User\n\n一\n\n## Assistant\n\nHello\n"
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))[1] == {"role": "assistant", "content": "Hello"}
    assert "File exists" in screen.said[2]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("~nosuchuser/x.md", "home directory"),
        ("a\0b.md", "null byte"),
        ("/dev/null/x.md", "Not a directory"),
        ("x" * 300, "name too long"),
    ],
)
def test_a_conversation_that_cannot_be_saved_goes_on(name: str, why: str) -> None:
    talk, screen = talked("一", f"/save {name}", "二")
    assert (screen.said[0].startswith("Error: "), why in screen.said[0], len(screen.said)) == (True, True, 2)
    assert len(talk.conversation.exchanges) == 2


@pytest.mark.parametrize("fault", [OSError(5, "Input/output error"), ValueError("bad\nvalue")])
def test_an_unforeseen_fault_does_not_end_the_conversation(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ScriptedChat()
    talk, screen = talked("一", chat=chat)
    with monkeypatch.context() as broken:
        broken.setattr(chat, "tokenize", lambda request: (_ for _ in ()).throw(fault))
        talk.take("/target jpn_Jpan")
    talk.take("二")
    assert (screen.said[-1][:7], "\n" in screen.said[-1], len(talk.conversation.exchanges)) == ("Error: ", False, 2)


def test_what_is_no_utf_8_is_mended_wherever_it_comes_in() -> None:
    chat = ScriptedChat()
    talked("/system \udcff猫", "\udc82\udcb1", chat=chat)
    assert asked(chat) == ["system: \ufffd猫", "user: \ufffd\ufffd"]
    conversation, screen = Conversation(Settings(system="\udcff")), Paper("eng_Latn", "\udcff", "jpn_Jpan")
    assert conversation.system == "\ufffd"
    settle_languages(Translator(), conversation, screen)
    assert "\ufffd" in screen.said[0]


def test_an_interrupt_stops_the_reply_and_what_was_said_stays(capsys: pytest.CaptureFixture[str]) -> None:
    chat = ScriptedChat(steps=["begun", threading.Event()])

    def press() -> None:
        wait_until(lambda: bool(chat.replies) and chat.replies[0].waiting.is_set())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    talk, screen = talked("一", "/continue", chat=replace_steps_after(chat, ["!"]))
    assert screen.said[0] == "Stopped. /continue goes on, /retry asks again."
    assert (talk.conversation.exchanges[0].reply, capsys.readouterr().out) == ("begun!", "begun\n!\n")


def replace_steps_after(chat: ScriptedChat, steps: list[str]) -> ScriptedChat:
    """The chat plays these from its second reply on."""

    class Changing(ScriptedChat):
        def stream(self, request: ChatRequest) -> object:  # type: ignore[override]
            reply = chat.stream(request)
            chat.steps = list(steps)
            return reply

    return Changing()


def test_dropped_messages_and_notes_are_told_once() -> None:
    end = replace(reply_end(dropped_messages=2), notes=("Languages are ignored.",))
    _, screen = talked("一", "二", chat=ScriptedChat(end=end))
    assert screen.said[:2] == [
        "The oldest 2 messages no longer fit and are left out.",
        "Languages are ignored.",
    ]
    assert len(screen.said) == 3


def test_the_prompt_is_shown_before_the_reply_when_asked_for() -> None:
    screen = Paper("一")
    Talk(ScriptedChat(), Settings(system="猫"), screen, show_prompt=True).run()
    assert screen.said[0] == "猫\n一"


class Translator(ScriptedChat):
    """Knows two languages and demands to be told the target; the source it takes for what the text looks like."""

    way = ByTokens({"eng_Latn": 1, "jpn_Jpan": 2})

    def status(self) -> Status:
        return Status(state="ok", model_id="nllb", task="translation", languages=self.way.languages)

    def tokenize(self, request: ChatRequest) -> PromptTokens:
        self.way.direction(request, ())
        return super().tokenize(request)

    def stream(self, request: ChatRequest) -> Reply:
        self.end = reply_end(notes=self.way.direction(request, ()).notes)
        return super().stream(request)


def test_a_translation_model_asks_for_its_languages_until_it_knows_them() -> None:
    conversation, screen = Conversation(Settings()), Paper("eng_Latn", "", "jpn_Jpn", " jpn_Jpan ")
    settle_languages(Translator(), conversation, screen)
    assert (conversation.source_language, conversation.target_language) == ("eng_Latn", "jpn_Jpan")
    assert ["missing" in screen.said[0], "Did you mean `jpn_Jpan`" in screen.said[1]] == [True, True]


def test_without_a_source_language_the_text_says_which_it_is() -> None:
    chat, settings = Translator(), Settings(language_target="eng_Latn")
    screen = Paper("", "ねこ", "cat", "/source eng_Latn", "/source")
    talk = Talk(chat, settings, screen)
    settle_languages(chat, talk.conversation, screen)
    talk.run()
    assert screen.said[0] == "The text was read as Japanese (`jpn_Jpan`)."
    shown = [f"Source Language: {code}, Target Language: eng_Latn" for code in ("eng_Latn", "by the text")]
    assert screen.said[2:4] == shown
    assert screen.said[2:4] == [
        f"Source Language: {code}, Target Language: eng_Latn" for code in ("eng_Latn", "by the text")
    ]


def test_the_header_of_a_translation_model_says_that_the_text_names_the_source() -> None:
    nllb = Status(state="ok", model_id="nllb", task="translation")
    told = [source_shown(Settings(language_source=code), nllb, known=True) for code in (None, "jpn_Jpan")]
    assert told == ["by the text", "jpn_Jpan"]
    assert source_shown(Settings(), Status(state="ok", model_id="catbot"), known=True) == "not set"
    assert source_shown(Settings(), Status(state="loading", model_id="nllb"), known=False) == ""


def test_no_other_model_asks_and_languages_may_change_on_the_way() -> None:
    conversation = Conversation(Settings())
    settle_languages(ScriptedChat(), conversation, Paper())
    assert conversation.target_language is None
    talk, screen = talked("/target eng", "/target eng_Latn", chat=Translator(), settings=Settings(language_target="x"))
    assert "Did you mean `eng_Latn`" in screen.said[0]
    assert screen.said[1] == "Source Language: by the text, Target Language: eng_Latn"
    assert talk.conversation.request(Exchange("一")).target_language == "eng_Latn"


@pytest.mark.parametrize("given", ["", " "])
def test_an_empty_credential_leaves_the_hub_clients_own_login(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_client")
    assert known_credential(Settings(hf_token=SecretStr(given))) is True


def test_one_message_prints_the_reply_alone(capsys: pytest.CaptureFixture[str]) -> None:
    chat = ScriptedChat(steps=["一", Delta(reasoning="hm"), "二"], end=reply_end("length"))
    answer_once(chat, Settings(), "x")
    out, err = capsys.readouterr()
    assert (out, err) == ("一二\n", "The reply was cut after 3 tokens.\n")
    assert message_from("given", io.StringIO("unread")) == "given"
    assert message_from(None, io.StringIO("a\nb\n")) == "a\nb"


def piped(data: bytes, *, encoding: str = "utf-8") -> TextIO:
    return io.TextIOWrapper(io.BytesIO(data), encoding=encoding, errors="strict")


def test_a_message_that_is_no_utf_8_is_mended() -> None:
    assert message_from(None, piped(b"\x82\xb1")) == "\ufffd\ufffd"
    assert message_from("\udcff\udcfe", None) == "\ufffd\ufffd"
    # What was piped is UTF-8 whatever the locale says, if it can be.
    assert message_from(None, piped("\ufeffねこ\r\nいぬ\r".encode(), encoding="ascii")) == "ねこ\nいぬ"
    assert message_from(None, piped("猫".encode("shift_jis"), encoding="shift_jis")) == "猫"


@pytest.mark.parametrize("once", ["  ", None])
def test_an_empty_message_is_refused(once: str | None) -> None:
    for source in (io.StringIO("\n"), piped("\ufeff".encode()), None):
        with pytest.raises(UsageError, match="holds no message"):
            message_from(once, source)


def test_a_closed_standard_input_is_an_empty_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="holds no message"):
        run_chat(Settings(), once=None, show_prompt=False)


def test_one_message_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    answer_once(ScriptedChat(steps=["a\x1b[2J", "\x07b\tc\r\n"]), Settings(), "x")
    assert capsys.readouterr().out == "a[2Jb\tc\n"


def test_a_reply_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ScriptedChat()
    with open("/dev/full", "w") as full, monkeypatch.context() as patched:
        patched.setattr("sys.stdout", full)
        with pytest.raises(ChatError, match="No space left on device") as caught:
            answer_once(chat, Settings(), "x")
        # Nothing is left to fail at the program's end.
        full.flush()
    assert (caught.value.exit_code, chat.replies[0].cancelled.is_set()) == (1, True)


def test_a_reply_that_nobody_reads_on_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    source, sink = os.pipe()
    os.close(source)
    with open(sink, "w") as pipe, monkeypatch.context() as patched:
        patched.setattr("sys.stdout", pipe)
        with pytest.raises(SystemExit) as ended:
            answer_once(ScriptedChat(), Settings(), "x")
    assert ended.value.code == 1


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_the_signals_that_end_a_program_unwind_it(name: str) -> None:
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(SystemExit), ended_by_signals():
        os.kill(os.getpid(), getattr(signal, name))
    assert signal.getsignal(getattr(signal, name)) is before


def test_presses_are_counted_only_while_a_reply_is_made() -> None:
    with presses() as pressed:
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(pressed.is_set)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_of_what_others_write_only_warnings_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    with caught_stderr(told.append):
        os.write(2, "INFO colab_llm_chat: news\n 10%|#\r 20%|##\nWARNING: 危ない\n".encode())
    with caught_stderr():
        os.write(2, b"DEBUG x\nERROR it broke\n")
    assert (told, capfd.readouterr().err) == (["WARNING: 危ない"], "ERROR it broke\n")


def test_what_a_terminals_encoding_lacks_is_a_mark_and_no_error() -> None:
    kept = io.BytesIO()
    stream = io.TextIOWrapper(kept, encoding="cp932", write_through=True)
    lose_no_reply(stream)
    stream.write("ﾆｬｰﾝ🐈")
    assert kept.getvalue() == "ﾆｬｰﾝ?".encode("cp932")
