"""From settings to a running chat: engine, app, public address, and what a person is told on the way.

Standard output gets the links and the readiness line, standard error the rest.
"""

from __future__ import annotations

import logging
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr, ValidationError

from .chat import Chat
from .colab import orphans
from .colab.drive import keep_on_drive, settle_drive
from .colab.runtime import has_gpu, in_colab, proxy_link, read_secret, show_in_frame
from .colab.tunnel import open_tunnel
from .errors import ChatError, LoadInterrupted, SecretMissing, SecretNotGranted, UsageError
from .protocol.messages import Status
from .settings import SamplingParams, Settings
from .web.app import ChatApp, create_app
from .web.server import interrupted_once

log = logging.getLogger("colab_llm_chat")

WORKER = "worker"
CHECK_SECONDS = 0.5
# Where the form's names are not the settings' own in capitals.
FORM_NAMES = {"model_id": "MODEL_NAME", "port": "FLASK_PORT", "system": "SYSTEM_PROMPT", "domain": "NGROK_DOMAIN"}
NOT_IN_FORM = frozenset({"access_key", "ngrok_token", "host"})
# A loaded model stays as it is when these change.
BESIDE_THE_MODEL = {
    *SamplingParams.model_fields,
    *("system", "host", "port", "access_key", "allowed_hosts", "max_body_bytes", "max_message_characters"),
    *("tunnel", "domain", "ngrok_token"),
}


def serve(settings: Settings) -> None:
    """Serve until interrupted. Raises UsageError for a taken port, LoadError when the model cannot be had."""
    chat = Chat(settle_drive(settings))
    app = create_app(settings, chat)
    failure: list[ChatError] = []

    def on_ready(app: ChatApp) -> None:
        print(f"{link(app)}\nLoading {settings.model_id} …", flush=True)
        if settings.access_key == "":
            log.warning("access_key is empty: whoever reaches this server may use it")
        url = open_public(app)
        if url:
            print(f"Public URL: {url}\nIn a browser: {link(app, url)}", flush=True)
        attend(
            app,
            chat,
            on_ok=lambda: print(f"Ready: {described(chat)} at {link(app)} (Ctrl+C ends it)", flush=True),
            on_failed=failure.append,
        )

    orphans.end_orphans(WORKER)
    app.run(on_ready=on_ready)
    if failure:
        raise failure[0]


def link(app: ChatApp, url: str | None = None) -> str:
    """The address for a browser, with the access key in its fragment when one is asked for."""
    if url is None:
        host = app.settings.host
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        url = f"http://{shown}:{app.bound_port}"
    key = f"/#key={quote(app.access_key, safe='')}" if app.access_key else ""
    return f"{url}{key}"


def open_public(app: ChatApp) -> str | None:
    """The public address that the settings ask for, closed again when the app stops. Raises TunnelError, ColabError."""
    settings = app.settings
    port = app.bound_port or settings.port
    if settings.tunnel == "colab":
        return proxy_link(port)
    if settings.tunnel == "none":
        return None
    tunnel = open_tunnel(port=port, ngrok_token=settings.ngrok_token, domain=settings.domain)
    app.on_stop(tunnel.close)
    app.add_public_host(tunnel.url)
    app.on_stop(lambda: app.access.remove_public_host(tunnel.url))
    return tunnel.url


def attend(app: ChatApp, chat: Chat, *, on_ok: Callable[[], None], on_failed: Callable[[ChatError], None]) -> None:
    """In the background: wait for the model, then keep a copy of it on Drive; end the app when there is none."""

    engine = chat.engine

    def run() -> None:
        status = follow(chat)
        if engine.closed:
            return
        if status.error is not None:
            on_failed(ChatError.from_dict(status.error))
            app.shutdown()
        elif status.state == "ok":
            on_ok()
            copy = keep_on_drive(chat.settings, chat.engine.status.folder or "")
            if copy is not None:
                app.on_stop(copy.close)

    threading.Thread(target=run, name="attend", daemon=True).start()


def follow(chat: Chat, on_progress: Callable[[Status], None] = lambda status: None) -> Status:
    """Wait until the model is there, cannot be had, or the engine was closed; note the worker for the next start."""
    engine = chat.engine
    noted = None
    status = chat.status()
    while status.state == "loading" and not engine.closed:
        if engine.worker_pid not in (None, noted):
            noted = engine.worker_pid
            orphans.remember(noted, WORKER)
        on_progress(status)
        with chat.changed:
            if chat.status() == status:
                chat.changed.wait(CHECK_SECONDS)
        status = chat.status()
    return status


def described(chat: Chat) -> str:
    facts = chat.engine.status.facts
    return f"{chat.settings.model_id} on {facts['device']} ({facts['dtype']})"


class Notebook:
    """What the notebook's cells share; the settings cell makes a new one, which takes over what still fits."""

    def __init__(self, settings: Settings, *, ngrok_secret_name: str = "NGROK_AUTHTOKEN") -> None:
        self.settings = settings
        self._form = settings
        self._ngrok_secret_name = ngrok_secret_name
        self._drive_settled = False
        self._chat: Chat | None = None

    @classmethod
    def from_form(cls, form: Mapping[str, Any]) -> Notebook:
        """By the names of the settings cell. `form` is the cell's namespace, with the earlier `notebook` in a rerun."""
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
        log.setLevel(logging.INFO)
        before = form.get("notebook")
        notebook = cls(_settings_from(form), ngrok_secret_name=str(form.get("NGROK_SECRET_NAME", "")).strip())
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
            value = read_secret(self._ngrok_secret_name, environment_name="NGROK_AUTHTOKEN")
            self._set(ngrok_token=SecretStr(value))
            print(f"Read the secret / 読み取りました: {self._ngrok_secret_name}")

    def load(self) -> None:
        """Load model and tokenizer; returns when the chat can answer. Raises LoadError, or LoadInterrupted."""
        if not self._drive_settled:
            self.mount_drive()
        orphans.end_orphans(WORKER)
        chat = self._fitting_chat()
        if in_colab() and not has_gpu():
            log.warning("%s", NO_GPU)
        with interrupted_once():
            try:
                status = follow(chat.start(), _show)
            except KeyboardInterrupt:
                chat.close()
                raise _interrupted() from None
        if status.error is not None:
            chat.close()
            raise ChatError.from_dict(status.error)
        print()
        _say_ready(chat)

    def build_app(self) -> ChatApp:
        """The Flask app over the loaded model, with its routes."""
        orphans.end_orphans(WORKER)
        app = create_app(self.settings, self._fitting_chat())
        for rule in app.url_map.iter_rules():
            methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
            print(f"{', '.join(methods):<8}{rule.rule}")
        return app

    def open_tunnel(self, app: ChatApp) -> None:
        """Open the public address of a running app and say what to do with it. Raises TunnelError, ColabError."""
        chat = self._chat
        if app.settings != self.settings or chat is None or app.chat is not chat:
            raise UsageError(
                "The settings have changed since the app was built.",
                hint="Run the cells from the Drive cell on.\n"
                "設定が変わっています。ドライブのセルから順に実行してください。",
            )
        url = open_public(app)
        if self.settings.tunnel == "colab":
            print(f"{COLAB_LINK}{link(app, url)}\n{COLAB_TERMS}", flush=True)
            show_in_frame(app.bound_port or self.settings.port, link(app, ""))
        elif url is not None:
            print(f"Public URL: {url}\n{BROWSER_LINK}{link(app, url)}\n{WARNING}\n{_curl(app, url)}", flush=True)
        print(STOPPING, flush=True)
        attend(app, chat, on_ok=lambda: _say_ready(chat), on_failed=_tell_failure)

    def _fitting_chat(self) -> Chat:
        """The chat with these settings' model: the one there is, unless it has another or none."""
        if self._chat is not None and _of_model(self._chat.settings) == _of_model(self.settings):
            # Also a closed one, which starts again: a second would put the model on the GPU twice.
            return self._chat
        if self._chat is not None:
            self._chat.close()
        self._chat = Chat(self.settings)
        return self._chat

    def _take_over(self, before: Notebook) -> None:
        kept = before.settings
        self._set(access_key=kept.access_key, ngrok_token=kept.ngrok_token, hf_token=kept.hf_token)
        self._chat = before._chat
        if (before._form.model_dir, before._form.use_google_drive_cache) == (
            self._form.model_dir,
            self._form.use_google_drive_cache,
        ):
            self._set(model_dir=kept.model_dir, use_google_drive_cache=kept.use_google_drive_cache)
            self._drive_settled = before._drive_settled

    def _set(self, **changes: Any) -> None:
        self.settings = self.settings.model_copy(update=changes)


def _interrupted() -> LoadInterrupted:
    return LoadInterrupted(
        "Loading was interrupted.", japanese="読み込みを中断しました。このセルをもう一度実行してください。"
    )


def _settings_from(form: Mapping[str, Any]) -> Settings:
    """The settings that the form names; an empty field is the default. Raises UsageError naming the field."""
    names = {field: FORM_NAMES.get(field, field.upper()) for field in Settings.model_fields if field not in NOT_IN_FORM}
    given = {field: form[name] for field, name in names.items() if name in form}
    given = {field: value.strip() if isinstance(value, str) else value for field, value in given.items()}
    try:
        return Settings(**{field: value for field, value in given.items() if value not in (None, "")})
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        shown = "" if field == "hf_token" else f" (given: {given[field]!r})"
        raise UsageError(
            f"{names[field]}: {first['msg']}{shown}.",
            param=field,
            hint="Correct it in the settings cell, and run that cell again.\n"
            "設定のセルの値を直して、そのセルをもう一度実行してください。",
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
