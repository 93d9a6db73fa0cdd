"""From settings to a running chat: the form, what is loaded again, and the public address of an app."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from colab_llm_chat import launch
from colab_llm_chat.chat import Chat
from colab_llm_chat.colab.agent import end_agents
from colab_llm_chat.colab.drive import DriveCopy, keep_on_drive
from colab_llm_chat.colab.runtime import OVERRIDE
from colab_llm_chat.errors import (
    ChatError,
    ColabError,
    LoadInterrupted,
    ModelNotFound,
    NgrokTokenMissing,
    NgrokTokenRefused,
    UsageError,
)
from colab_llm_chat.errors.form import NOT_IN_FORM
from colab_llm_chat.launch import attend, link, open_public
from colab_llm_chat.models.record import RECORD, ListedFile, ModelRecord
from colab_llm_chat.notebook import BESIDE_THE_MODEL, Notebook, NotebookChat, is_outdated
from colab_llm_chat.settings import Settings
from colab_llm_chat.text.personas import bundled
from colab_llm_chat.web.app import ChatApp, create_app
from tests.chat_services import ScriptedChat, serving, wait_until
from tests.google_colab import ColabStandIn, Scenario, forget_colab
from tests.kept_kernels import with_kernels
from tests.ngrok_agent import install_agent

TOKEN = "2abcDEFghiJKLmnoPQRstuVWX_5yzABCdefGHIjklMNOpq"
FORM: dict[str, Any] = {"MODEL_NAME": "catbot", "MODEL_DIR": "", "NGROK_SECRET_NAME": "NGROK_AUTHTOKEN"}


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trace of an earlier run, and none left; the form takes over the log."""
    logger = logging.getLogger("colab_llm_chat")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setenv("XDG_CACHE_HOME", with_kernels(tmp_path / "cache"))
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(install_agent(tmp_path)))
    for name in ("NGROK_AUTHTOKEN", "HF_TOKEN", OVERRIDE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ColabStandIn]:
    standin = ColabStandIn(tmp_path / "site", Scenario(secrets={"NGROK_AUTHTOKEN": TOKEN}))
    monkeypatch.syspath_prepend(str(standin.folder))
    monkeypatch.setenv(OVERRIDE, "1")
    yield standin
    forget_colab()


def notebook(**form: Any) -> Notebook:
    return Notebook.from_form(FORM | form)


def unload(app: ChatApp) -> None:
    assert isinstance(app.chat, NotebookChat)
    app.chat.unload()


def worker_of(app: ChatApp) -> int | None:
    assert isinstance(app.chat, NotebookChat)
    return app.chat.engine.worker_pid


def scripted(**settings: Any) -> ChatApp:
    return create_app(Settings(**settings), ScriptedChat())


# The form


def test_the_form_becomes_settings_without_the_white_space_around() -> None:
    form = {"MODEL_NAME": " catbot\n", "FLASK_PORT": 5001, "SYSTEM_PROMPT": "", "NGROK_DOMAIN": " a.ngrok.app "}
    settings = notebook(**form).settings
    assert (settings.model_id, settings.port, settings.system, settings.domain) == ("catbot", 5001, None, "a.ngrok.app")


def test_every_setting_has_a_name_in_the_form_but_secrets_and_the_address() -> None:
    assert {"access_key", "ngrok_token", "host"} == NOT_IN_FORM
    assert notebook(MAX_ROWS=2, CONTEXT_LENGTH=64).settings.context_length == 64


@pytest.mark.parametrize(("name", "value"), [("FLASK_PORT", 70_000), ("QUANTIZATION", "3bit"), ("TUNNEL", "ssh")])
def test_a_wrong_value_is_refused_by_the_forms_own_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name}: .*{value}"):
        notebook(**{name: value})


def test_a_persona_in_the_form_stands_behind_its_system_prompt_and_knobs() -> None:
    settings = notebook(PERSONA=" cat ", SYSTEM_PROMPT="", TEMPERATURE=0.1).settings
    assert (settings.system, settings.max_new_tokens, settings.temperature) == (bundled()["cat"].system, 64, 0.1)
    assert notebook(PERSONA="cat", SYSTEM_PROMPT="犬です").settings.system == "犬です"
    assert notebook(PERSONA="").settings.persona is None


def test_an_unknown_persona_is_told_in_both_languages_by_the_forms_name() -> None:
    with pytest.raises(UsageError) as caught:
        notebook(PERSONA="caat")
    shown = "\n".join(caught.value._render_traceback_())
    assert ("Did you mean cat?" in shown, "PERSONA の値を使えません" in shown, "--" in shown) == (True, True, False)


def test_an_app_of_another_persona_is_outdated_and_keeps_its_model() -> None:
    first = notebook(PERSONA="cat")
    app = first.build_app()
    again = notebook(PERSONA="coder", notebook=first)
    assert is_outdated(app.settings, again.settings)
    assert again.build_app().chat is app.chat


def test_a_wrong_value_is_named_in_japanese_too() -> None:
    with pytest.raises(UsageError) as caught:
        notebook(FLASK_PORT="abc")
    assert "FLASK_PORT の値が正しくありません (given: 'abc')" in caught.value.japanese


@pytest.mark.parametrize("name", ["", "  ", None])
def test_without_a_name_of_its_own_the_ngrok_secret_has_the_usual_one(colab: ColabStandIn, name: str | None) -> None:
    started = notebook(TUNNEL="ngrok", NGROK_SECRET_NAME=name)
    started.read_secrets()
    assert started.settings.ngrok_token is not None


def test_without_any_tunnel_the_cell_tells_the_local_link(capsys: pytest.CaptureFixture[str]) -> None:
    started = notebook(TUNNEL="none", FLASK_PORT=0)
    app = started.build_app()
    links = []

    def on_ready(app: ChatApp) -> None:
        started.open_tunnel(app)
        links.append(link(app))
        app.shutdown()

    app.run(on_ready=on_ready)
    assert links[0] in capsys.readouterr().out


def test_a_wrong_hub_token_in_the_form_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        notebook(HF_TOKEN=12345)
    assert "12345" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("name", ["", "  "])
def test_a_form_without_a_model_says_what_to_fill_in(name: str) -> None:
    with pytest.raises(UsageError, match="MODEL_NAME is empty") as caught:
        notebook(MODEL_NAME=name)
    assert ("rinna/" in caught.value.hint, "空です" in caught.value.japanese) == (True, True)


@pytest.mark.parametrize("level", [logging.NOTSET, logging.CRITICAL])
def test_the_log_is_shown_once_whatever_handlers_the_root_has(level: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.StreamHandler(sys.stderr)
    before.setLevel(level)
    logging.getLogger().addHandler(before)
    try:
        notebook(notebook=notebook())
        logging.getLogger("colab_llm_chat").info("copied 1 GB")
    finally:
        logging.getLogger().removeHandler(before)
    assert capsys.readouterr().err == "INFO copied 1 GB\n"


def test_the_key_is_made_once_and_kept_in_a_rerun() -> None:
    first = notebook()
    again = notebook(notebook=first, FLASK_PORT=5001)
    assert first.settings.access_key
    assert again.settings.access_key == first.settings.access_key != notebook().settings.access_key


def test_what_was_read_is_kept_in_a_rerun(colab: ColabStandIn) -> None:
    first = notebook(TUNNEL="ngrok")
    first.read_secrets()
    again = notebook(notebook=first, TUNNEL="ngrok")
    assert again.settings.ngrok_token is not None
    assert again.settings.ngrok_token.get_secret_value() == TOKEN


def test_without_a_tunnel_no_token_is_asked_for(colab: ColabStandIn) -> None:
    notebook(TUNNEL="colab").read_secrets()
    assert [call["key"] for call in colab.calls("GetSecret")] == ["HF_TOKEN"]


def test_the_settings_beside_the_model_are_settings() -> None:
    assert set(Settings.model_fields) >= BESIDE_THE_MODEL


# Loading


def test_an_unknown_model_is_one_message_and_the_cell_can_be_run_again(tmp_path: Path) -> None:
    loading = notebook(MODEL_NAME=str(tmp_path / "none"))
    for _ in range(2):
        with pytest.raises(ModelNotFound) as caught:
            loading.load()
    shown = caught.value._render_traceback_()
    assert (len(shown), "MODEL_NAME" in shown[-1], "Traceback" in "".join(shown)) == (3, True, False)


def test_an_app_of_another_model_is_refused() -> None:
    form = {"MODEL_NAME": "catbot", "TUNNEL": "none", "USE_GOOGLE_DRIVE_CACHE": False, "MAX_ROWS": 16}
    notebook = Notebook.from_form(form)
    app = notebook.build_app()
    for rows in (3, 16):
        notebook = Notebook.from_form({**form, "MAX_ROWS": rows, "notebook": notebook})
        notebook.build_app()
    with pytest.raises(UsageError, match="changed"):
        notebook.open_tunnel(app)


def test_an_outdated_app_is_refused_before_anything_is_started() -> None:
    built = notebook(TUNNEL="none")
    app = built.build_app()
    notebook(TUNNEL="none", SYSTEM_PROMPT="猫です。", notebook=built)
    with pytest.raises(UsageError, match="changed"):
        app.run(port=0)
    assert worker_of(app) is None


def test_an_app_of_a_model_that_was_replaced_does_not_load_it_again() -> None:
    built = notebook(TUNNEL="none")
    app = built.build_app()
    notebook(TUNNEL="none", MAX_ROWS=3, notebook=built).build_app()
    with pytest.raises(UsageError, match="changed"):
        app.run(port=0)
    assert worker_of(app) is None


def refused_a_taken_port(app: ChatApp) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(UsageError) as caught:
        app.run(port=other.getsockname()[1])
    assert "FLASK_PORT" in caught.value._render_traceback_()[1]


def test_a_taken_port_or_a_refused_token_is_corrected_without_a_new_app_and_the_model_stays(
    colab: ColabStandIn,
) -> None:
    colab.behave(Scenario(secrets={"NGROK_AUTHTOKEN": "not a token"}))
    first = notebook(TUNNEL="ngrok")
    first.read_secrets()
    first.load()
    app = first.build_app()
    worker = worker_of(app)
    refused_a_taken_port(app)
    assert worker_of(app) == worker is not None
    with pytest.raises(NgrokTokenRefused):
        app.run(port=0, on_ready=first.open_tunnel)
    colab.behave(Scenario(secrets={"NGROK_AUTHTOKEN": TOKEN}))
    first.read_secrets()
    opened: list[int | None] = []

    def on_ready(app: ChatApp) -> None:
        first.open_tunnel(app)
        opened.append(worker_of(app))
        app.shutdown()

    app.run(port=0, on_ready=on_ready)
    assert (opened, worker_of(app)) == ([worker], None)


def test_a_closed_chat_is_taken_up_again_and_a_worker_that_replaces_another_is_noted_for_the_next_start_too(
    tmp_path: Path,
) -> None:
    loading = notebook(TUNNEL="none")
    app = loading.build_app()
    for _ in range(2):
        unload(app)
        loading.load()
        # Instead of a second one.
        assert loading.build_app().chat is app.chat
    first = worker_of(app)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: worker_of(app) not in (None, first))
    second = worker_of(app)
    notes = tmp_path / "cache" / "colab_llm_chat" / "processes"
    wait_until(lambda: (notes / f"worker-{second}.json").exists())
    unload(app)


def test_an_interrupt_while_loading_closes_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = notebook()

    def pressed(_: Chat) -> Chat:
        raise KeyboardInterrupt

    monkeypatch.setattr(NotebookChat, "load", pressed)
    with pytest.raises(LoadInterrupted) as caught:
        loading.load()
    assert "中断" in caught.value._render_traceback_()[-1]
    assert loading.build_app().chat.status().state == "failed"


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_runtime_without_a_gpu_is_told_before_the_model_loads(
    colab: ColabStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_gpu: bool,
) -> None:
    if has_gpu:
        (tmp_path / "nvidia-smi").touch(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelNotFound):
        notebook(MODEL_NAME=str(tmp_path / "none")).load()
    assert ("GPU がありません" in capsys.readouterr().err) != has_gpu


# The public address


def test_the_public_address_lasts_as_long_as_the_app_runs() -> None:
    order: list[str] = []
    app = scripted(tunnel="ngrok", ngrok_token=TOKEN)
    with serving(app):
        assert app.access_key is None
        url = open_public(app)
        app.on_stop(lambda: order.append("stopped"))
        assert (url or "").startswith("http://127.0.0.1:")
        assert link(app, url) == f"{url}/#key={app.access_key}"
    assert (order, app.access_key) == (["stopped"], None)


def test_an_agent_that_dies_is_told_in_both_languages_and_one_that_is_closed_is_not() -> None:
    lost: list[ChatError] = []
    for dies in (False, True):
        with serving(scripted(tunnel="ngrok", ngrok_token=TOKEN)) as app:
            url = open_public(app, on_lost=lost.append) or ""
            if dies:
                end_agents()
                wait_until(lambda: bool(lost))
    [error] = lost
    assert (url in error.message, url in error.japanese, "start it again" in error.hint) == (True, True, True)


def test_the_command_prints_the_public_address_and_an_interrupt_closes_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "colab_llm_chat", "serve", "--port", "0", "--tunnel", "ngrok"]
    hearing = signal.signal(signal.SIGINT, signal.default_int_handler)
    environment = {**os.environ, "NGROK_AUTHTOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, stdout=PIPE, stderr=PIPE, encoding="utf-8") as process:
        signal.signal(signal.SIGINT, hearing)
        url = next(line for line in process.stdout or () if line.startswith("Public URL: ")).split()[-1]
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(f"{url}/chat", b"{}", timeout=30)
        refused.value.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, TOKEN in out + err, "Traceback" in err) == (0, False, False)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=30)


def test_no_public_address_is_opened_unasked() -> None:
    assert open_public(scripted()) is None


def test_a_missing_token_is_told_by_its_own_error() -> None:
    with pytest.raises(NgrokTokenMissing):
        open_public(scripted(tunnel="ngrok"))


def test_colabs_own_link_needs_colab() -> None:
    with pytest.raises(ColabError, match="Only a Colab notebook"):
        open_public(scripted(tunnel="colab"))


def test_colabs_own_link_is_that_of_the_port(colab: ColabStandIn) -> None:
    assert open_public(scripted(tunnel="colab", port=5002)) == "https://abc-5002-colab.googleusercontent.com"


def test_a_browser_that_is_gone_is_told_in_both_languages(colab: ColabStandIn) -> None:
    colab.behave(Scenario(frontend="error"))
    with pytest.raises(ColabError) as caught:
        open_public(scripted(tunnel="colab"))
    assert "リンク" in caught.value.japanese


# The end of a run


def test_what_is_to_happen_at_the_end_happens_once_and_before_the_pipeline_closes() -> None:
    chat = ScriptedChat()
    app = create_app(Settings(), chat)
    seen: list[bool] = []
    for _ in range(2):
        with serving(app):
            app.on_stop(lambda: seen.append(chat.closed.is_set()))
    assert seen == [False, False]


def test_a_copy_to_drive_that_begins_as_the_run_ends_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, model_dir = tmp_path / "local", tmp_path / "drive"
    local.mkdir()
    (local / "config.json").write_text("{}")
    ModelRecord(None, "c1", {"config.json": ListedFile(2, "b1")}).write(local / RECORD)
    settings = Settings(use_google_drive_cache=True, model_dir=str(model_dir))
    stopped = threading.Event()
    copies: list[DriveCopy | None] = []
    chat = Chat(settings)
    app = create_app(settings, chat)

    def late(settings: Settings, _: str, *, closing: threading.Event) -> DriveCopy | None:
        app.shutdown()
        assert stopped.wait(60)
        copies.append(keep_on_drive(settings, str(local), closing=closing))
        return copies[0]

    monkeypatch.setattr(launch, "keep_on_drive", late)
    app.run(port=0, on_ready=lambda app: attend(app, chat, on_ok=lambda: None, on_failed=lambda _: app.shutdown()))
    stopped.set()
    wait_until(lambda: bool(copies))
    assert copies[0] is not None
    assert (copies[0].join(60), [*model_dir.rglob("*.json")]) == (True, [])


def test_an_end_that_fails_still_closes_server_and_pipeline() -> None:
    chat = ScriptedChat()
    app = create_app(Settings(), chat)
    stop = threading.Event()

    def on_ready(app: ChatApp) -> None:
        app.on_stop(lambda: 1 / 0)
        stop.set()

    with pytest.raises(ZeroDivisionError):
        app.run(port=0, on_ready=on_ready, stop_event=stop)
    assert (chat.closed.is_set(), app.bound_port) == (True, None)
