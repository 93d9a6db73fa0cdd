"""What the page shows beside a conversation, in a real browser: each reply's prompt, and a translation's languages."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from playwright.sync_api import Page, expect

from colab_llm_chat.errors import ChatError, InvalidRequest, ModelLoading
from colab_llm_chat.protocol.messages import ChatRequest, PromptTokens
from tests.chat_services import ScriptedChat, reply_end
from tests.visitors import (
    LOADING,
    LONG_REPLY,
    PHONE,
    TRANSLATOR,
    Visitors,
    exchange,
    expect_reply,
    focused,
    send,
)


@dataclass
class AskedChat(ScriptedChat):
    """Keeps what it is asked to tokenize, leaves two messages out of it, and refuses to when told so."""

    tokenized: list[ChatRequest] = field(default_factory=list)
    tokenizes_not: ChatError | None = None

    def tokenize(self, request: ChatRequest) -> PromptTokens:
        if self.tokenizes_not is not None:
            raise self.tokenizes_not
        self.tokenized.append(request)
        return replace(super().tokenize(request), dropped_messages=2)


def show_prompt(page: Page, number: int = 1) -> None:
    exchange(page, number).get_by_role("button", name="Show the prompt").click()


def test_the_prompt_of_a_reply_is_that_of_what_the_reply_was_asked_with(visitors: Visitors) -> None:
    chat = AskedChat()
    page = visitors.open_chat(chat)
    for number, message in enumerate(("One", "Two"), start=1):
        send(page, message)
        expect_reply(page, "Hello", number=number)
    assert chat.tokenized == []
    expect(page.locator("#languages")).to_be_hidden()
    show_prompt(page, 2)
    expect(page.locator("#prompt-text")).to_have_text("One\nHello\nTwo")
    expect(page.locator("#prompt-facts")).to_have_text(
        "13 of 64 tokens · 2 older messages were left out: they do not fit"
    )
    (asked,), sent = chat.tokenized, chat.requests[-1]
    told = [(one.messages, one.sampling, one.truncation, one.raw) for one in (asked, sent)]
    assert told[0] == told[1]


def test_the_prompt_of_more_of_a_reply_has_what_there_was_and_that_of_a_raw_message_is_bare(visitors: Visitors) -> None:
    chat = AskedChat(end=reply_end("length"))
    page = visitors.open_chat(chat)
    send(page, "Hi")
    page.get_by_role("button", name="Continue").click()
    expect_reply(page, "HelloHello")
    show_prompt(page)
    expect(page.locator("#prompt-text")).to_have_text("Hi\nHello")
    page.keyboard.press("Escape")
    send(page, "\\Once upon\\na time")
    expect_reply(page, "Hello", number=2)
    show_prompt(page, 2)
    expect(page.locator("#prompt-text")).to_have_text("Once upon\na time")
    assert [one.continue_final for one in chat.tokenized] == [True, False]
    assert chat.tokenized[1].raw


def test_the_prompt_is_opened_copied_and_closed_by_the_keyboard_while_a_reply_runs_on(visitors: Visitors) -> None:
    chat = AskedChat()
    page = visitors.open_chat(chat, permissions=["clipboard-read", "clipboard-write"])
    send(page, "Hi")
    expect_reply(page, "Hello")
    chat.steps = ["Hel", threading.Event()]
    send(page, "More")
    expect_reply(page, "Hel", number=2, status="streaming")
    page.get_by_role("button", name="Show the prompt").press("Enter")
    expect(page.locator("#prompt-text")).to_have_text("Hi")
    page.get_by_role("button", name="Copy prompt").press("Enter")
    expect(page.locator("#prompt-copied")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "Hi"
    page.keyboard.press("Escape")
    expect(page.locator("#prompt")).to_be_hidden()
    expect(page.get_by_role("button", name="Show the prompt")).to_be_focused()
    expect_reply(page, "Hel", number=2, status="streaming")


def test_a_prompt_that_cannot_be_told_says_why_in_its_place(visitors: Visitors) -> None:
    chat = AskedChat()
    page = visitors.open_chat(chat)
    send(page, "Hi")
    expect_reply(page, "Hello")
    chat.tokenizes_not = ModelLoading("The model is still loading.", retry_after=7)
    show_prompt(page)
    expect(page.get_by_role("alert")).to_contain_text("The model is not ready yet. Try again in 7 s.")
    expect(page.locator("#prompt-text")).to_be_hidden()
    page.mouse.click(5, 5)
    expect(page.locator("#prompt")).to_be_hidden()
    chat.tokenizes_not = None
    show_prompt(page)
    expect(page.locator("#prompt-text")).to_have_text("Hi")
    expect(page.locator("#prompt-problem")).to_be_hidden()


def test_a_long_prompt_scrolls_inside_itself_on_a_phone(visitors: Visitors) -> None:
    page = visitors.open_chat(AskedChat(state=TRANSLATOR), **{**PHONE, "viewport": {"width": 320, "height": 640}})
    page.select_option("#target-language", "jpn_Jpan")
    send(page, LONG_REPLY + "x" * 300)
    expect_reply(page, "Hello")
    show_prompt(page)
    expect(page.locator("#prompt-text")).to_be_visible()
    for part in ("#prompt", "#prompt-close", "#prompt-copy", "#prompt-facts"):
        expect(page.locator(part)).to_be_in_viewport(ratio=1)
    inside = page.locator("#prompt-text").evaluate("one => [one.scrollWidth - one.clientWidth, one.scrollHeight]")
    assert inside[0] == 0
    assert inside[1] > 640
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_a_translation_waits_for_its_language_and_takes_both_along(visitors: Visitors) -> None:
    chat = ScriptedChat(state=TRANSLATOR, end=reply_end(notes=("`system` was ignored.",)))
    page = visitors.open_chat(chat)
    page.get_by_role("button", name="Where is the nearest station?").click()
    expect(page.get_by_role("alert")).to_have_text("Choose the language to translate into first.")
    expect(page.locator("#target-language")).to_be_focused()
    expect(page.locator("#message")).to_have_value("Where is the nearest station?")
    assert chat.requests == []
    page.locator("#target-language").select_option(label="Japanese")
    expect(page.locator("#language-problem")).to_be_hidden()
    page.press("#message", "Enter")
    expect_reply(page, "Hello")
    expect(page.locator(".notes")).to_have_text("`system` was ignored.")
    expect(page.locator(".usage")).to_have_text("6 tokens/s")
    show_prompt(page)
    expect(page.locator("#prompt-facts")).to_contain_text("eng_Latn → jpn_Jpan")
    assert (chat.requests[0].source_language, chat.requests[0].target_language) == ("eng_Latn", "jpn_Jpan")


def test_languages_are_swapped_and_remembered(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(state=TRANSLATOR))
    page.select_option("#target-language", "deu_Latn")
    page.get_by_role("button", name="Swap the languages").click()
    expect(page.locator("#source-language")).to_have_value("deu_Latn")
    page.reload()
    expect(page.locator("#source-language")).to_have_value("deu_Latn")
    expect(page.locator("#target-language")).to_have_value("eng_Latn")
    labels = page.locator("#target-language option").all_text_contents()
    assert labels == ["Choose…", "English", "Japanese", "French", "German"]


def test_a_model_for_tasks_in_words_takes_a_text_as_typed(visitors: Visitors) -> None:
    chat = ScriptedChat(state=replace(TRANSLATOR, task="text2text"))
    page = visitors.open_chat(chat)
    expect(page.locator("#source-language option:checked")).to_have_text("As typed")
    send(page, "summarize: the sea is blue")
    expect_reply(page, "Hello")
    assert (chat.requests[0].source_language, chat.requests[0].target_language) == (None, None)


def test_a_refused_language_leads_to_its_picker(visitors: Visitors) -> None:
    chat = ScriptedChat(state=TRANSLATOR)
    chat.refuses_with = InvalidRequest("German to French was not trained.", param="target_language")
    page = visitors.open_chat(chat)
    page.select_option("#target-language", "fra_Latn")
    send(page, "Hi")
    expect(exchange(page).locator(".failure")).to_contain_text("German to French was not trained.")
    expect(page.locator("#target-language")).to_be_focused()
    expect(page.locator("#language-problem")).to_have_text("Choose another language here, then try again.")
    chat.refuses_with = None
    page.select_option("#target-language", "jpn_Jpan")
    page.get_by_role("button", name="Try again").click()
    expect_reply(page, "Hello")
    assert chat.requests[0].target_language == "jpn_Jpan"


def test_a_model_that_was_still_loading_tells_its_languages_once_it_answers(visitors: Visitors) -> None:
    loaded = threading.Event()
    chat = ScriptedChat(steps=[loaded, "Hello"], state=LOADING)
    page = visitors.open_chat(chat)
    expect(page.locator("#notice")).to_contain_text("The model is loading.")
    send(page, "Hi")
    expect(page.locator("#languages")).to_be_hidden()
    chat.state = TRANSLATOR
    loaded.set()
    expect(page.locator("#languages")).to_be_visible()
    assert focused(page) != "target-language"
