"""Visitors of the page: a browser's pages that keep what went wrong in them, and a connection that can be cut."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, Response, expect

from colab_llm_chat.protocol.messages import Status
from colab_llm_chat.settings import Settings
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat, serving
from tests.ngrok_agent import hang_up, pass_on

WAIT_MS = 30_000
# Only these may answer with an error status: the page tells of it in its own words.
MAY_FAIL = frozenset({"/chat", "/health", "/session", "/tokenize"})


PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
LONG_REPLY = "The sea is wide and blue. " * 200
TRANSLATOR = Status(
    state="ok",
    model_id="translator",
    progress=1.0,
    task="translation",
    languages=("deu_Latn", "eng_Latn", "fra_Latn", "jpn_Jpan"),
)
LOADING = Status(state="loading", model_id="catbot", progress=0.4, detail="model.safetensors")


@dataclass
class Visitors:
    """Opens pages, each in a browser of its own as far as cookies go, and the servers behind them."""

    browser: Browser
    faults: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)
    _servers: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def open(self, url: str, **options: Any) -> Page:
        """The page at `url`, ready; options are those of a browser context, an American's desktop by default."""
        context = self.browser.new_context(**{"locale": "en-US", **options})
        self._contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        self._watch(page, urlsplit(url).netloc)
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        return page

    def open_chat(self, chat: ScriptedChat, *, path: str = "/", settings: Any = None, **options: Any) -> Page:
        """The page of a server over a scripted pipeline."""
        return self.open(f"http://127.0.0.1:{self.serve(chat, **(settings or {}))}{path}", **options)

    def serve(self, chat: ScriptedChat, **settings: Any) -> int:
        """The port of a server over a scripted pipeline."""
        app = create_app(Settings(max_rows=4, max_queue=4, **settings), chat)
        port = self._servers.enter_context(serving(app)).bound_port
        assert port is not None
        return port

    def through_relay(self, chat: ScriptedChat) -> tuple[Page, Relay]:
        """The page of a server behind a connection that can be cut."""
        relay = self._servers.enter_context(relaying(self.serve(chat)))
        return self.open(f"http://127.0.0.1:{relay.server_address[1]}/"), relay

    def close(self) -> None:
        """Pages go first: a server that ends waits for its connections."""
        for context in self._contexts:
            context.close()
        self._servers.close()

    def _watch(self, page: Page, host: str) -> None:
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.faults.append(f"script error: {error}"))
        page.on("request", lambda request: self._asked(request, host))
        page.on("response", self._answered)

    def _heard(self, message: ConsoleMessage) -> None:
        # The browser itself reports every error status; which of them are fine is judged by address.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.faults.append(f"console: {message.text}")

    def _asked(self, request: Request, host: str) -> None:
        if urlsplit(request.url).netloc != host and not request.url.startswith("data:"):
            self.faults.append(f"asked another host: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and urlsplit(response.url).path not in MAY_FAIL:
            self.faults.append(f"{response.status} for {response.url}")


class Relay(socketserver.ThreadingTCPServer):
    """Passes connections on to a port of this machine until they are cut."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Relayed)
        self.port = port
        self.ends: list[socket.socket] = []

    def cut(self) -> None:
        """End every connection where it stands."""
        for end in self.ends:
            hang_up(end)

    def go_away(self) -> None:
        """Take no more connections."""
        self.socket.close()
        self.cut()


class _Relayed(socketserver.BaseRequestHandler):
    server: Relay
    request: socket.socket

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as beyond:
            self.server.ends += [self.request, beyond]
            back = threading.Thread(target=pass_on, args=(beyond, self.request))
            back.start()
            pass_on(self.request, beyond)
            back.join()


@contextlib.contextmanager
def relaying(port: int) -> Iterator[Relay]:
    """A relay to this port, with its connections cut at the end."""
    with Relay(port) as relay:
        thread = threading.Thread(target=relay.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield relay
        finally:
            relay.cut()
            relay.shutdown()
            thread.join()


@contextlib.contextmanager
def visiting(browser: Browser) -> Iterator[Visitors]:
    """At the end: no script error, no complaint of the browser, no other host asked."""
    expect.set_options(timeout=WAIT_MS)
    visitors = Visitors(browser)
    try:
        yield visitors
    finally:
        visitors.close()
    assert visitors.faults == []


def send(page: Page, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def exchange(page: Page, number: int = 1) -> Locator:
    return page.locator("article.exchange").nth(number - 1)


def expect_reply(page: Page, text: str | re.Pattern[str], *, number: int = 1, status: str = "finished") -> None:
    expect(exchange(page, number)).to_have_attribute("data-status", status)
    expect(exchange(page, number).locator(".reply")).to_have_text(text)


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.className"))
