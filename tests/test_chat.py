"""The pipeline over a real engine process: text equal to the model's own, and every way in which a reply can end."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from colab_llm_chat.chat import Chat
from colab_llm_chat.chat.reply import LocalReply
from colab_llm_chat.errors import (
    ChatError,
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    LoadError,
    ModelLoading,
    QueueFull,
)
from colab_llm_chat.models.load import load_tokenizer
from colab_llm_chat.protocol.messages import ChatRequest, Delta, Message, ReplyEnd
from colab_llm_chat.settings import BACKGROUND_PLACES, SamplingParams, Settings, TokenRules
from colab_llm_chat.text.prompts import PromptEncoder
from tests.tiny_models import save_tiny_model
from tests.tokenizers_made_here import CHATML, byte_level

LONG = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    # No end-of-text id, so that replies run as long as they may.
    save_tiny_model(folder, "llama", scale=4.0, eos_token_id=None, max_position_embeddings=4096)
    byte_level(CHATML).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Early:
    """What somebody got who asked while the model was loading."""

    state: str
    first: Delta
    text: str


@pytest.fixture(scope="module")
def asked_early(folder: Path) -> Iterator[tuple[Chat, Early]]:
    chat = Chat(Settings(model_id=str(folder), max_rows=2, max_queue=2, ping_seconds=0.2)).start()
    reply = chat.stream(request())
    state, first = chat.status().state, next(reply)
    yield chat, Early(state, first, read(reply)[0])
    chat.close()


@pytest.fixture(scope="module")
def chat(asked_early: tuple[Chat, Early]) -> Chat:
    return asked_early[0]


def request(text: str = "hello", *, max_new_tokens: int = 20, **fields: Any) -> ChatRequest:
    sampling = SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens)
    return ChatRequest(**{"messages": (Message("user", text),), "sampling": sampling, **fields})


def read(reply: LocalReply) -> tuple[str, ReplyEnd]:
    """The whole text of a reply, and its end."""
    deltas = list(reply)
    end = deltas[-1].end
    assert end is not None
    return "".join(delta.text for delta in deltas), end


def test_the_text_is_what_generate_and_the_tokenizer_make(chat: Chat, folder: Path) -> None:
    text, end = read(chat.stream(request("hello there", max_new_tokens=60)))
    tokenizer, model = load_tokenizer(folder), AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": "hello there"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=60, eos_token_id=None, pad_token_id=0)
    expected = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == expected.rstrip("\ufffd")
    assert end.usage.prompt_tokens == inputs["input_ids"].shape[1]
    assert (end.finish_reason, end.usage.completion_tokens) == ("length", 60)


def test_usage_tells_seconds_and_speed(chat: Chat) -> None:
    usage = read(chat.stream(request()))[1].usage
    assert usage.seconds > 0
    assert usage.tokens_per_second == pytest.approx(usage.completion_tokens / usage.seconds, rel=0.1)
    assert usage.context_length == 4096
    assert usage.first_token_seconds is not None
    assert 0 < usage.first_token_seconds <= usage.seconds


def test_who_asks_is_told_the_usage_of_a_reply_that_goes_on(chat: Chat) -> None:
    told = [delta.usage for delta in chat.stream(request(running_usage=True)) if delta.usage]
    assert told[0].prompt_tokens > 0
    assert 0 < told[0].completion_tokens < 20
    assert not [delta.usage for delta in chat.stream(request()) if delta.usage]


def test_the_next_turn_reads_only_what_is_new(chat: Chat) -> None:
    asked = Message("user", "a conversation that nobody had before")
    text, end = read(chat.stream(request(messages=(asked,), max_new_tokens=40)))
    turns = (asked, Message("assistant", text), Message("user", "go on"))
    _, again = read(chat.stream(request(messages=turns)))
    # The reply's text need not become the same ids again, but the prompt before it does.
    known = end.usage.prompt_tokens
    assert end.usage.cached_tokens < known - 5
    assert known <= again.usage.cached_tokens < again.usage.prompt_tokens


def test_a_stop_string_ends_the_reply_before_it(chat: Chat) -> None:
    whole, _ = read(chat.stream(request(max_new_tokens=60)))
    stop = whole[20:23]
    text, end = read(chat.stream(request(max_new_tokens=LONG, stop=(stop,))))
    assert text == whole[: whole.index(stop)]
    assert end.finish_reason == "stop"


def test_the_same_seed_gives_the_same_text(chat: Chat) -> None:
    def drawn(seed: int) -> str:
        return read(chat.stream(request(sampling=SamplingParams(seed=seed, temperature=1.0, max_new_tokens=30))))[0]

    assert drawn(5) == drawn(5) != drawn(6)


def test_a_deadline_ends_the_reply_in_time_with_what_it_has(chat: Chat) -> None:
    # A third of the time that a quick machine takes for as many tokens.
    text, end = read(chat.stream(request(max_new_tokens=LONG, deadline_ms=250)))
    assert end.finish_reason == "deadline"
    assert end.usage.seconds <= 0.25
    assert text


def test_a_continued_reply_goes_on_where_it_was_cut(chat: Chat) -> None:
    whole, _ = read(chat.stream(request(max_new_tokens=40)))
    begun, _ = read(chat.stream(request(max_new_tokens=15)))
    messages = (Message("user", "hello"), Message("assistant", begun))
    rest, _ = read(chat.stream(request(messages=messages, continue_final=True, max_new_tokens=25)))
    # Only where no character was cut in two do the same tokens come back from the text.
    assert whole.startswith(begun)
    if "\ufffd" not in begun:
        assert (begun + rest)[: len(begun) + 3] == whole[: len(begun) + 3]


def test_cancel_from_another_thread_ends_the_iteration(chat: Chat) -> None:
    reply = chat.stream(request(max_new_tokens=LONG))
    seen: list[Delta] = []
    began = threading.Event()

    def consume() -> None:
        for delta in reply:
            seen.append(delta)
            began.set()

    reader = threading.Thread(target=consume)
    reader.start()
    began.wait()
    reply.cancel()
    reader.join()
    assert seen[-1].end is None


def test_a_full_queue_is_told_and_opens_again(chat: Chat) -> None:
    replies = [chat.stream(request(max_new_tokens=LONG)) for _ in range(chat.settings.max_requests)]
    with pytest.raises(QueueFull) as told:
        chat.stream(request())
    assert told.value.headers["Retry-After"]
    for reply in replies:
        reply.cancel()
    assert read(chat.stream(request()))[0]


def test_work_in_the_background_takes_no_place_from_a_person(chat: Chat) -> None:
    behind = [chat.stream(request(max_new_tokens=LONG, background=True)) for _ in range(BACKGROUND_PLACES)]
    with pytest.raises(QueueFull):
        chat.stream(request(background=True))
    assert read(chat.stream(request()))[0]
    for reply in behind:
        reply.cancel()


def test_a_request_that_fails_in_the_making_frees_its_place(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patched:
        patched.setattr(PromptEncoder, "encode", explode)
        for _ in range(chat.settings.max_requests + 1):
            with pytest.raises(RuntimeError):
                chat.stream(request())
    assert read(chat.stream(request()))[0]


def test_a_cut_reply_ends_in_a_whole_character(chat: Chat) -> None:
    texts = [read(chat.stream(request(f"message {i}", max_new_tokens=1)))[0] for i in range(12)]
    assert not any(text.endswith("\ufffd") for text in texts)


def test_replies_that_wait_for_a_row_give_signs_of_life(chat: Chat) -> None:
    running = [chat.stream(request(max_new_tokens=LONG)) for _ in range(chat.settings.max_rows)]
    waiting = chat.stream(request())
    assert next(waiting) == Delta()
    for reply in running:
        reply.cancel()
    assert read(waiting)[0]


def test_old_turns_are_dropped_and_counted(chat: Chat) -> None:
    turns = [Message(role, "word " * 300) for _ in range(20) for role in ("user", "assistant")]
    _, end = read(chat.stream(request(messages=(*turns, Message("user", "and now?")))))
    assert end.dropped_messages > 0
    assert end.usage.prompt_tokens < 4096


def test_a_prompt_beyond_the_window_is_refused_with_both_numbers(chat: Chat) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"\d{4}.*4096"):
        chat.stream(request("word " * 6000))


def test_a_killed_worker_is_told_in_every_reply_and_the_next_one_works(chat: Chat) -> None:
    replies = [chat.stream(request(max_new_tokens=LONG)) for _ in range(3)]
    next(replies[0])
    os.kill(chat.engine.worker_pid or 0, signal.SIGKILL)
    for reply in replies:
        with pytest.raises(EngineFailed):
            list(reply)
    assert read(chat.stream(request()))[0]


def test_messages_sent_while_the_model_loads_are_answered_once_it_is_there(asked_early: tuple[Chat, Early]) -> None:
    chat, early = asked_early
    assert (early.state, early.first) == ("loading", Delta())
    assert early.text == read(chat.stream(request()))[0] != ""


def test_a_request_waits_for_the_model_only_so_long(folder: Path) -> None:
    chat = Chat(Settings(model_id=str(folder), load_wait_seconds=0.05))
    with pytest.raises(ModelLoading) as told:
        list(chat.stream(request()))
    assert told.value.headers["Retry-After"]


def test_waiting_replies_hear_why_the_model_cannot_be_had(tmp_path: Path) -> None:
    broken = save_tiny_model(tmp_path, "llama")
    (broken / "tokenizer.json").write_text("{")
    chat = Chat(Settings(model_id=str(broken))).start()
    with pytest.raises(LoadError):
        list(chat.stream(request()))
    assert chat.status().state == "failed"
    with pytest.raises(ChatError):
        chat.stream(request())
    chat.close()


def test_a_broken_chat_template_is_told_when_the_model_loads(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "llama")
    byte_level("{% for message in messages %}").save_pretrained(tmp_path)
    chat = Chat(Settings(model_id=str(tmp_path))).start()
    with pytest.raises(LoadError, match="template"):
        list(chat.stream(request()))
    chat.close()


def test_close_ends_live_replies_and_a_closed_chat_can_be_started_again(chat: Chat) -> None:
    first = read(chat.stream(request()))[0]
    reply = chat.stream(request(max_new_tokens=LONG))
    assert next(reply).end is None
    chat.close()
    assert all(delta.end is None for delta in reply)
    assert read(chat.start().stream(request()))[0] == first


def test_a_prompt_too_long_is_told_by_the_name_it_came_under(chat: Chat) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        chat.stream(request("a b " * 5000, truncation="disabled", asked_in="messages"))
    assert caught.value.param == "messages"


def test_an_id_that_the_model_lacks_is_refused_before_the_engine(chat: Chat) -> None:
    with pytest.raises(InvalidRequest, match="token id 99999") as caught:
        chat.stream(request(raw=True, prompt_ids=(5, 99999), asked_in="prompt"))
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("raw", [True, False])
def test_a_schema_keeps_the_reply_to_its_json(chat: Chat, *, raw: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    text, end = read(chat.stream(request(raw=raw, json_schema=schema | {"additionalProperties": False})))
    assert json.loads(text)["a"] in ("x", "y")
    assert end.finish_reason == "stop"


def test_logprobs_come_with_the_text_of_their_tokens(chat: Chat) -> None:
    deltas = list(chat.stream(request(max_new_tokens=12, rules=TokenRules(top_logprobs=2))))
    told = [one for delta in deltas for one in delta.logprobs]
    assert len(told) == 12
    text = b"".join(one.data for one in told).decode("utf-8", "replace")
    assert text.startswith("".join(delta.text for delta in deltas))
    assert all(one.logprob == one.top[0].logprob >= one.top[1].logprob for one in told)


def test_a_forgotten_reply_takes_no_lock_of_the_engines(chat: Chat) -> None:
    reply = chat.stream(request(max_new_tokens=LONG))
    next(reply)
    reply.cancel()
    del reply

    def collect_garbage() -> None:
        # As may happen in the thread that delivers tokens.
        with chat.engine._lock:
            gc.collect()

    collecting = threading.Thread(target=collect_garbage, daemon=True)
    collecting.start()
    collecting.join(30)
    assert not collecting.is_alive()


def test_a_schema_without_end_is_the_askers_fault(chat: Chat) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"], "additionalProperties": False}
    with pytest.raises(InvalidRequest, match="too complex") as caught:
        list(chat.stream(request(json_schema=schema, max_new_tokens=LONG)))
    assert caught.value.param == "response_format"
