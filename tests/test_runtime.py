"""Whether this is Colab, and its secrets, with a stand-in `google.colab`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from colab_llm_chat.colab.runtime import OVERRIDE, in_colab, read_secret
from colab_llm_chat.errors import ColabError, SecretMissing, SecretNotGranted, SecretUnreadable
from tests.google_colab import ColabStandIn, Scenario, forget_colab

PACKAGE = Path(__file__).parent.parent / "colab_llm_chat"
NAME = "NGROK_AUTHTOKEN"
VALUE = "2abcDEF_ghiJKL"


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ColabStandIn]:
    """Colab, with one secret that the notebook may read."""
    standin = ColabStandIn(tmp_path / "site", Scenario(secrets={NAME: VALUE}))
    monkeypatch.syspath_prepend(str(standin.folder))
    monkeypatch.setenv(OVERRIDE, "1")
    monkeypatch.delenv(NAME, raising=False)
    yield standin
    forget_colab()


def refusal(name: str = NAME, *, environment_name: str | None = None) -> SecretMissing:
    with pytest.raises(SecretMissing) as caught:
        read_secret(name, environment_name=environment_name)
    return caught.value


def has_both_languages(error: ColabError) -> bool:
    english, japanese = str(error).split("\n")
    return english.isascii() and re.search("[ぁ-ん]", japanese) is not None


# Am I in Colab?


def test_a_plain_process_is_not_colab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)
    assert not in_colab()


@pytest.mark.parametrize(("shell", "there"), [("google.colab._shell", True), ("ipykernel.zmqshell", False)])
def test_colab_is_known_by_its_package_and_its_shell(
    colab: ColabStandIn, monkeypatch: pytest.MonkeyPatch, shell: str, there: bool
) -> None:
    monkeypatch.delenv(OVERRIDE)
    running = type("Shell", (), {"__module__": shell})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: running))  # type: ignore[arg-type]
    assert in_colab() is there


def test_colabs_shell_without_its_package_is_not_colab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)
    running = type("Shell", (), {"__module__": "google.colab._shell"})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: running))  # type: ignore[arg-type]
    assert not in_colab()


def test_the_variable_that_kaggle_sets_too_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab-20260819")
    assert not in_colab()


def test_the_override_can_say_no(colab: ColabStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "0")
    assert not in_colab()
    assert NAME in refusal().message
    assert colab.calls("userdata.get") == []


def test_a_kernel_in_another_process_sees_the_same_stand_in(colab: ColabStandIn) -> None:
    code = f"from colab_llm_chat.colab.runtime import read_secret; print(read_secret({NAME!r}))"
    paths = os.pathsep.join([colab.environment["PYTHONPATH"], str(PACKAGE.parent)])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **colab.environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == VALUE + "\n"


def test_nothing_but_runtime_and_drive_names_google_colab_in_code() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    pattern = re.compile(r"""^\s*(from|import) google\b|["']google\.colab\.""", re.MULTILINE)
    assert {name for name, text in sources.items() if pattern.search(text)} <= {"colab/runtime.py", "colab/drive.py"}


# Secrets


def test_a_secret_is_read_in_the_calling_thread(colab: ColabStandIn) -> None:
    assert read_secret(NAME) == VALUE
    assert [call["thread"] for call in colab.calls("userdata.get")] == [threading.current_thread().name]


@pytest.mark.parametrize("around", [" {}", "{}\n", "\t{} \r\n", "\u3000{}\u00a0"])
def test_white_space_around_a_secret_is_left_out(colab: ColabStandIn, around: str) -> None:
    colab.behave(Scenario(secrets={NAME: around.format(VALUE)}))
    assert read_secret(NAME) == VALUE


@pytest.mark.parametrize("secrets", [{}, {NAME: ""}, {NAME: " \n"}], ids=["absent", "empty", "blank"])
def test_an_absent_or_empty_secret_is_missing(colab: ColabStandIn, secrets: dict[str, str | None]) -> None:
    colab.behave(Scenario(secrets=secrets))
    error = refusal()
    assert (type(error), has_both_languages(error)) == (SecretMissing, True)
    assert "key icon" in error.hint
    assert "鍵アイコン" in error.japanese


def test_a_secret_without_notebook_access_is_told_apart(colab: ColabStandIn) -> None:
    colab.behave(Scenario(secrets={NAME: None}))
    error = refusal()
    assert (type(error), has_both_languages(error)) == (SecretNotGranted, True)
    assert "Notebook access" in error.hint


@pytest.mark.parametrize(("frontend", "told"), [("silent", "no answer"), ("error", "an error")])
def test_a_browser_that_is_gone_or_failing_is_told_apart(colab: ColabStandIn, frontend: str, told: str) -> None:
    colab.behave(Scenario(secrets={NAME: VALUE}, frontend=frontend))  # type: ignore[arg-type]
    error = refusal()
    assert (type(error), told in error.message, has_both_languages(error)) == (SecretUnreadable, True, True)


@pytest.mark.parametrize("name", ["", "MY KEY", " "])
def test_a_name_that_no_secret_can_have_is_named(colab: ColabStandIn, name: str) -> None:
    error = refusal(name)
    assert (repr(name) in error.message, has_both_languages(error)) == (True, True)


@pytest.mark.parametrize(
    "scenario",
    [Scenario(), Scenario(secrets={NAME: None}), Scenario(frontend="silent")],
    ids=["missing", "not granted", "no answer"],
)
def test_the_environment_steps_in(colab: ColabStandIn, monkeypatch: pytest.MonkeyPatch, scenario: Scenario) -> None:
    colab.behave(scenario)
    monkeypatch.setenv("MY_TOKEN", f" {VALUE}\n")
    assert read_secret(NAME, environment_name="MY_TOKEN") == VALUE


def test_colabs_secret_goes_before_the_environment(colab: ColabStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "another")
    assert read_secret(NAME) == VALUE


def test_outside_colab_the_environment_is_asked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)
    monkeypatch.setenv(NAME, VALUE)
    assert read_secret(NAME) == VALUE
    monkeypatch.setenv(NAME, "")
    assert f"variable {NAME}" in refusal().hint


def test_an_interrupt_while_waiting_for_the_browser_is_not_swallowed(
    colab: ColabStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(key: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("google.colab.userdata"), "get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_secret(NAME)


def test_no_value_reaches_the_log(colab: ColabStandIn, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    read_secret(NAME)
    assert VALUE not in caplog.text
