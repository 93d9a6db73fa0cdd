"""Who may use the page and how: access key, language, phone, keyboard, screen reader, colours; in a real browser."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from colab_llm_chat.errors import EngineFailed
from colab_llm_chat.protocol.messages import Delta, Status
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat, reply_end
from tests.visitors import LOADING, LONG_REPLY, PHONE, TRANSLATOR, Visitors, expect_reply, focused, send

LEAST_CONTRAST = """() => {
  const channel = (value) => (value <= 10.31 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = colour(getComputedStyle(at).backgroundColor);
      if (found[3] !== 0) return found;
    }
  };
  const words = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "");
  const shown = [...document.querySelectorAll("body *")].filter((one) => words(one) && one.checkVisibility());
  return Math.min(...shown.map((one) => {
    const pair = [light(colour(getComputedStyle(one).color)), light(ground(one))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  }));
}"""


def test_without_the_key_the_page_asks_for_it(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(), settings={"access_key": "sesame"})
    expect(page.locator("#access-key")).to_be_focused()
    page.get_by_role("button", name="Open the chat").click()
    expect(page.get_by_role("alert")).to_have_text("Enter the access key first.")
    page.fill("#access-key", "barley")
    page.press("#access-key", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("This key does not fit.")
    page.fill("#access-key", "sesame")
    page.press("#access-key", "Enter")
    expect(page.locator("#sign-in")).to_be_hidden()
    send(page, "Hi")
    expect_reply(page, "Hello")


def test_a_message_refused_for_want_of_the_key_is_not_lost(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(), path="/#key=sesame", settings={"access_key": "sesame"})
    expect(page.locator("#sign-in")).to_be_hidden()
    send(page, "First")
    expect_reply(page, "Hello")
    page.context.clear_cookies()
    send(page, "Hi")
    expect(page.locator("#sign-in")).to_be_visible()
    page.fill("#access-key", "sesame")
    page.press("#access-key", "Enter")
    expect(page.locator("#message")).to_have_value("Hi")
    expect(page.locator("#message")).to_be_focused()
    page.press("#message", "Enter")
    expect_reply(page, "Hello", number=2)


def test_the_key_leaves_the_address_and_becomes_a_cookie(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(), path="/#key=sesame", settings={"access_key": "sesame"})
    send(page, "Hi")
    expect_reply(page, "Hello")
    assert "sesame" not in page.url
    assert "#" not in page.url
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert "sesame" not in cookie["value"]
    page.reload()
    send(page, "Hi")
    expect_reply(page, "Hello")
    assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])") == "[{},{}]"


def test_a_wrong_key_in_the_address_is_told(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(), path="/#key=barley", settings={"access_key": "sesame"})
    expect(page.get_by_role("alert")).to_contain_text("This key does not fit.")
    assert "barley" not in page.url


@pytest.mark.parametrize(
    ("locale", "language", "hint"),
    [("ja-JP", "ja", "メッセージを入力"), ("en-GB", "en", "Write a message"), ("fr-FR", "en", "Write a message")],
)
def test_the_page_speaks_the_browsers_language(visitors: Visitors, locale: str, language: str, hint: str) -> None:
    page = visitors.open_chat(ScriptedChat(), locale=locale)
    expect(page.locator("html")).to_have_attribute("lang", language)
    expect(page.locator("#message")).to_have_attribute("placeholder", hint)
    expect(page.locator(".privacy")).to_contain_text("catbot")


def page_settings(host: str, forwarded: str | None = None) -> dict[str, Any]:
    """What the server puts into the page for somebody who came by this name."""
    app = create_app(Settings(allowed_hosts="nas,10.0.0.7", language_target="jpn_Jpan"), ScriptedChat())
    app.add_public_host("https://cat.ngrok-free.app")
    headers = {"X-Forwarded-Host": forwarded} if forwarded else {}
    answer = app.test_client().get("/", base_url=f"https://{host}", headers=headers)
    return dict(json.loads(re.search(r'id="page-settings">(.*?)</script>', answer.text)[1]))


@pytest.mark.parametrize(
    ("host", "relay"),
    [
        ("127.0.0.1:5000", ""),
        ("[::1]:5000", ""),
        ("localhost:5000", ""),
        ("host.docker.internal:5000", ""),
        ("10.0.0.7:5000", ""),
        ("nas:5000", ""),
        ("CAT.ngrok-free.app.", "cat.ngrok-free.app"),
        ("x-5000-colab.googleusercontent.com", "x-5000-colab.googleusercontent.com"),
    ],
)
def test_the_page_knows_the_public_address_that_it_was_opened_by(host: str, relay: str) -> None:
    assert page_settings(host)["relay"] == relay


def test_the_page_knows_the_languages_that_the_server_was_started_with() -> None:
    told = page_settings("localhost:5000")
    assert (told["sourceLanguage"], told["targetLanguage"]) == (None, "jpn_Jpan")


def test_a_proxy_that_asks_in_its_own_name_is_a_public_address_too() -> None:
    assert page_settings("127.0.0.1:5000", "cat.example.org")["relay"] == "cat.example.org"


@pytest.mark.parametrize(
    ("locale", "told"), [("en-US", "by way of cat.example.org"), ("ja-JP", "cat.example.org を経由")]
)
def test_the_page_tells_whom_the_messages_pass(visitors: Visitors, locale: str, told: str) -> None:
    through = {**PHONE, "locale": locale, "extra_http_headers": {"X-Forwarded-Host": "cat.example.org"}}
    page = visitors.open_chat(ScriptedChat(), **through)
    expect(page.locator(".privacy")).to_contain_text(told)
    expect(page.locator(".privacy")).to_contain_text("catbot")


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone_nothing_is_cut_off_or_needs_sideways_scrolling(visitors: Visitors, width: int) -> None:
    state = Status(state="ok", model_id="somebody/a-model-whose-name-is-very-long-indeed-7b-instruct")
    thought = Delta(reasoning="z" * 300)
    chat = ScriptedChat(steps=[thought, "x" * 300, LONG_REPLY], state=state, end=reply_end("length"))
    page = visitors.open_chat(chat, **{**PHONE, "locale": "ja-JP", "viewport": {"width": width, "height": 700}})
    send(page, "y" * 300)
    expect_reply(page, re.compile("^x{300}The sea"))
    page.locator("summary").tap()
    expect(page.locator(".thoughts")).to_be_visible()
    page.locator("#jump").tap()
    widths = "[document.documentElement, scroller].map((one) => one.scrollWidth)"
    assert page.evaluate(widths) == [width, width]
    for part in ("#message", "#send", "#new-chat", ".privacy", ".under"):
        expect(page.locator(part)).to_be_in_viewport(ratio=1)


def test_the_keyboard_alone_is_enough(visitors: Visitors) -> None:
    chat = ScriptedChat(steps=["Hel", threading.Event()])
    page = visitors.open_chat(chat)
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("Hi")
    page.keyboard.press("Enter")
    expect_reply(page, "Hel", status="streaming")
    page.keyboard.press("Escape")
    expect_reply(page, "Hel", status="cancelled")
    order = []
    for _ in range(6):
        page.keyboard.press("Shift+Tab")
        order.append(focused(page))
    assert order == ["quiet-button", "icon-button", "icon-button", "scroller", "new-chat", "skip"]
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("More")
    page.keyboard.press("Tab")
    assert focused(page) == "send"


def expect_names(page: Page) -> None:
    kinds = "a, button, input, select, textarea, progress, summary, [tabindex]"
    controls = page.locator(kinds).filter(visible=True).all()
    assert len(controls) >= 4
    for control in controls:
        expect(control).to_have_accessible_name(re.compile(r"\S"))


def test_every_control_has_a_name(visitors: Visitors) -> None:
    chat = ScriptedChat(steps=[Delta(reasoning="Hm."), "Hello"], state=LOADING, end=reply_end("length"))
    page = visitors.open_chat(chat)
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect_names(page)
    send(page, "Hi")
    expect_reply(page, "Hello")
    chat.steps = [threading.Event()]
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#stop")).to_be_visible()
    expect_names(page)


def test_every_control_of_a_translation_and_of_the_prompt_has_a_name(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(state=TRANSLATOR), **PHONE, locale="ja-JP")
    expect(page.get_by_role("combobox", name="原文")).to_have_value("jpn_Jpan")
    page.get_by_role("combobox", name="訳文").select_option("eng_Latn")
    expect_names(page)
    send(page, "やあ")
    page.get_by_role("button", name="プロンプトを表示").tap()
    dialog = page.get_by_role("dialog", name="この返事のプロンプト")
    expect(dialog.get_by_role("region", name="プロンプト")).to_have_text("やあ")
    expect_names(page)


def test_every_control_of_the_sign_in_form_has_a_name(visitors: Visitors) -> None:
    page = visitors.open_chat(ScriptedChat(), settings={"access_key": "sesame"}, locale="ja-JP")
    expect(page.get_by_role("textbox", name="アクセスキー")).to_be_focused()
    expect_names(page)


def test_a_screen_reader_hears_a_reply_once_and_whole(visitors: Visitors) -> None:
    gate = threading.Event()
    page = visitors.open_chat(ScriptedChat(steps=[Delta(reasoning="Hm."), "Hel", gate, "lo"]))
    expect(page.get_by_role("log", name="Conversation")).to_have_attribute("aria-live", "off")
    send(page, "Hi")
    expect_reply(page, "Hel", status="streaming")
    expect(page.locator("#announcer")).to_have_text("Waiting for the reply")
    gate.set()
    expect(page.locator("#announcer")).to_have_text("Hello")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(visitors: Visitors, colours: str) -> None:
    end = reply_end("length", notes=("`top_k` was ignored.",))
    chat = ScriptedChat(steps=[Delta(reasoning="Hm."), "Hello"], end=end, state=TRANSLATOR)
    page = visitors.open_chat(chat, color_scheme=colours)
    send(page, "Hi")
    expect(page.locator("#language-problem")).to_be_visible()
    assert page.evaluate(LEAST_CONTRAST) >= 4.5
    page.select_option("#target-language", "jpn_Jpan")
    send(page, "Hi")
    expect_reply(page, "Hello")
    page.locator("summary").click()
    chat.end, chat.state = reply_end(dropped_messages=2), LOADING
    send(page, "Two")
    expect_reply(page, "Hello", number=2)
    chat.refuses_with = EngineFailed("The engine was ended.")
    send(page, "Three")
    expect(page.locator(".failure:visible")).to_be_visible()
    brightness = sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))))
    assert (brightness < 150) is (colours == "dark")
    assert page.evaluate(LEAST_CONTRAST) >= 4.5
    page.get_by_role("button", name="Show the prompt").first.click()
    expect(page.locator("#prompt-facts")).to_contain_text("tokens")
    assert page.evaluate(LEAST_CONTRAST) >= 4.5
