"""Simon Willison's `llm`, told of the server by its extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.served_model import KEY, ServedModel

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Kyoto", "Nara"]}, "days": {"type": "integer", "enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
SEEDED = ("-o", "seed", "7", "-o", "max_tokens", "24")


class Llm:
    """The command with a folder of its own."""

    def __init__(self, folder: Path, served: ServedModel) -> None:
        self.folder = folder
        open_model = {"model_id": "tiny", "model_name": served.model, "api_base": f"{served.url}/v1"}
        models = [
            {**open_model, "supports_schema": True},
            {**open_model, "model_id": "locked", "api_base": f"{served.locked_url}/v1", "api_key_name": "tiny"},
            {**open_model, "model_id": "old", "completion": True},
            {**open_model, "model_id": "new", "responses": True},
        ]
        (folder / "extra-openai-models.yaml").write_text(yaml.safe_dump(models), encoding="utf-8")

    def run(self, *words: str, answers: str | None = None) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "OPENAI_"))}
        return subprocess.run(
            [sys.executable, "-m", "llm", *words],
            env=inherited | {"LLM_USER_PATH": str(self.folder), "PYTHONIOENCODING": "utf-8"},
            input=answers,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )

    def __call__(self, *words: str) -> str:
        ran = self.run(*words)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@pytest.fixture
def llm(tmp_path: Path, served_model: ServedModel) -> Llm:
    return Llm(tmp_path, served_model)


def test_the_model_is_among_those_it_knows(llm: Llm) -> None:
    assert "tiny" in llm("models", "list")


def test_a_streamed_reply_is_the_whole_one(llm: Llm) -> None:
    streamed = llm("Hello", "-m", "tiny", *SEEDED)
    assert streamed.strip()
    assert llm("Hello", "-m", "tiny", "--no-stream", *SEEDED) == streamed


def test_a_conversation_goes_on(llm: Llm) -> None:
    llm("Hello", "-m", "tiny", "-s", "Be brief.", *SEEDED)
    llm("And now?", "-c", *SEEDED)
    first, second = sorted(json.loads(llm("logs", "--json")), key=lambda one: one["input_tokens"])
    assert first["conversation_id"] == second["conversation_id"]
    assert second["input_tokens"] > first["input_tokens"] + first["output_tokens"]
    assert first["output_tokens"] == 24


def test_a_schema_gives_json(llm: Llm) -> None:
    told = llm("Where to?", "-m", "tiny", "--schema", json.dumps(SCHEMA), "-o", "max_tokens", "200")
    assert json.loads(told)["city"] in ("Kyoto", "Nara")


@pytest.mark.parametrize("model", ["old", "new"])
def test_its_other_two_kinds_of_model_answer(llm: Llm, model: str) -> None:
    assert llm("Hello", "-m", model, "-o", "max_tokens", "24").strip()


def test_a_key_opens_a_locked_server(llm: Llm) -> None:
    assert llm("Hello", "-m", "locked", "--key", KEY, *SEEDED).strip()
    refused = llm.run("Hello", "-m", "locked", "--key", "wrong", *SEEDED)
    assert (refused.returncode, "access key" in refused.stderr) == (1, True)
