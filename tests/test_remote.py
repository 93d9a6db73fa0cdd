"""The pipeline over a server elsewhere: this project's own, really served, and others on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from colab_llm_chat.chat.remote import RemoteChat, parse_address
from colab_llm_chat.cli import main
from colab_llm_chat.cli.terminal.languages import settle_languages
from colab_llm_chat.cli.terminal.talk import Talk
from colab_llm_chat.cli.terminal.upstream import open_upstream
from colab_llm_chat.errors import ChatError, EngineFailed, QueueFull, UnsupportedParameter, UsageError
from colab_llm_chat.errors.upstream import (
    UpstreamBusy,
    UpstreamError,
    UpstreamFailed,
    UpstreamKeyRefused,
    UpstreamLacks,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamUnreadable,
)
from colab_llm_chat.launch import link
from colab_llm_chat.protocol.messages import ChatRequest, Delta, Message, ReplyEnd, Status, Task, Tool, ToolUse
from colab_llm_chat.settings import SamplingParams, Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat, reply_end, serving, wait_until
from tests.foreign_server import PAGE, Answer, ForeignServer, foreign
from tests.test_terminal_talk import Paper

KEY = "opens-sesame-4711"
NO_KNOBS = SamplingParams()
HELLO = {"choices": [{"delta": {"content": "Hel"}}]}, {"choices": [{"delta": {"content": "lo"}}]}
STOP = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def request(text: str = "hi", sampling: SamplingParams = NO_KNOBS, **more: Any) -> ChatRequest:
    return ChatRequest(messages=(Message("user", text),), sampling=sampling, **more)


def whole(remote: RemoteChat, asked: ChatRequest | None = None) -> tuple[str, str, ReplyEnd]:
    """A reply's text, what was thought before it, and its end."""
    deltas = [delta for delta in remote.stream(asked or request()) if not delta.is_ping]
    assert deltas[-1].end is not None
    return "".join(one.text for one in deltas), "".join(one.reasoning for one in deltas), deltas[-1].end


@contextlib.contextmanager
def over(url: str, *, key: str | None = None, **settings: Any) -> Iterator[RemoteChat]:
    with contextlib.closing(RemoteChat(Settings(**settings), parse_address(url, key))) as remote:
        yield remote.start()


@contextlib.contextmanager
def over_own(chat: ScriptedChat, **settings: Any) -> Iterator[RemoteChat]:
    """Through the link that a locked server of ours prints."""
    app = create_app(Settings(access_key=KEY), chat)
    with serving(app), over(link(app), **settings) as remote:
        yield remote


def completions(*events: Any, **more: Any) -> dict[str, Answer]:
    return {"chat_completions": Answer(list(events), **more)}


@pytest.mark.parametrize(
    ("text", "base", "key"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000/v1", None),
        (" https://cat.ngrok-free.app/v1/ ", "https://cat.ngrok-free.app/v1", None),
        ("https://cat.ngrok-free.app/#key=a%2Bb%2F", "https://cat.ngrok-free.app/v1", "a+b/"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1", None),
        ("http://[::1]:1234/v1/chat/completions", "http://[::1]:1234/v1", None),
    ],
)
def test_an_address_is_taken_as_people_write_it(text: str, base: str, key: str | None) -> None:
    address = parse_address(text)
    assert (address.base, address.key) == (base, key)
    assert parse_address(text, "given").key == "given"
    assert "given" not in repr(parse_address(text, "given"))


@pytest.mark.parametrize(
    "text", ["", "localhost:5000", "ftp://x", "http://", "http://h:99999", "http://me:secret@h", "http://h/?key=secret"]
)
def test_what_is_no_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


def test_a_server_of_ours_answers_as_the_local_pipeline_does() -> None:
    chat = ScriptedChat(steps=[Delta(reasoning="Hm."), "猫", "です"])
    chat.end = reply_end("length", dropped_messages=2, notes=("source_language was ignored.",))
    with over_own(chat) as remote:
        text, reasoning, end = whole(remote)
    assert (text, reasoning, remote.model_id, remote.is_own) == ("猫です", "Hm.", "catbot", True)
    assert (end.finish_reason, end.dropped_messages, end.notes) == ("length", 2, ("source_language was ignored.",))
    assert (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.cached_tokens) == (7, 3, 2)
    assert end.usage.seconds > 0


def test_only_what_was_set_is_sent_and_all_of_it() -> None:
    chat = ScriptedChat()
    languages = {"source_language": "eng_Latn", "target_language": "jpn_Jpan"}
    with over_own(chat) as remote:
        whole(remote, request(sampling=SamplingParams(top_k=3, seed=None, max_new_tokens=9), stop=("x",), **languages))
    asked = chat.requests[0]
    assert asked.sampling == SamplingParams(top_k=3, max_new_tokens=9)
    assert asked.sampling.model_fields_set == {"top_k", "max_new_tokens"}
    assert (asked.stop, asked.source_language, asked.target_language) == (("x",), *languages.values())
    assert (asked.truncation, asked.continue_final) == ("auto", False)


def test_a_raw_text_and_the_rest_of_a_reply_can_be_had_from_our_server() -> None:
    chat = ScriptedChat()
    begun = (Message("user", "hi"), Message("assistant", "Hel"))
    with over_own(chat) as remote:
        assert whole(remote, request("猫は", raw=True))[0] == "Hello"
        whole(remote, replace(request(), messages=begun, continue_final=True))
        assert remote.tokenize(request("abc")).text == "abc"
        assert len(remote.tokenize(request("abc", raw=True)).prompt_ids) == 3
    raw, continued = chat.requests
    assert (raw.raw, raw.messages, raw.sampling.max_new_tokens) == (True, (Message("user", "猫は"),), 512)
    assert (continued.continue_final, continued.messages) == (True, begun)


@pytest.mark.parametrize("task", ["chat", "translation"])
def test_a_raw_text_is_carried_on_as_one_text_or_apart_from_its_reply_as_the_model_needs(task: Task) -> None:
    chat = ScriptedChat()
    chat.state = Status(state="ok", model_id="catbot", task=task)
    begun = (Message("user", "猫は"), Message("assistant", "いる"))
    asked = replace(request(), messages=begun, raw=True, continue_final=True)
    with over_own(chat) as remote:
        whole(remote, asked)
        remote.tokenize(asked)
    [sent] = chat.requests
    one_text = (True, False, (Message("user", "猫はいる"),))
    assert (sent.raw, sent.continue_final, sent.messages) == (one_text if task == "chat" else (False, True, begun))


def test_a_cancel_from_another_thread_ends_the_reply_here_and_there() -> None:
    chat = ScriptedChat(steps=["a", threading.Event()])
    with over_own(chat, ping_seconds=0.01) as remote:
        reply = remote.stream(request())
        assert next(delta for delta in reply if not delta.is_ping) == Delta("a")
        assert next(reply).is_ping
        assert reply.dropped_messages == 0
        threading.Timer(0.05, reply.cancel).start()
        assert all(delta.is_ping for delta in reply)
        assert chat.replies[0].cancelled.wait(10)
        assert next(reply, None) is None


def test_what_our_server_says_of_a_failure_arrives_as_it_was() -> None:
    chat = ScriptedChat(steps=["a", EngineFailed("It broke.")])
    with over_own(chat) as remote:
        with pytest.raises(EngineFailed, match="It broke"):
            whole(remote)
        chat.refuses_with = QueueFull("Full.", retry_after=7)
        with pytest.raises(QueueFull) as caught:
            whole(remote)
    assert (caught.value.message, caught.value.retry_after) == ("Full.", 7)


@pytest.mark.parametrize("key", [None, "wr0ng-Value"])
def test_a_missing_or_wrong_key_is_told_with_the_way_to_give_it(key: str | None) -> None:
    app = create_app(Settings(access_key=KEY), ScriptedChat())
    with serving(app), pytest.raises(UpstreamKeyRefused) as caught, over(link(app).partition("#")[0], key=key):
        pass
    told = f"{caught.value.message} {caught.value.hint}"
    assert "--upstream-key" in told
    assert ("asks for a key" if key is None else "refuses the key") in told
    assert "wr0ng" not in told


def test_a_model_that_still_loads_is_waited_for() -> None:
    chat = ScriptedChat(state=Status(state="loading", model_id="catbot", progress=0.5, detail="loading weights"))
    seen: list[Status] = []

    def on_progress(status: Status) -> None:
        seen.append(status)
        chat.state = Status(state="ok", model_id="catbot", task="translation", languages=("eng_Latn",))

    with over_own(chat) as remote:
        status = remote.follow(on_progress)
    assert (seen[0].state, seen[0].progress, seen[0].detail) == ("loading", 0.5, "loading weights")
    assert (status.state, status.task, status.languages) == ("ok", "translation", ("eng_Latn",))


def test_a_translation_model_elsewhere_is_asked_with_the_languages_that_it_needs() -> None:
    chat = ScriptedChat(state=Status(state="ok", model_id="nllb", task="translation", languages=("eng_Latn",)))
    with over_own(chat) as remote:
        screen = Paper("eng_Latn", "jpn_Jpan", "hi")
        open_upstream(remote, screen)
        talk = Talk(remote, remote.settings, screen)
        settle_languages(remote, talk.conversation, screen)
        talk.run()
    assert "Task: translation" in screen.said
    assert (chat.requests[0].source_language, chat.requests[0].target_language) == ("eng_Latn", "jpn_Jpan")


def test_a_model_that_cannot_be_had_ends_the_opening_with_its_error() -> None:
    error = EngineFailed("No memory.").to_dict()
    with (
        over_own(ScriptedChat(state=Status(state="failed", model_id="catbot", error=error))) as remote,
        pytest.raises(EngineFailed, match="No memory"),
    ):
        open_upstream(remote, Paper())


def test_another_server_gets_the_fields_that_all_know_and_nothing_else() -> None:
    with foreign(**completions(*HELLO, STOP, "[DONE]")) as server, over(server.url, key="k3y") as remote:
        text, _, end = whole(remote, request(sampling=SamplingParams(temperature=0.5)))
    assert (text, end.finish_reason, end.usage.completion_tokens) == ("Hello", "stop", 2)
    assert server.asked == [
        {
            "model": "puma-7b",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 512,
            "temperature": 0.5,
        }
    ]
    assert server.headers[0]["Authorization"] == "Bearer k3y"
    assert server.headers[0]["ngrok-skip-browser-warning"] == "1"


def test_a_raw_text_goes_to_another_server_without_options() -> None:
    events = [{"choices": [{"text": "にゃ", "finish_reason": "length"}]}, "[DONE]"]
    with foreign(completions=Answer(events)) as server, over(server.url, model_id="named") as remote:
        text, _, end = whole(remote, request("猫は", raw=True))
    assert (text, end.finish_reason) == ("にゃ", "length")
    assert server.asked == [{"model": "named", "prompt": "猫は", "stream": True, "max_tokens": 512}]


@pytest.mark.parametrize(
    ("events", "text", "reasoning", "notes"),
    [
        ([{"choices": [{"delta": {"reasoning": "Hm."}}]}, *HELLO, STOP], "Hello", "Hm.", 0),
        ([HELLO[0], {"choices": [{"delta": {"reasoning": {}}, "finish_reason": "content_filter"}]}], "Hel", "", 1),
        ([*HELLO, "[DONE]", {"choices": [{"delta": {"content": "never"}}]}], "Hello", "", 0),
        ([*HELLO, STOP, {"choices": [], "usage": {"completion_tokens": 2}}], "Hello", "", 0),
    ],
)
def test_dialects_of_a_stream_are_understood(events: list[Any], text: str, reasoning: str, notes: int) -> None:
    with foreign(**completions(*events)) as server, over(server.url) as remote:
        found = whole(remote)
    assert (*found[:2], len(found[2].notes)) == (text, reasoning, notes)


def test_a_reply_without_a_stream_is_taken_whole() -> None:
    body = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 4}}
    with foreign(chat_completions=Answer(body)) as server, over(server.url) as remote:
        text, _, end = whole(remote)
    assert (text, end.usage.completion_tokens) == ("Hello", 4)


@pytest.mark.parametrize(
    ("events", "kind", "words"),
    [
        (HELLO, UpstreamFailed, "broke off"),
        ([HELLO[0], {"error": {"message": "CUDA k3y\x1b[2J\nerror"}}], UpstreamFailed, "says: CUDA … [2J error"),
        (["no json"], UpstreamUnreadable, "cannot be read"),
        ([], UpstreamUnreadable, "no reply in it"),
    ],
)
def test_a_stream_that_goes_wrong_is_one_error(events: Any, kind: type[ChatError], words: str) -> None:
    with (
        foreign(**completions(*events)) as server,
        over(server.url, key="k3y") as remote,
        pytest.raises(kind) as caught,
    ):
        whole(remote)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer({"error": {"message": "Bad key k3y"}}, 401), UpstreamKeyRefused, "refuses the key"),
        (Answer({"error": {"message": "No k3y for you"}}, 403), UpstreamKeyRefused, "No … for you"),
        (Answer({"error": {"message": "no model `x`"}}, 404), UpstreamRefused, "no model `x`"),
        (Answer("slow down", 429, headers={"Retry-After": "9"}), UpstreamBusy, "Wait 9 seconds"),
        (Answer({"error": "loading failed"}, 500), UpstreamFailed, "loading failed (status 500)"),
        (Answer({"detail": "top_k: extra field"}, 422), UpstreamRefused, "type /set top_k default"),
        (Answer({"error": {"message": "context length"}}, 400), UpstreamRefused, "says: context length"),
        (Answer("<html>ERR_NGROK_3200</html>", 404, PAGE), UpstreamUnreachable, "offline (ERR_NGROK_3200)"),
        (Answer("<p>", 502, PAGE, {"ngrok-error-code": "ERR_NGROK_8012"}), UpstreamUnreachable, "ERR_NGROK_8012"),
        (Answer("<html>Hello</html>", 200, PAGE), UpstreamUnreadable, "page for browsers"),
        (Answer("", 307, headers={"Location": "https://h/?key=k3y"}), UpstreamUnreadable, "another address"),
    ],
)
def test_each_refusal_is_one_error_with_the_next_step(answer: Answer, kind: type[ChatError], words: str) -> None:
    with (
        foreign(chat_completions=answer) as server,
        over(server.url, key="k3y") as remote,
        pytest.raises(kind) as caught,
    ):
        whole(remote, request(sampling=SamplingParams(top_k=3)))
    told = f"{caught.value.message} {caught.value.hint}"
    assert words in told
    assert "k3y" not in told


def test_the_limits_newer_name_is_used_where_the_older_is_refused() -> None:
    told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    refused, answer = Answer({"error": {"message": told}}, 400), Answer([*HELLO, STOP])
    with foreign(chat_completions=[refused, answer]) as server, over(server.url) as remote:
        assert [whole(remote)[0] for _ in range(2)] == ["Hello", "Hello"]
    limits = [[name for name in body if name.startswith("max_")] for body in server.asked]
    assert limits == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]


def test_a_server_without_a_list_needs_a_model_named() -> None:
    with foreign(models=Answer({"data": []})) as server, pytest.raises(UpstreamLacks, match="no model"):
        over(server.url).__enter__()
    with foreign(models=Answer("", 500, "text/plain")) as server:
        with over(server.url, model_id="puma") as remote:
            assert remote.status() == Status(state="ok", model_id="puma")
        with pytest.raises(UpstreamLacks, match="no list of models"):
            over(server.url).__enter__()


def test_what_only_our_server_can_is_refused_before_anything_is_sent() -> None:
    tools = ToolUse(tools=(Tool(name="now"),))
    with foreign() as server, over(server.url) as remote:
        with pytest.raises(UpstreamLacks, match="carry a reply on"):
            remote.stream(request(continue_final=True))
        with pytest.raises(UpstreamLacks, match="does not show"):
            remote.tokenize(request())
        with pytest.raises(UnsupportedParameter, match="`tools`"):
            remote.stream(request(tool_use=tools))
    assert server.asked == []


def unreachable(url: str) -> UpstreamError:
    with pytest.raises(UpstreamUnreachable) as caught:
        over(url).__enter__()
    return caught.value


def test_a_server_that_cannot_be_reached_is_told_by_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert f"Nothing listens at {url}" in unreachable(url).message
    with foreign() as server:
        assert "cannot be reached securely" in unreachable(server.url.replace("http:", "https:")).message

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "name localhost cannot be found" in unreachable("http://localhost:5000").message


def test_a_proxy_that_cannot_be_used_is_named_and_leads_nowhere_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "ftp://proxy")
    error = unreachable("http://elsewhere.example")
    assert "proxy" in error.message
    assert "ALL_PROXY" in error.hint
    with foreign() as server, over(server.url) as remote:
        assert remote.model_id == "puma-7b"


def test_a_reply_can_be_left_before_the_server_says_anything() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, foreign() as server, over(server.url) as remote:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        remote._connection.address = parse_address(url)
        reply = remote.stream(request())
        asked, _ = silent.accept()
        with asked:
            reply.cancel()
            assert next(reply, None) is None
            asked.settimeout(10)
            while asked.recv(4096):
                pass


def test_close_ends_every_reply() -> None:
    chat = ScriptedChat(steps=[threading.Event()])
    with over_own(chat) as remote:
        reply = remote.stream(request())
        wait_until(lambda: bool(chat.replies) and chat.replies[0].waiting.is_set())
        remote.close()
        assert next(reply, None) is None
        assert chat.replies[0].cancelled.wait(10)


def talked(server: ForeignServer, *typed: str, **settings: Any) -> list[str]:
    with over(server.url, **settings) as remote:
        screen = Paper(*typed)
        open_upstream(remote, screen)
        Talk(remote, remote.settings, screen, show_prompt=True).run()
    return screen.said


def test_a_talk_shows_where_it_is_and_goes_on_after_what_the_server_cannot() -> None:
    cut = [HELLO[0], {"choices": [{"delta": {}, "finish_reason": "length"}]}]
    with foreign(**completions(*cut)) as server:
        said = talked(server, "hi", "/continue", "/target jpn_Jpan", "hi")
    assert said[:3] == [f"Upstream: {server.url}", "Model Name: puma-7b", "Source Language: not set"]
    assert sum("does not show what its model gets" in line for line in said) == 3
    assert sum("Cut after 1 tokens" in line for line in said) == 2
    assert sum("cannot carry a reply on" in line for line in said) == 1
    assert server.asked[-1]["target_language"] == "jpn_Jpan"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--upstream", "http://127.0.0.1:9", "--device", "cpu"], "--device"),
        (["--upstream", "http://127.0.0.1:9", "-t", "hf_s3cret"], "--hf-token"),
        (["--upstream-key", "s3cret"], "--upstream-key"),
        (["--upstream", "s3cret"], "--upstream"),
    ],
)
def test_flags_that_contradict_each_other_are_wrong_usage(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "--once", "hi", *flags]) == 2
    told = capsys.readouterr().err
    assert named in told
    assert "s3cret" not in told


def test_the_real_program_answers_over_an_upstream_and_loads_no_model_library() -> None:
    app = create_app(Settings(access_key=KEY), ScriptedChat())
    command = [sys.executable, "-X", "importtime", "-m", "colab_llm_chat", "chat", "--once", "hi", "--upstream"]
    with serving(app):
        environment = {**os.environ, "UPSTREAM_API_KEY": KEY, "HF_TOKEN": "hf_other", "COLAB_LLM_CHAT_DEVICE": "cpu"}
        ran = subprocess.run(
            [*command, f"http://127.0.0.1:{app.bound_port}"],
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
            env=environment,
        )
    assert (ran.returncode, ran.stdout) == (0, "Hello\n"), ran.stderr[-2000:]
    loaded = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "httpx" in loaded
    assert not {"torch", "transformers", "huggingface_hub"} & loaded
