"""README's pictures of the page: a real server with the demo model, a real browser, a real conversation.

    python -m benchmarks.screenshots

Writes examples/pictures/*.png. The seed is fixed, so the same model gives the same pictures.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page

from benchmarks.server import served
from tests.browser import launched

FOLDER = Path(__file__).parents[1] / "examples" / "pictures"
SEED = "4"
REPLY_MS = 60_000


@dataclass(frozen=True)
class Picture:
    """One picture: what the browser is like and what is said in it."""

    name: str
    lines: tuple[str, ...]
    size: tuple[int, int] = (1280, 800)
    locale: str = "en-US"
    colours: Literal["light", "dark"] = "light"
    touch: bool = False


PICTURES = (
    Picture("page.png", ("Good morning!", "（顎を撫でる）", "おやつを食べる？")),
    Picture("page-phone.png", ("おはよう", "（顎を撫でる）", "お手"), size=(390, 844), locale="ja-JP", touch=True),
    Picture("page-dark.png", ("ただいま！", "（顎を撫でる）", "Good night, kitty."), locale="ja-JP", colours="dark"),
)


def main() -> int:
    """Take every picture."""
    FOLDER.mkdir(exist_ok=True)
    with served("--seed", SEED) as server, launched() as browser:
        for picture in PICTURES:
            take(browser, server.url, picture)
            print(FOLDER / picture.name)
    return 0


def take(browser: Browser, url: str, picture: Picture) -> None:
    """Open the page as one kind of visitor, chat, and write what is to be seen."""
    width, height = picture.size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        locale=picture.locale,
        color_scheme=picture.colours,
        has_touch=picture.touch,
        is_mobile=picture.touch,
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    for line in picture.lines:
        say(page, line)
    page.screenshot(path=FOLDER / picture.name, caret="hide", animations="disabled")
    context.close()


def say(page: Page, line: str) -> None:
    """Send one line and wait until its reply has ended well."""
    number = page.locator("article.exchange").count() + 1
    page.fill("#message", line)
    page.press("#message", "Enter")
    page.wait_for_selector(f"article.exchange:nth-of-type({number})[data-status=finished] .usage", timeout=REPLY_MS)


if __name__ == "__main__":
    sys.exit(main())
