"""The browser of the tests: the system's Chromium, else the one that Playwright installs.

`python -m tests.browser` makes sure there is one and says in one line what to install when there is not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def system_browser() -> str | None:
    """Path of a Chromium that is installed on the system."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system_browser(), args=FLAGS)
        yield browser
        browser.close()


def main() -> int:
    """Exit status 1 when there is no browser and none could be installed."""
    with sync_playwright() as playwright:
        bundled = playwright.chromium.executable_path
    if system_browser() or Path(bundled).exists():
        return 0
    installed = subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    if installed.returncode:
        print("No Chromium for the tests of the page. Install one: apt-get install chromium", file=sys.stderr)
    return installed.returncode


if __name__ == "__main__":
    sys.exit(main())
