"""The page in a real browser: over the demo model, and over scripted replies for what no model does on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from colab_llm_chat.chat import Chat
from colab_llm_chat.errors import EngineFailed, ModelGated, QueueFull
from colab_llm_chat.protocol.messages import Delta, Status
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import Lent, ScriptedChat, reply_end, serving, wait_until
from tests.visitors import LOADING, LONG_REPLY, PHONE, Visitors, exchange, expect_reply, focused, send

READY = Status(state="ok", model_id="catbot", progress=1.0)


@pytest.fixture(scope="module")
def demo(demo_chat: Chat) -> Iterator[str]:
    with serving(create_app(Settings(), Lent(demo_chat))) as app:
        yield f"http://127.0.0.1:{app.bound_port}"


def test_a_message_sent_by_enter_is_answered_by_the_demo_model(visitors: Visitors, demo: str) -> None:
    page = visitors.open(demo)
    with page.expect_response("**/chat") as answer:
        send(page, "おはよう")
    expect_reply(page, re.compile(r"\S"))
    expect(page.locator(".usage")).to_have_text(re.compile(r"^[\d.,]+ tokens/s · [\d,]+ of [\d,]+ tokens of context$"))
    expect(page.locator(".usage")).to_have_attribute(
        "title", re.compile(r"^First token after [\d.]+ s · [\d.]+ s in all$")
    )
    assert answer.value.headers["content-type"].startswith("text/event-stream")
    expect(page.locator("#message")).to_have_value("")
    expect(page.locator("#message")).to_be_focused()


def test_the_second_message_brings_the_first_and_its_reply_along(visitors: Visitors, demo: str) -> None:
    page = visitors.open(demo)
    send(page, "（顎を撫でる）")
    expect_reply(page, re.compile(r"\S"))
    with page.expect_request("**/chat") as asked:
        send(page, "お手")
    expect_reply(page, re.compile(r"\S"), number=2)
    body = asked.value.post_data_json or {}
    reply = exchange(page).locator(".reply").text_content()
    assert [turn["content"] for turn in body["conversationHistory"]] == ["（顎を撫でる）", reply]
    assert body["message"] == "お手"


def test_a_message_behind_a_backslash_is_sent_raw(visitors: Visitors) -> None:
    chat = ScriptedChat()
    page = visitors.open_chat(chat)
    send(page, "Hi")
    expect_reply(page, "Hello")
    send(page, "\\Once upon\\na time")
    expect_reply(page, "Hello", number=2)
    asked = chat.requests[-1]
    assert (asked.raw, asked.messages[-1].content) == (True, "Once upon\na time")


def test_an_example_starts_the_conversation_on_a_phone(visitors: Visitors, demo: str) -> None:
    page = visitors.open(demo, **PHONE, locale="ja-JP")
    page.get_by_role("button", name="おはよう").tap()
    expect_reply(page, re.compile(r"\S"))
    expect(page.locator(".usage")).to_have_text(re.compile(r"^[\d.,]+ トークン/秒 · 文脈 [\d,]+ / [\d,]+ トークン$"))
    assert focused(page) != "message"


def test_the_reply_is_shown_while_it_still_grows(visitors: Visitors) -> None:
    gate = threading.Event()
    page = visitors.open_chat(ScriptedChat(steps=["Hel", gate, "lo"]))
    send(page, "Hi")
    expect_reply(page, "Hel", status="streaming")
    gate.set()
    expect_reply(page, "Hello")


def test_a_reply_is_text_and_never_markup(visitors: Visitors) -> None:
    reply = "<img src=/nothing onerror=alert(1)> & <b>bold</b>"
    page = visitors.open_chat(ScriptedChat(steps=[reply]))
    send(page, "<i>Hi</i>")
    expect_reply(page, reply)
    expect(page.locator(".message")).to_have_text("<i>Hi</i>")


def test_stop_keeps_what_came_and_continue_carries_it_on(visitors: Visitors) -> None:
    chat = ScriptedChat(steps=["Hel", threading.Event(), "lo"])
    page = visitors.open_chat(chat)
    send(page, "Hi")
    expect_reply(page, "Hel", status="streaming")
    page.click("#stop")
    expect_reply(page, "Hel", status="cancelled")
    expect(page.locator(".under")).to_contain_text("Stopped.")
    wait_until(chat.replies[0].cancelled.is_set)
    chat.steps = ["lo"]
    page.get_by_role("button", name="Continue").click()
    expect_reply(page, "Hello")
    assert chat.requests[1].continue_final


def test_a_stopped_reply_tells_what_it_took_and_no_screen_reader_hears_of_it(visitors: Visitors) -> None:
    steps = [Delta("Hel", usage=reply_end().usage), threading.Event()]
    page = visitors.open_chat(ScriptedChat(steps=steps))
    send(page, "Hi")
    expect_reply(page, "Hel", status="streaming")
    page.click("#stop")
    expect_reply(page, "Hel", status="cancelled")
    usage = page.locator(".usage")
    expect(usage).to_have_text("6 tokens/s · 10 of 64 tokens of context")
    expect(usage).to_have_attribute("title", "First token after 0.1 s · 0.5 s in all")
    assert usage.evaluate("node => node.closest('[aria-live]')?.getAttribute('aria-live')") == "off"
    expect(page.locator("#announcer")).to_have_text("Hel")


def test_a_new_chat_is_empty_and_remembers_nothing(visitors: Visitors) -> None:
    chat = ScriptedChat()
    page = visitors.open_chat(chat)
    send(page, "Hi")
    expect_reply(page, "Hello")
    page.click("#new-chat")
    expect(page.locator("article.exchange")).to_have_count(0)
    expect(page.locator("#greeting")).to_be_visible()
    send(page, "Again")
    expect_reply(page, "Hello")
    assert [message.content for message in chat.requests[1].messages] == ["Again"]


def test_a_new_chat_ends_the_running_reply(visitors: Visitors) -> None:
    chat = ScriptedChat(steps=["Hel", threading.Event()])
    page = visitors.open_chat(chat)
    send(page, "Hi")
    expect_reply(page, "Hel", status="streaming")
    page.click("#new-chat")
    wait_until(chat.replies[0].cancelled.is_set)
    expect(page.locator("article.exchange")).to_have_count(0)
    expect(page.locator("#send")).to_be_visible()


def test_enter_that_ends_a_composition_does_not_send(visitors: Visitors) -> None:
    chat = ScriptedChat()
    page = visitors.open_chat(chat, locale="ja-JP")
    keyboard = page.context.new_cdp_session(page)
    page.focus("#message")
    keyboard.send("Input.imeSetComposition", {"text": "ねこ", "selectionStart": 2, "selectionEnd": 2})
    enter = {"type": "rawKeyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    keyboard.send("Input.dispatchKeyEvent", enter)
    keyboard.send("Input.insertText", {"text": "猫"})
    expect(page.locator("#message")).to_have_value("猫")
    expect(page.locator("article.exchange")).to_have_count(0)
    page.press("#message", "Enter")
    expect_reply(page, "Hello")
    assert [request.messages[-1].content for request in chat.requests] == ["猫"]


def test_shift_enter_begins_a_line(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat())
    page.locator("#message").press_sequentially("one")
    page.press("#message", "Shift+Enter")
    page.locator("#message").press_sequentially("two")
    expect(page.locator("#message")).to_have_value("one\ntwo")
    expect(page.locator("article.exchange")).to_have_count(0)


def test_a_message_too_long_cannot_be_sent(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(), settings={"max_message_characters": 10})
    page.fill("#message", "more than ten characters")
    expect(page.locator("#send")).to_be_disabled()
    expect(page.locator("#count")).to_contain_text("24 of 10")
    page.press("#message", "Enter")
    expect(page.locator("#message")).to_have_value("more than ten characters")


def test_a_refusal_is_shown_with_its_hint_and_a_retry_works(visitors: Visitors) -> None:
    chat = ScriptedChat(refuses_with=QueueFull("Eight requests wait already.", retry_after=5))
    page = visitors.open_chat(chat)
    send(page, "Hi")
    failure = exchange(page).locator(".failure")
    expect(failure).to_contain_text("The server is busy. Try again in 5 s.")
    expect(failure.locator(".failure-hint")).to_be_visible()
    chat.refuses_with = None
    page.get_by_role("button", name="Try again").click()
    expect_reply(page, "Hello")
    expect(failure).to_be_hidden()


def test_a_refusal_is_worded_in_japanese_for_japanese(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(refuses_with=QueueFull("Full.", retry_after=5)), locale="ja-JP")
    send(page, "ねえ")
    expect(page.locator(".failure")).to_contain_text("サーバーが混み合っています。5 秒後に")
    expect(page.locator(".failure-hint")).to_contain_text("数秒待ってから")


def test_an_error_in_mid_reply_leaves_the_text_and_tells_what_to_do(visitors: Visitors) -> None:
    chat = ScriptedChat(steps=["Hel", EngineFailed("The engine was ended.")])
    page = visitors.open_chat(chat)
    send(page, "Hi")
    expect_reply(page, "Hel", status="failed")
    expect(page.locator(".failure")).to_contain_text("The engine was ended.")
    expect(page.locator(".failure-hint")).to_be_visible()
    chat.steps = ["lo"]
    page.get_by_role("button", name="Continue").click()
    expect_reply(page, "Hello")


def test_a_message_that_failed_can_be_edited(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(refuses_with=QueueFull("Full.")))
    send(page, "Helo")
    page.get_by_role("button", name="Edit message").click()
    expect(page.locator("#message")).to_have_value("Helo")
    expect(page.locator("#message")).to_be_focused()
    expect(page.locator("article.exchange")).to_have_count(0)


def test_a_connection_that_breaks_leaves_the_text_with_a_note(visitors: Visitors) -> None:
    chat = ScriptedChat(steps=["Hel", threading.Event()])
    page, relay = visitors.through_relay(chat)
    send(page, "Hi")
    expect_reply(page, "Hel", status="streaming")
    relay.cut()
    expect_reply(page, "Hel", status="failed")
    expect(page.locator(".failure")).to_contain_text("The connection broke before the reply was complete.")
    chat.steps = ["lo"]
    page.get_by_role("button", name="Continue").click()
    expect_reply(page, "Hello")


def test_a_server_that_is_gone_is_told_in_place(visitors: Visitors) -> None:
    page, relay = visitors.through_relay(ScriptedChat())
    relay.go_away()
    send(page, "Hi")
    expect(exchange(page).locator(".failure")).to_contain_text("The server cannot be reached.")
    expect(exchange(page).locator(".message")).to_have_text("Hi")


def test_a_message_sent_while_the_model_loads_is_answered_once_it_is_there(visitors: Visitors) -> None:
    loaded = threading.Event()
    chat = ScriptedChat(steps=[loaded, "Hello"], state=LOADING)
    page = visitors.open_chat(chat)
    expect(page.locator("#notice")).to_contain_text("The model is loading.")
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "0.4")
    send(page, "Hi")
    expect(page.locator("#notice")).to_contain_text("Your message is waiting")
    chat.state = READY
    loaded.set()
    expect_reply(page, "Hello")
    expect(page.locator("#notice")).to_be_hidden()


def test_a_model_that_could_not_be_loaded_is_told_at_once(visitors: Visitors) -> None:
    gated = ModelGated("The model asks for its terms.")
    state = Status(state="failed", model_id="a/b", detail=gated.message, error=gated.to_dict())
    page = visitors.open_chat(ScriptedChat(state=state, refuses_with=gated))
    expect(page.locator("#notice")).to_contain_text("The model has stopped.")
    expect(page.locator("#notice")).to_contain_text("The model asks for its terms.")


def test_messages_that_no_longer_fit_are_marked(visitors: Visitors) -> None:
    chat = ScriptedChat()
    page = visitors.open_chat(chat)
    send(page, "One")
    expect_reply(page, "Hello")
    chat.end = reply_end(dropped_messages=2)
    send(page, "Two")
    expect_reply(page, "Hello", number=2)
    expect(page.locator("#dropped-note")).to_contain_text("no longer sees the 2 messages above")
    expect(exchange(page)).to_contain_class("dropped-reply")


def test_a_reply_is_copied(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(), permissions=["clipboard-read", "clipboard-write"])
    send(page, "Hi")
    page.get_by_role("button", name="Copy reply").click()
    expect(page.locator(".copied")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "Hello"


def test_the_page_keeps_to_the_newest_text_until_the_reader_scrolls_up(visitors: Visitors) -> None:
    gate = threading.Event()
    page = visitors.open_chat(ScriptedChat(steps=[LONG_REPLY, gate, LONG_REPLY + "The end."]))
    send(page, "Hi")
    expect_reply(page, LONG_REPLY.strip(), status="streaming")
    page.hover("#scroller")
    page.mouse.wheel(0, -300)
    expect(page.locator("#jump")).to_be_visible()
    gate.set()
    expect_reply(page, re.compile("The end.$"))
    expect(page.locator(".under")).not_to_be_in_viewport()
    page.click("#jump")
    expect(page.locator(".under")).to_be_in_viewport()
    expect(page.locator("#jump")).to_be_hidden()


THINKING = [Delta(reasoning="The reader greets. "), Delta(reasoning="A greeting back will do.")]


def test_what_the_model_thinks_is_shown_until_the_answer_begins(visitors: Visitors) -> None:
    thought, answered = threading.Event(), threading.Event()
    page = visitors.open_chat(ScriptedChat(steps=[*THINKING, thought, "Hel", answered, "lo"]))
    send(page, "Hi")
    thoughts, summary = page.locator(".thoughts"), page.locator("summary")
    expect(thoughts).to_have_text("The reader greets. A greeting back will do.")
    expect(thoughts).to_be_visible()
    expect(summary).to_have_text("Thinking…")
    expect(page.locator(".waiting")).to_be_hidden()
    expect(page.locator("#announcer")).to_have_text("Waiting for the reply")
    thought.set()
    expect_reply(page, "Hel", status="streaming")
    expect(thoughts).to_be_hidden()
    expect(summary).to_have_text("Thoughts")
    answered.set()
    expect_reply(page, "Hello")


def test_thoughts_can_be_opened_and_are_neither_copied_nor_sent_back(visitors: Visitors) -> None:
    chat = ScriptedChat(steps=[*THINKING, "Hello"])
    page = visitors.open_chat(chat, permissions=["clipboard-read", "clipboard-write"])
    send(page, "Hi")
    expect_reply(page, "Hello")
    # While it thinks they are open.
    expect(page.locator(".thoughts")).to_be_hidden()
    page.locator("summary").press("Enter")
    expect(page.locator(".thoughts")).to_be_visible()
    page.get_by_role("button", name="Copy reply").click()
    expect(page.locator(".copied")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "Hello"
    send(page, "More")
    expect_reply(page, "Hello", number=2)
    assert [message.content for message in chat.requests[1].messages] == ["Hi", "Hello", "More"]
    assert not any(message.reasoning for message in chat.requests[1].messages)
    expect(page.locator(".thoughts").first).to_be_visible()


def test_a_stop_in_mid_thought_leaves_the_thought(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(steps=[*THINKING, threading.Event()]), locale="ja-JP")
    send(page, "やあ")
    expect(page.locator("summary")).to_have_text("考え中…")
    page.click("#stop")
    expect(page.locator("summary")).to_have_text("考えたこと")
    expect(page.locator(".thoughts")).to_be_visible()
    expect(page.get_by_role("button", name="やり直す")).to_be_visible()


def test_opening_long_thoughts_leaves_the_reader_where_they_begin(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(steps=[Delta(reasoning=LONG_REPLY), LONG_REPLY]))
    send(page, "Hi")
    expect_reply(page, LONG_REPLY.strip())
    page.locator("summary").scroll_into_view_if_needed()
    before = page.locator("summary").bounding_box()
    page.locator("summary").click()
    expect(page.locator(".thoughts")).to_be_visible()
    expect(page.locator("#jump")).to_be_visible()
    assert page.locator("summary").bounding_box() == before
