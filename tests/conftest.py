"""Settings of the whole suite."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from colab_llm_chat.chat import Chat
    from tests.served_model import ServedModel
    from tests.visitors import Visitors

# Tiny models gain nothing from a second thread, and spinning threads slow each other down on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing here may reach for the network by accident; tests of the Hub's client name their own endpoint.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


# The longest first: begun last, one worker would go through them alone.
SLOW = (
    *("test_notebook", "test_compiled", "test_page", "test_notebook_secrets", "test_client", "test_page_for_everyone"),
    *("test_terminal", "test_families", "test_worker", "test_launch", "test_chat", "test_aws_lambda", "test_bench"),
    *("test_terminal_notebook", "test_metrics"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))


@pytest.fixture(autouse=True)
def same_log_level() -> Iterator[None]:
    """The command line and the notebook's form set our logger's level; the next test starts with the old one."""
    logger = logging.getLogger("colab_llm_chat")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """One server for the tests of all clients; it starts with the first of them."""
    from tests.served_model import serving_tiny

    with serving_tiny(tmp_path_factory.mktemp("served") / "tiny-llama") as served:
        yield served


@pytest.fixture(scope="session")
def demo_chat() -> Iterator[Chat]:
    """The demo model, loaded once; a server that is given it goes through `chat_services.Lent`."""
    from colab_llm_chat.chat import Chat
    from colab_llm_chat.settings import Settings
    from tests.chat_services import wait_until

    with contextlib.closing(Chat(Settings()).start()) as chat:
        wait_until(lambda: chat.status().state == "ok")
        yield chat


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from tests.browser import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def visitors(browser: Browser) -> Iterator[Visitors]:
    from tests.visitors import visiting

    with visiting(browser) as visitors:
        yield visitors
