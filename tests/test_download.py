"""`colab-llm-chat download`: the real program and the real Hub client, against a stand-in Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from colab_llm_chat.cli import main
from colab_llm_chat.models.hub import DEMO_FOLDER, fetch_model
from colab_llm_chat.settings import Settings
from tests.hub_standin import HubStandIn, ModelOnHub

FILES = {name: (DEMO_FOLDER / name).read_bytes() for name in ("config.json", "tokenizer.json", "model.safetensors")}
TOKEN = "hf_good"


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as standin:
        standin.models["me/cat"] = ModelOnHub(dict(FILES))
        standin.models["me/gated"] = ModelOnHub(dict(FILES), gated=True)
        yield standin


def download(hub: HubStandIn, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "colab_llm_chat", "download", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False, cwd=tmp_path
    )


def test_a_model_lies_where_it_is_wanted_and_is_served_from_there(hub: HubStandIn, tmp_path: Path) -> None:
    folder = tmp_path / "a cat"
    done = download(hub, tmp_path, "me/cat", "--to", "a cat")
    assert (done.returncode, done.stdout) == (0, f"me/cat lies in {folder}\n"), done.stderr
    assert f"serve -m '{folder}'" in done.stderr
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert fetch_model(Settings(model_id=str(folder))).folder == folder
    again, fetched = download(hub, tmp_path, "me/cat", "--to", "a cat"), hub.fetched()
    assert (again.returncode, sorted(fetched)) == (0, sorted(FILES)), again.stderr


def test_without_a_folder_it_lies_in_the_clients_cache(hub: HubStandIn, tmp_path: Path) -> None:
    done = download(hub, tmp_path, "me/cat")
    folder = Path(done.stdout.removeprefix("me/cat lies in ").strip())
    assert folder.is_relative_to(tmp_path / "home")
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_gated_model_names_its_page_and_takes_a_credential_without_showing_it(
    hub: HubStandIn, tmp_path: Path
) -> None:
    refused = download(hub, tmp_path, "me/gated", "--to", "gated")
    assert (refused.returncode == 0, "me/gated" in refused.stderr, "--hf-token" in refused.stderr) == (
        False,
        True,
        True,
    )
    done = download(hub, tmp_path, "me/gated", "--to", "gated", "-t", TOKEN)
    assert (done.returncode, TOKEN in done.stdout + done.stderr) == (0, False), done.stderr


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "config.json"
    mine.write_text("mine")
    assert main(["download", "me/cat", "--to", str(tmp_path)]) == 2
    assert main(["download", "me/cat", "--to", str(mine)]) == 2
    assert mine.read_text() == "mine"
    told = capsys.readouterr().err
    assert ("holds other files" in told, "cannot be used as a folder" in told) == (True, True)


def test_a_place_for_what_is_no_model_of_the_hub_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "catbot", "--to", str(tmp_path / "new")]) == 2
    assert "--to is for models of the Hub" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_home_that_nobody_has_is_a_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nosuchuser").write_text("mine")
    assert main(["download", "me/cat", "--to", "~nosuchuser"]) == 2


def test_what_is_here_already_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "catbot"]) == 0
    assert capsys.readouterr().out == f"catbot lies in {DEMO_FOLDER}\n"
