"""Personas: what their files may say, what they change and what comes before them, at every door."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.readme import READMES
from colab_llm_chat.chat import Chat
from colab_llm_chat.cli import cli
from colab_llm_chat.cli.terminal.opening import rows
from colab_llm_chat.errors import UsageError
from colab_llm_chat.settings import SamplingParams, Settings
from colab_llm_chat.text.personas import (
    FOLDER,
    LARGEST_FILE,
    Persona,
    bundled,
    each_persona,
    persona_of,
    read_persona,
    with_persona,
)
from colab_llm_chat.web.app import create_app
from tests.chat_services import ScriptedChat
from tests.test_terminal_talk import asked, talked

CAT = bundled()["cat"]
USER = {"role": "user", "content": "hi"}
LINES = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1).filter(str.strip)
FILES = st.fixed_dictionaries(
    {"system": LINES},
    optional={
        "name": LINES,
        "description": LINES,
        "temperature": st.floats(0, 2),
        "top_k": st.integers(0, 1000),
        "seed": st.none() | st.integers(0, 2**63 - 1),
    },
)
into_the_same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, text: str | bytes) -> str:
    path = written(folder, text)
    with pytest.raises(UsageError) as caught:
        read_persona(path)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(path), "mine.yaml")


def client_of(chat: ScriptedChat, **flags: Any) -> FlaskClient:
    return create_app(Settings(**flags), chat).test_client()


# Files


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_each_bundled_file_is_short_and_says_what_it_is(path: Path) -> None:
    persona = read_persona(path)
    assert (persona.name, path.suffix) == (path.stem, ".yaml")
    assert len(persona.system.split()) <= 120
    assert len(persona.system) <= 600
    assert re.search("[ぁ-ん]", persona.description_ja)
    assert persona.description.isascii()


@into_the_same_folder
@given(FILES, st.booleans())
def test_a_file_means_what_it_says(tmp_path: Path, keys: dict[str, Any], is_flow: bool) -> None:
    text = yaml.safe_dump(keys, allow_unicode=True, default_flow_style=is_flow)
    persona = read_persona(written(tmp_path, text))
    said = {name: value.strip() if name in ("name", "system") else value for name, value in keys.items()}
    assert persona.model_dump(include=set(said)) == said
    assert persona.model_fields_set == {"name", *(name for name, value in keys.items() if value is not None)}


@into_the_same_folder
@given(st.binary() | st.text().map(str.encode) | st.text("[]{}&*?|>-:'\"#%@!~ \n\tsystem,<").map(str.encode))
def test_whatever_a_file_holds_it_is_a_persona_or_one_line(tmp_path: Path, data: bytes) -> None:
    with contextlib.suppress(UsageError):
        assert read_persona(written(tmp_path, data)).system
        return
    assert refusal(tmp_path, data)


@pytest.mark.parametrize(
    "text", ["system: &a 猫\nname: *a\n", "\ufeffsystem: no\nseed:\ntop_k: ~\n", "{system: 2024-01-01}"]
)
def test_words_stay_words_and_keys_without_a_value_are_absent(tmp_path: Path, text: str) -> None:
    persona = read_persona(written(tmp_path, text))
    assert persona.system in ("猫", "no", "2024-01-01")
    assert not persona.model_fields_set & set(SamplingParams.model_fields)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\n", "mine.yaml: `system` is missing."),
        ("", "mine.yaml holds no keys and values."),
        ("- system\n", "mine.yaml holds no keys and values."),
        ("system: a\nname: [b\n", "mine.yaml, line 3 is not YAML: "),
        ("system: a\n---\nsystem: b\n", "mine.yaml, line 2 is not YAML: "),
        ("system: '  '\n", "mine.yaml, line 1: system: String should have at least 1 character (given: '  ')."),
        ("system: a\ntemprature: 1\n", "mine.yaml, line 2: there is no key 'temprature'."),
        ("system: a\ntemperature: 3\n", "mine.yaml, line 2: temperature: Input should be less than or equal to 2"),
        ("system: a\ntemperature: nan\n", "mine.yaml, line 2: temperature: Input should be less than or equal to 2"),
        ("system: a\ntop_k: yes\n", "mine.yaml, line 2: top_k: Input should be a valid integer"),
        ("system: a\nstop: [b]\n", "mine.yaml, line 2: every key has one text or number as its value."),
        ("system: a\nsystem: b\n", "mine.yaml, line 2: 'system' is there twice."),
        ("system: \x00\n", "mine.yaml is not YAML: special characters are not allowed."),
        (b"system: \xff\n", "mine.yaml is not UTF-8: byte 8 is broken."),
        ("[" * 3000, "mine.yaml is nested too deeply."),
        ("system: " + "あ" * LARGEST_FILE, "mine.yaml has more than 64 KiB."),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(tmp_path: Path, text: str | bytes, told: str) -> None:
    assert refusal(tmp_path, text).startswith(told)


def test_a_wrong_value_is_shown_in_part_only(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, f"system: a\ntemperature: {'9' * 5000}\n")) < 200
    assert len(refusal(tmp_path, f"system: a\n{'k' * 900}: 1\n")) < 200


@pytest.mark.parametrize("name", [".", "none.yaml", "pipe.yaml", "x" * 300 + ".yaml"])
def test_what_is_no_file_is_refused_without_being_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match=r"is no file|cannot be read"):
        persona_of(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "near"), [("caat", "Did you mean cat?"), ("TEACHER", "mean teacher-ja"), ("", "There are")]
)
def test_an_unknown_name_is_told_with_near_ones_and_all(name: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        persona_of(name)
    assert near in caught.value.hint
    assert "cat, coder, teacher-ja, translator-en-ja" in caught.value.hint


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "system: 家\n")
    assert persona_of("~/mine.yaml") == Persona(name="mine", system="家")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_readmes_list_the_bundled_ones_and_their_sample_is_one(readme: Path, tmp_path: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    japanese = readme.name == "README.ja.md"
    for name, persona in bundled().items():
        assert f"| `{name}` | {persona.description_ja if japanese else persona.description} |" in text
    [sample] = re.findall(r"```yaml\n(name: .*?)```", text, re.DOTALL)
    assert read_persona(written(tmp_path, sample)).max_new_tokens == 120


# Settings


def test_a_persona_stands_behind_what_was_set_and_counts_as_set() -> None:
    settings = with_persona(Settings(persona="cat", temperature=0.1))
    assert (settings.system, settings.sampling.temperature, settings.sampling.max_new_tokens) == (CAT.system, 0.1, 64)
    assert settings.sampling.model_fields_set == {"temperature", "max_new_tokens"}
    assert with_persona(settings) == settings


@pytest.mark.parametrize("system", ["犬です", ""])
def test_a_system_prompt_of_the_flags_wins_also_an_empty_one(system: str) -> None:
    assert with_persona(Settings(persona="cat", system=system)).system == system


def test_without_a_persona_settings_stay_as_they_are() -> None:
    settings = Settings(temperature=0.1)
    assert with_persona(settings) is settings


def test_the_persona_of_a_request_comes_before_all_of_the_servers() -> None:
    chosen = each_persona(Settings(persona="cat", system="犬です", temperature=0.1, top_k=3))["coder"]
    assert (chosen.system, chosen.temperature, chosen.top_k) == (bundled()["coder"].system, 0.2, 3)
    assert chosen.max_new_tokens == 1024


@pytest.mark.parametrize("command", ["serve", "chat"])
def test_an_unknown_persona_ends_the_command_before_anything_is_loaded(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--persona", "caat", *(["--once", "hi"] if command == "chat" else [])])
    assert isinstance(result.exception, UsageError)
    assert (result.exception.exit_code, "Did you mean cat?" in result.exception.hint) == (2, True)


# Doors


def test_the_servers_persona_answers_those_who_bring_no_system_prompt() -> None:
    chat = ScriptedChat()
    client = client_of(chat, **with_persona(Settings(persona="cat")).model_dump(exclude_unset=True))
    client.post("/chat", json={"message": "hi"})
    client.post("/v1/chat/completions", json={"messages": [{"role": "system", "content": "犬です"}, USER]})
    assert [asked(chat, at)[0] for at in (0, 1)] == [f"system: {CAT.system}", "system: 犬です"]
    assert [request.sampling.max_new_tokens for request in chat.requests] == [64, 64]


def test_a_request_chooses_a_persona_and_its_own_fields_win() -> None:
    chat = ScriptedChat()
    client = client_of(chat, system="犬です", max_new_tokens=9)
    client.post("/chat", json={"message": "hi", "persona": "cat"})
    client.post("/chat", json={"message": "hi", "persona": "cat", "system": "鳥です", "temperature": 0})
    client.post("/chat", json={"message": "hi", "persona": ""})
    assert [asked(chat, at)[0] for at in (0, 1, 2)] == [f"system: {CAT.system}", "system: 鳥です", "system: 犬です"]
    assert [request.sampling.max_new_tokens for request in chat.requests] == [64, 64, 9]
    assert [request.sampling.temperature for request in chat.requests] == [0.9, 0, 0.7]


@pytest.mark.parametrize("name", ["caat", "./cat.yaml", "/etc/passwd", "cat.yaml", str(FOLDER / "cat.yaml")])
def test_a_request_can_name_no_file(name: str) -> None:
    client = client_of(ScriptedChat())
    refused = client.post("/chat", json={"message": "hi", "persona": name})
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (400, "persona")
    assert "cat" in refused.get_json()["error"]["hint"]
    refused = client.post("/v1/chat/completions", json={"messages": [USER], "model": f"persona:{name}"})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("route", "body"),
    [("chat/completions", {"messages": [USER]}), ("responses", {"input": "hi"}), ("tokenize", {"messages": [USER]})],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_model_name_chooses_a_persona(route: str, body: dict[str, Any], strict: bool) -> None:
    chat = ScriptedChat()
    reply = client_of(chat, strict_model=strict).post(f"/v1/{route}", json={**body, "model": "persona:cat"})
    assert reply.status_code == 200
    if route == "tokenize":
        assert reply.get_json()["prompt"].startswith("あなたは猫です")
    else:
        assert (asked(chat)[0], chat.requests[0].sampling.temperature) == (f"system: {CAT.system}", 0.9)


def test_a_text_to_carry_on_is_drawn_as_the_persona_says() -> None:
    chat = ScriptedChat()
    client_of(chat).post("/v1/completions", json={"prompt": "猫は", "model": "persona:cat"})
    assert (asked(chat), chat.requests[0].sampling.temperature) == (["user: 猫は"], 0.9)


def test_personas_are_listed_after_the_model_and_have_entries() -> None:
    client = client_of(ScriptedChat())
    listed = client.get("/v1/models").get_json()["data"]
    assert [model["id"] for model in listed] == ["catbot", *(f"persona:{name}" for name in bundled())]
    assert client.get("/v1/models/persona:cat").get_json() == listed[1]


# The terminal


def test_the_header_names_the_persona_where_there_is_one() -> None:
    for flags, told in (({"persona": "cat"}, [("Persona", "cat")]), ({}, [])):
        chat = Chat(Settings(**flags))
        assert [row for row in rows(chat, chat.status(), False) if row[0] == "Persona"] == told


def test_the_terminal_shows_changes_and_leaves_personas() -> None:
    chat = ScriptedChat()
    typed = ("/persona", "一", "/set temperature 1", "/persona coder", "二", "/persona -", "三")
    _, screen = talked(*typed, chat=chat, settings=Settings(persona="cat", top_k=3))
    assert screen.said[0] == "Persona: cat"
    assert "coder: A programmer who answers with code that runs" in screen.said
    assert "Persona: coder, from the next message on. /new begins anew." in screen.said
    assert [asked(chat, at)[0] for at in (0, 1)] == [f"system: {one.system}" for one in (CAT, bundled()["coder"])]
    assert asked(chat, 2)[0] == "user: 一"
    drawn = [(one.sampling.temperature, one.sampling.top_k) for one in chat.requests]
    assert drawn == [(0.9, 3), (0.2, 3), (0.7, 3)]


def test_an_unknown_persona_is_told_in_one_line_and_the_old_one_stays(tmp_path: Path) -> None:
    chat = ScriptedChat()
    _, screen = talked("/persona caat", "一", f"/persona {written(tmp_path, 'system: 鳥です')}", "二", chat=chat)
    assert screen.said[0].startswith("Error: There is no persona 'caat'. Did you mean cat?")
    assert [asked(chat, 0)[0], asked(chat, 1)[0]] == ["user: 一", "system: 鳥です"]
