"""Settings of the whole suite."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.served_model import ServedModel

# Tiny models gain nothing from a second thread, and spinning threads slow each other down on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing here may reach for the network by accident; tests of the Hub's client name their own endpoint.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


# Long for the number of their tests: begun last, one worker would go through them alone.
SLOW = ("test_notebook", "test_notebook_secrets", "test_client", "test_launch", "test_chat", "test_aws_lambda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in SLOW)


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
