"""From settings to a running chat: engine, app, public address, and what a person is told on the way.

Standard output gets the links and the readiness line, standard error the rest.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from urllib.parse import quote

from .chat import Chat
from .colab import agent_errors, orphans
from .colab.drive import keep_on_drive, settle_drive
from .colab.runtime import proxy_link
from .colab.tunnel import Tunnel, open_tunnel
from .errors import ChatError
from .protocol.messages import Status
from .settings import Settings
from .text.personas import each_persona, with_persona
from .web.app import ChatApp, create_app

log = logging.getLogger("colab_llm_chat")

WORKER = "worker"
CHECK_SECONDS = 0.5


def serve(settings: Settings) -> None:
    """Serve until interrupted. Raises UsageError for a taken port, LoadError when the model cannot be had."""
    personas = each_persona(settings)
    settings = with_persona(settings)
    chat = Chat(settle_drive(settings), on_spawn=note_worker)
    app = create_app(settings, chat, personas=personas)
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

    orphans.end_orphans()
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


def note_worker(pid: int) -> None:
    """Have the next start end this worker, should this process be killed hard."""
    orphans.remember(pid, WORKER)


def open_public(
    app: ChatApp, settings: Settings | None = None, *, on_lost: Callable[[ChatError], None] | None = None
) -> str | None:
    """The public address that the settings (the app's own, or newer ones) ask for, closed again when the app stops.

    `on_lost` is told when it leads nowhere before that. Raises TunnelError, ColabError.
    """
    settings = settings or app.settings
    port = app.bound_port or settings.port
    if settings.tunnel == "colab":
        return proxy_link(port)
    if settings.tunnel == "none":
        return None
    tunnel = open_tunnel(port=port, ngrok_token=settings.ngrok_token, domain=settings.domain)
    app.on_stop(tunnel.close)
    app.add_public_host(tunnel.url)
    app.on_stop(lambda: app.access.remove_public_host(tunnel.url))
    _watch(app, tunnel, on_lost or _log_loss)
    return tunnel.url


def _watch(app: ChatApp, tunnel: Tunnel, on_lost: Callable[[ChatError], None]) -> None:
    """Nobody behind a dead agent's address hears of its end: visitors see ngrok's page, and the server goes on."""
    closing = threading.Event()

    def run() -> None:
        while not closing.wait(CHECK_SECONDS):
            if not tunnel.alive:
                on_lost(agent_errors.lost(tunnel.url))
                break

    watch = threading.Thread(target=run, name="tunnel-watch", daemon=True)
    # Before the tunnel is closed, which would look like a loss.
    app.on_stop(watch.join)
    app.on_stop(closing.set)
    watch.start()


def _log_loss(error: ChatError) -> None:
    log.error("%s %s", error.message, error.hint)


def attend(app: ChatApp, chat: Chat, *, on_ok: Callable[[], None], on_failed: Callable[[ChatError], None]) -> None:
    """In the background: wait for the model, then keep a copy of it on Drive; end the app when there is none."""
    engine = chat.engine
    closing = threading.Event()
    # Now, since the app may have stopped by the time that there is a copy to end.
    app.on_stop(closing.set)

    def run() -> None:
        status = follow(chat)
        if engine.closed:
            return
        if status.error is not None:
            on_failed(ChatError.from_dict(status.error))
            app.shutdown()
        elif status.state == "ok":
            on_ok()
            copy = keep_on_drive(chat.settings, engine.status.folder or "", closing=closing)
            if copy is not None:
                app.on_stop(copy.close)

    threading.Thread(target=run, name="attend", daemon=True).start()


def follow(chat: Chat, on_progress: Callable[[Status], None] = lambda status: None) -> Status:
    """Wait until the model is there, cannot be had, or the engine was closed."""
    engine = chat.engine
    status = chat.status()
    while status.state == "loading" and not engine.closed:
        on_progress(status)
        with chat.changed:
            if chat.status() == status:
                chat.changed.wait(CHECK_SECONDS)
        status = chat.status()
    return status


def described(chat: Chat) -> str:
    """The model, and where it runs; the engine may have been closed meanwhile, and then says nothing of that."""
    facts = chat.engine.status.facts
    return chat.settings.model_id + (f" on {facts['device']} ({facts['dtype']})" if facts else "")
