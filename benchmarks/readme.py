"""`python -m benchmarks.readme` writes into both READMEs what is the code's, settings and errors, and the models."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import openai_tables
from benchmarks.models import models_table
from colab_llm_chat.errors import ChatError, ColabError, TunnelError, UsageError
from colab_llm_chat.errors.upstream import UpstreamError
from colab_llm_chat.settings import markdown_table
from colab_llm_chat.web.metrics import METRICS, PREFIX

ROOT = Path(__file__).parents[1]
READMES = (ROOT / "README.md", ROOT / "README.ja.md")


def main() -> int:
    """Rewrite what has changed."""
    for readme in READMES:
        text = readme.read_text(encoding="utf-8")
        readme.write_text(with_tables(text), encoding="utf-8")
    return 0


def with_tables(text: str) -> str:
    """The text with what stands between `<!-- NAME -->` and `<!-- /NAME -->` written anew."""
    for name, write in BLOCKS.items():
        text = with_block(text, name, write())
    for name, write in ONE_LANGUAGE.items():
        if f"<!-- {name} -->" in text:
            text = with_block(text, name, write())
    return text


def with_block(text: str, name: str, block: str) -> str:
    """The text with this block between its markers. Raises ValueError where they are missing."""
    head, begin, tail = text.partition(f"<!-- {name} -->")
    _, end, tail = tail.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"the markers <!-- {name} --> and <!-- /{name} --> are missing")
    return f"{head}{begin}\n{block}\n{end}{tail}"


def errors_table() -> str:
    """Every error that a request can get, by status; most have hints of their own beside the usual one."""
    kinds = sorted(_served_errors(ChatError), key=lambda kind: (kind.status, kind.code))
    rows = [f"| {kind.status} | `{kind.code}` | {_as_code(kind.default_hint)} |" for kind in kinds]
    return "\n".join(["| status | code | usual hint |", "| --- | --- | --- |", *rows])


def metrics_table() -> str:
    """Every metric with its labels, as GET /metrics describes it."""
    rows = [
        f"| `{PREFIX}{one.name}` | {', '.join(f'`{label}`' for label in one.labels)} | {one.help} |" for one in METRICS
    ]
    return "\n".join(["| metric | labels | what it says |", "| --- | --- | --- |", *rows])


def _served_errors(kind: type[ChatError]) -> Iterator[type[ChatError]]:
    # Those are met by the command line and the notebook, never by a request.
    if kind not in (UsageError, ColabError, TunnelError, UpstreamError):
        yield kind
        for narrower in kind.__subclasses__():
            yield from _served_errors(narrower)


def _as_code(hint: str) -> str:
    """Flags as code, so that no renderer joins their dashes."""
    return re.sub(r"(?<!\S)(--[a-z-]+(?: 4bit| 8bit)?)", r"`\1`", hint)


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": markdown_table,
    "errors": errors_table,
    "metrics": metrics_table,
    "chat-fields": openai_tables.chat_fields,
    "ignored-fields": openai_tables.ignored_fields,
    "refused-fields": openai_tables.refused_fields,
    "other-fields": openai_tables.other_fields,
    "json-schemas": openai_tables.json_schemas,
}
# The others are in English everywhere, as the code's own words are.
ONE_LANGUAGE: dict[str, Callable[[], str]] = {"models": models_table, "models-ja": partial(models_table, "ja")}

if __name__ == "__main__":
    sys.exit(main())
