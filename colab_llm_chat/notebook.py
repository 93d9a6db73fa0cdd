"""The notebook's cells: each calls one method of `Notebook`, which tells in both languages what there is to do.

Knows the order of the cells and what a rerun may keep, not how a model is loaded or an address opened.
"""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr, ValidationError

from .chat import Chat
from .colab import orphans
from .colab.drive import settle_drive
from .colab.runtime import has_gpu, in_colab, read_secret, show_in_frame
from .errors import ChatError, LoadInterrupted, SecretMissing, SecretNotGranted, UsageError
from .errors.form import NOT_IN_FORM, form_name
from .launch import attend, described, follow, link, note_worker, open_public
from .protocol.messages import Status
from .settings import DEMO_MODEL, SamplingParams, Settings
from .text.personas import each_persona, with_persona
from .web.app import ChatApp, create_app
from .web.server import interrupted_once

log = logging.getLogger("colab_llm_chat")

NGROK_SECRET = "NGROK_AUTHTOKEN"
MODEL_OF_THE_FORM = "rinna/llama-3-youko-8b"
# A loaded model stays as it is when these change.
BESIDE_THE_MODEL = {
    *SamplingParams.model_fields,
    *("system", "persona", "host", "port", "access_key", "allowed_hosts", "max_body_bytes", "max_message_characters"),
    *("tunnel", "domain", "ngrok_token"),
}


class NotebookChat(Chat):
    """The pipeline, of which the notebook keeps the model when the last cell could not open the app.

    An app closes it at the end of each run, also of one that failed; only a run that was opened unloads the model.
    `served_by` are the settings of the newest app over it, `wanted` those of the form, None when it has been replaced.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, on_spawn=note_worker)
        self.served_by: Settings | None = None
        self.wanted: Settings | None = settings
        self._runs = False

    def start(self) -> Chat:
        """Called by an app whose port is bound. Raises UsageError, before anything is loaded, for an outdated app."""
        if self.wanted is None or (self.served_by is not None and is_outdated(self.served_by, self.wanted)):
            raise settings_changed()
        self._runs = True
        return self.load()

    def load(self) -> Chat:
        """Start the engine, whatever app there is."""
        return super().start()

    def keep(self) -> None:
        """The run that is about to end could not be opened: leave the model loaded."""
        self._runs = False

    def close(self) -> None:
        if self._runs:
            self.unload()

    def unload(self) -> None:
        """End every reply and the engine; returns when its memory is free."""
        self._runs = False
        super().close()


class Notebook:
    """What the notebook's cells share; the settings cell makes a new one, which takes over what still fits."""

    def __init__(self, settings: Settings, *, ngrok_secret_name: str = NGROK_SECRET) -> None:
        self.settings = with_persona(settings)
        self._form = settings
        self._ngrok_secret_name = ngrok_secret_name
        self._drive_settled = False
        self._chat: NotebookChat | None = None

    @classmethod
    def from_form(cls, form: Mapping[str, Any]) -> Notebook:
        """By the names of the settings cell. `form` is the cell's namespace, with the earlier `notebook` in a rerun."""
        show_log()
        before = form.get("notebook")
        secret_name = str(form.get("NGROK_SECRET_NAME") or "").strip() or NGROK_SECRET
        notebook = cls(_settings_from(form), ngrok_secret_name=secret_name)
        if isinstance(before, cls):
            notebook._take_over(before)
        else:
            notebook._set(access_key=notebook.settings.access_key or secrets.token_urlsafe(24))
        print(f"{notebook.settings.model_id}: port {notebook.settings.port}, tunnel {notebook.settings.tunnel}")
        return notebook

    def mount_drive(self) -> None:
        """Mount Drive when it is to keep the model; one warning when it cannot, and the chat goes on without."""
        settled = settle_drive(self._form)
        self._set(model_dir=settled.model_dir, use_google_drive_cache=settled.use_google_drive_cache)
        self._drive_settled = True
        print(f"Models are kept in / 保存先: {self.settings.model_dir or 'the local disk / ローカルディスク'}")

    def read_secrets(self) -> None:
        """The ngrok token when a tunnel needs it, the Hub's credential when there is one. Raises SecretMissing."""
        self._set(hf_token=_optional_secret("HF_TOKEN") or self._form.hf_token)
        if self.settings.tunnel == "ngrok":
            value = read_secret(self._ngrok_secret_name, environment_name=NGROK_SECRET)
            self._set(ngrok_token=SecretStr(value))
            print(f"Read the secret / 読み取りました: {self._ngrok_secret_name}")

    def load(self) -> None:
        """Load model and tokenizer; returns when the chat can answer. Raises LoadError, or LoadInterrupted."""
        if not self._drive_settled:
            self.mount_drive()
        orphans.end_orphans()
        chat = self._fitting_chat()
        if in_colab() and not has_gpu():
            log.warning("%s", NO_GPU)
        with interrupted_once():
            try:
                status = follow(chat.load(), _show)
            except KeyboardInterrupt:
                chat.unload()
                raise _interrupted() from None
            finally:
                # Below the line that tells how far it is.
                print()
        if status.error is not None:
            chat.unload()
            raise ChatError.from_dict(status.error)
        _say_ready(chat)

    def build_app(self) -> ChatApp:
        """The Flask app over the loaded model, with its routes."""
        orphans.end_orphans()
        chat = self._fitting_chat()
        app = create_app(self.settings, chat, personas=each_persona(self._form))
        chat.served_by = app.settings
        for rule in app.url_map.iter_rules():
            methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
            print(f"{', '.join(methods):<8}{rule.rule}")
        return app

    def open_tunnel(self, app: ChatApp) -> None:
        """Open the public address of a running app and say what to do with it. Raises TunnelError, ColabError."""
        chat = self._chat
        try:
            if chat is None or app.chat is not chat or is_outdated(app.settings, self.settings):
                raise settings_changed()
            # The token as it is now: to correct it no new app is needed.
            url = open_public(app, self.settings, on_lost=_tell_failure)
        except ChatError:
            if chat is not None:
                chat.keep()
            raise
        if self.settings.tunnel == "colab":
            print(f"{COLAB_LINK}{link(app, url)}\n{COLAB_TERMS}", flush=True)
            show_in_frame(app.bound_port or self.settings.port, link(app, ""))
        elif url is not None:
            print(f"Public URL: {url}\n{BROWSER_LINK}{link(app, url)}\n{WARNING}\n{_curl(app, url)}", flush=True)
        else:
            print(f"{LOCAL_LINK}{link(app)}\n{WARNING}\n{_curl(app, f'http://127.0.0.1:{app.bound_port}')}", flush=True)
        print(STOPPING, flush=True)
        attend(app, chat, on_ok=lambda: _say_ready(chat), on_failed=_tell_failure)

    def _fitting_chat(self) -> NotebookChat:
        """The chat with these settings' model: the one there is, unless it has another or none."""
        if self._chat is not None and _of_model(self._chat.settings) == _of_model(self.settings):
            # Also a closed one, which starts again: a second would put the model on the GPU twice.
            return self._chat
        if self._chat is not None:
            self._chat.unload()
            self._chat.wanted = None
        self._chat = NotebookChat(self.settings)
        return self._chat

    def _take_over(self, before: Notebook) -> None:
        kept = before.settings
        self._chat = before._chat
        self._set(access_key=kept.access_key, ngrok_token=kept.ngrok_token, hf_token=kept.hf_token)
        if (before._form.model_dir, before._form.use_google_drive_cache) == (
            self._form.model_dir,
            self._form.use_google_drive_cache,
        ):
            self._set(model_dir=kept.model_dir, use_google_drive_cache=kept.use_google_drive_cache)
            self._drive_settled = before._drive_settled

    def _set(self, **changes: Any) -> None:
        self.settings = self.settings.model_copy(update=changes)
        if self._chat is not None:
            self._chat.wanted = self.settings


class _CellLog(logging.Handler):
    """Lines on the standard error of the moment: each cell has its own."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def show_log() -> None:
    """Our log below the cells, once and in our format, whatever handlers Colab's packages have given the root."""
    handler = _CellLog()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)


def is_outdated(built: Settings, wanted: Settings) -> bool:
    """Whether an app of the first settings is not what the second ask for; the ngrok token is read when it is used."""
    return built.model_copy(update={"ngrok_token": wanted.ngrok_token}) != wanted


def settings_changed() -> UsageError:
    return UsageError(
        "The settings have changed since the app was built.",
        hint="Run the cells from the Drive cell on.",
        japanese="設定が変わっています。ドライブのセルから順に実行してください。",
    )


def _interrupted() -> LoadInterrupted:
    return LoadInterrupted(
        "Loading was interrupted.", japanese="読み込みを中断しました。このセルをもう一度実行してください。"
    )


def _settings_from(form: Mapping[str, Any]) -> Settings:
    """The settings that the form names; an empty field is the default. Raises UsageError naming the field."""
    names = {field: form_name(field) for field in Settings.model_fields if field not in NOT_IN_FORM}
    given = {field: form[name] for field, name in names.items() if name in form}
    given = {field: value.strip() if isinstance(value, str) else value for field, value in given.items()}
    if given.get("model_id") == "":
        raise UsageError(
            f"{names['model_id']} is empty.",
            param="model_id",
            hint=f'Give a model by its Hub id, such as "{MODEL_OF_THE_FORM}"; "{DEMO_MODEL}" is a tiny one to try out.',
            japanese=f'{names["model_id"]} が空です。"{MODEL_OF_THE_FORM}" のように Hub の ID を入れてください'
            f'("{DEMO_MODEL}" はお試し用の小さいモデルです)。',
        )
    try:
        return Settings(**{field: value for field, value in given.items() if value not in (None, "")})
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        shown = "" if field == "hf_token" else f" (given: {given[field]!r})"
        raise UsageError(
            f"{names[field]}: {first['msg']}{shown}.",
            param=field,
            hint="Correct it in the settings cell, and run that cell again.",
            japanese=f"{names[field]} の値が正しくありません{shown}。設定のセルの値を直して、そのセルをもう一度実行して"
            "ください。",
        ) from None


def _of_model(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(exclude=BESIDE_THE_MODEL)


def _optional_secret(name: str) -> SecretStr | None:
    try:
        return SecretStr(read_secret(name))
    except SecretNotGranted as error:
        log.warning("%s", error)
    except SecretMissing:
        log.debug("there is no secret %s", name)
    return None


def _show(status: Status) -> None:
    print(f"\r{status.progress:4.0%} {status.detail[:70]:<70}", end="", flush=True)


def _say_ready(chat: Chat) -> None:
    print(f"Ready / 準備完了: {described(chat)}", flush=True)


def _tell_failure(error: ChatError) -> None:
    print("\n".join(error._render_traceback_()), file=sys.stderr, flush=True)


def _curl(app: ChatApp, url: str) -> str:
    key = f" -H 'Authorization: Bearer {app.access_key}'" if app.access_key else ""
    return f"curl {url}/chat{key} -H 'Content-Type: application/json' -d '{{\"message\": \"こんにちは\"}}'"


BROWSER_LINK = "In a browser / ブラウザで開く: "
LOCAL_LINK = "On this machine only / このマシンの中だけのリンク: "
COLAB_LINK = "In this browser only / このブラウザ専用のリンク: "
WARNING = (
    "Warning: the link and the command below contain the access key, and saved outputs of this notebook contain "
    "them. Clear this output before you share the notebook.\n"
    "注意: 上のリンクと下のコマンドにはアクセスキーが含まれ、ノートブックの出力を保存するとその中に残ります。"
    "ノートブックを共有する前に、この出力を消去してください。"
)
COLAB_TERMS = (
    "Colab's terms do not allow bypassing the notebook to work mainly through a web page on free runtimes; this page "
    "stays inside your own notebook, which keeps to them. The link contains the access key: clear this output before "
    "you share the notebook.\n"
    "Colab の規約では、無料のランタイムでノートブックの代わりに主に Web 画面を使うことは認められていません。この方法は"
    "自分のノートブックの中でページを表示するため、規約に沿っています。リンクにはアクセスキーが含まれます。"
    "ノートブックを共有する前に、この出力を消去してください。"
)
STOPPING = (
    "To stop: the cell's ■, or Runtime > Interrupt execution. / "
    "止めるには: セルの ■、または「ランタイム」>「実行を中断」。"
)
NO_GPU = (
    "This runtime has no GPU: a large model will not fit or answer very slowly. Runtime > Change runtime type > A100, "
    "or a smaller model in MODEL_NAME.\n"
    "このランタイムには GPU がありません。「ランタイム」>「ランタイムのタイプを変更」で A100 を選ぶか、"
    "MODEL_NAME に小さいモデルを指定してください。"
)
