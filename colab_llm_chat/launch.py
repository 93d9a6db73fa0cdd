"""From settings to a running chat: engine, app, server, and what a person is told on the way.

Standard output gets the link and the readiness line, standard error the rest.
"""

from __future__ import annotations

import logging
import threading
from urllib.parse import quote

from .chat import Chat
from .errors import ChatError
from .settings import Settings
from .web.app import ChatApp, create_app

log = logging.getLogger("colab_llm_chat")


def serve(settings: Settings) -> None:
    """Serve until interrupted. Raises UsageError for a taken port, LoadError when the model cannot be had."""
    chat = Chat(settings)
    app = create_app(settings, chat)
    failure: list[ChatError] = []

    def on_ready(app: ChatApp) -> None:
        print(f"{link(app)}\nLoading {settings.model_id} …", flush=True)
        if settings.access_key == "":
            log.warning("access_key is empty: whoever reaches this server may use it")
        threading.Thread(target=_announce, args=(chat, app, failure), daemon=True).start()

    app.run(on_ready=on_ready)
    if failure:
        raise failure[0]


def link(app: ChatApp) -> str:
    """The address for a browser, with the access key in its fragment when one is asked for."""
    host = app.settings.host
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    key = f"/#key={quote(app.access_key, safe='')}" if app.access_key else ""
    return f"http://{shown}:{app.bound_port}{key}"


def _announce(chat: Chat, app: ChatApp, failure: list[ChatError]) -> None:
    with chat.changed:
        chat.changed.wait_for(lambda: chat.status().state != "loading")
    status = chat.status()
    if status.state == "ok":
        facts = chat.engine.status.facts
        where = f"{status.model_id} on {facts['device']} ({facts['dtype']})"
        print(f"Ready: {where} at {link(app)} (Ctrl+C ends it)", flush=True)
    elif status.error is not None:
        failure.append(ChatError.from_dict(status.error))
        app.shutdown()
