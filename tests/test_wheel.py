"""What is shipped: source archive and wheel, built and installed for real, run away from the checkout."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from colab_llm_chat.settings import VERSION

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a fresh environment with the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    # A path named in a .pth file gets no .pth files of its own read, so an editable install stays out.
    paths = [path for path in sys.path if path.endswith("-packages")]
    (next(folder.glob("lib/python*/site-packages")) / "dependencies.pth").write_text("\n".join(paths))
    return folder / "bin"


@contextlib.contextmanager
def serving(programs: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The installed command at work in `folder`: its process and its port."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(programs / "colab-llm-chat"), "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            link = next(iter(process.stdout or ()))
            yield process, int(link.rpartition(":")[2])
        finally:
            process.terminate()


def fetched(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()


def files_under(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


def test_an_installed_wheel_serves_page_files_and_replies(installed: Path, tmp_path: Path) -> None:
    with serving(installed, tmp_path) as (process, port):
        status, page = fetched(port, "GET", "/")
        assert (status, b"<!doctype html>" in page.lower()) == (200, True)
        for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.decode()):
            assert fetched(port, "GET", path)[0] == 200, path
        status, reply = fetched(port, "POST", "/chat", '{"message": "おはよう"}'.encode())
        assert (status, b'"success": true' in reply) == (200, True)
        process.terminate()
        assert process.wait(60) == 0


def test_the_installed_package_is_the_wheels_own(installed: Path, tmp_path: Path) -> None:
    script = "import colab_llm_chat, flask; print(colab_llm_chat.__file__, colab_llm_chat.__version__)"
    command = [str(installed / "python"), "-P", "-c", script]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    file, version = ran.stdout.split()
    assert (Path(file).is_relative_to(installed.parent), version) == (True, VERSION)


def test_the_wheel_holds_page_demo_model_chat_templates_and_personas(names: set[str]) -> None:
    places = {
        "templates": "colab_llm_chat/web/templates",
        "static": "colab_llm_chat/web/static",
        "colab_llm_chat/models/demo": "colab_llm_chat/models/demo",
        "colab_llm_chat/models/chat_templates": "colab_llm_chat/models/chat_templates",
        "colab_llm_chat/text/personas": "colab_llm_chat/text/personas",
    }
    expected = {f"{to}/{name}" for source, to in places.items() for name in files_under(ROOT / source)}
    assert {"colab_llm_chat/models/demo/model.safetensors", "colab_llm_chat/web/templates/index.html"} <= expected
    assert {"colab_llm_chat/models/chat_templates/llama_2.jinja", "colab_llm_chat/text/personas/cat.yaml"} <= expected
    assert expected <= names


def test_the_wheel_holds_the_package_and_nothing_else(names: set[str]) -> None:
    modules = {f"colab_llm_chat/{name}" for name in files_under(ROOT / "colab_llm_chat") if name.endswith(".py")}
    assert modules <= names
    assert {name.partition("/")[0] for name in names} == {"colab_llm_chat", f"colab_llm_chat-{VERSION}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or "/." in name]


def test_the_demo_model_stays_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "colab_llm_chat/models/demo").iterdir()) <= 8 * 2**20


def test_licence_and_readme_travel_along(built: Path, wheel: Path, names: set[str]) -> None:
    top = f"colab_llm_chat-{VERSION}"
    with tarfile.open(built / f"{top}.tar.gz") as archive:
        assert {f"{top}/LICENSE", f"{top}/README.md", f"{top}/pyproject.toml"} <= set(archive.getnames())
    assert f"{top}.dist-info/licenses/LICENSE" in names
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{top}.dist-info/METADATA").decode()
    assert "License-Expression: MIT" in metadata
    assert "# colab-llm-chat" in metadata


def test_requirements_are_the_projects_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert required == project["dependencies"]
    assert not [line for line in required if "==" in line]
