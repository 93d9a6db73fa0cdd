"""`python -m benchmarks.works_with` runs every client's tests against a served model and prints a line for each.

With `--write` the lines become the table "Works with" of both READMEs. Exit status 1 when a client fails.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.readme import READMES, ROOT, with_block
from tests import node_packages

NAME = "clients"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One row; `ran` says in English and in Japanese what the tests of `files` do with it."""

    name: str
    version: Callable[[], str]
    files: tuple[str, ...]
    ran: tuple[str, str]


@dataclass(slots=True)
class Outcome:
    """What became of a client's tests."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)

    def told(self) -> str:
        return f"FAILED: {', '.join(self.failed)}" if self.failed or not self.passed else f"{self.passed} passed"


def _package(name: str) -> Callable[[], str]:
    return lambda: metadata.version(name)


def _npm_package(name: str) -> Callable[[], str]:
    return lambda: node_packages.version_of(name) or "not installed"


def _curl() -> str:
    told = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    return told.split()[1]


def _front_ends() -> str:
    librechat = (ROOT / "examples" / "librechat" / "README.md").read_text(encoding="utf-8")
    open_webui = (ROOT / "examples" / "open-webui" / "compose.yaml").read_text(encoding="utf-8")
    checked, image = re.search(r"LibreChat v([\d.]+\d)", librechat), re.search(r"open-webui:v([\d.]+)", open_webui)
    return ", ".join(found[1] for found in (checked, image) if found)


CLIENTS = (
    Client(
        name="openai, Python SDK",
        version=_package("openai"),
        files=("test_sdk_python.py", "test_reply_ends.py"),
        ran=(
            "chat, `.stream()`, `.parse()`, tools, logprobs, `n`, completions, responses, async, "
            "retries, errors, cancel, deadline, fault",
            "チャット、`.stream()`、`.parse()`、ツール、logprobs、`n`、completions、responses、非同期、"
            "再試行、エラー、中断、期限、障害",
        ),
    ),
    Client(
        name="openai, JavaScript SDK",
        version=_npm_package("openai"),
        files=("test_sdk_javascript.py",),
        ran=(
            "chat, streams, tools, `runTools`, JSON, responses, errors, abort",
            "チャット、ストリーム、ツール、`runTools`、JSON、responses、エラー、中断",
        ),
    ),
    Client(
        name="LangChain, ChatOpenAI",
        version=_package("langchain-openai"),
        files=("test_langchain.py",),
        ran=(
            "`invoke`, `stream`, `bind_tools`, `with_structured_output` in its three ways, usage, async",
            "`invoke`、`stream`、`bind_tools`、3 通りの `with_structured_output`、使用量、非同期",
        ),
    ),
    Client(
        name="llm, the command",
        version=_package("llm"),
        files=("test_llm_cli.py",),
        ran=(
            "`extra-openai-models.yaml`: prompts, streams, a schema, a conversation, a key",
            "`extra-openai-models.yaml`：質問、ストリーム、スキーマ、会話の続き、キー",
        ),
    ),
    Client(
        name="curl",
        version=_curl,
        files=("test_curl.py",),
        ran=("JSON, streams, errors with their status", "JSON、ストリーム、ステータス付きのエラー"),
    ),
    Client(
        name="LibreChat, Open WebUI",
        version=_front_ends,
        files=("test_examples_front_ends.py",),
        ran=(
            "the settings in `examples/` and the requests that these releases send; not the containers",
            "`examples/` の設定と、このリリースが送るリクエスト。コンテナー自体は動かしていません",
        ),
    ),
    Client(
        name="AWS Lambda chat app",
        version=lambda: f"Python {platform.python_version()}",
        files=("test_aws_lambda.py",),
        ran=(
            "the handler in `examples/aws_lambda` with API Gateway's events, also with a slow model",
            "`examples/aws_lambda` のハンドラーと API Gateway のイベント。遅いモデルでも",
        ),
    ),
)
HEADS = (
    ("client", "version tried", "what was run", "result"),
    ("クライアント", "試したバージョン", "試した内容", "結果"),
)
TRIED = ("Tried on {date} by `make clients`.", "{date} に `make clients` で試した結果です。")


class Outcomes:
    """A pytest plugin that counts by file, and tells each client's outcome once its last file is done."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self.of = {client.name: Outcome() for client in clients}
        self._owner = {file: client for client in clients for file in client.files}
        self._left: defaultdict[str, int] = defaultdict(int)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            self._left[self._owner[item.path.name].name] += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        client = self._owner[Path(report.location[0]).name]
        outcome = self.of[client.name]
        if report.failed:
            outcome.failed.append(report.head_line or report.nodeid)
        elif report.passed and report.when == "call":
            # Tests that another runner ran are told in a property.
            outcome.passed += int(str(dict(report.user_properties).get("passed", 1)))
        if report.when == "teardown":
            self._left[client.name] -= 1
            if not self._left[client.name]:
                print(f"{client.name} {client.version()}: {client.ran[0]}: {outcome.told()}", flush=True)


def table(outcomes: Mapping[str, Outcome], *, language: int, today: date) -> str:
    """The rows as Markdown, and when they were tried."""
    rows = [HEADS[language], ("---",) * 4]
    for client in CLIENTS:
        rows.append((client.name, client.version(), client.ran[language], outcomes[client.name].told()))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", TRIED[language].format(date=today.isoformat())])


def run(clients: Sequence[Client]) -> Outcomes:
    """Run the tests of all these clients in this process, against one server."""
    outcomes = Outcomes(clients)
    paths = [str(ROOT / "tests" / file) for client in clients for file in client.files]
    # Their lines are the whole output; the usual options are those of the reporter that is left out.
    pytest.main([*paths, "-p", "no:terminal", "-o", "addopts="], plugins=[outcomes])
    return outcomes


def main() -> int:
    """Exit status 1 when a client's tests fail or there are none."""
    os.chdir(ROOT)
    outcomes = run(CLIENTS)
    if "--write" in sys.argv[1:]:
        for language, readme in enumerate(READMES):
            text = readme.read_text(encoding="utf-8")
            written = with_block(text, NAME, table(outcomes.of, language=language, today=date.today()))
            readme.write_text(written, encoding="utf-8")
    return 0 if all(one.passed and not one.failed for one in outcomes.of.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
