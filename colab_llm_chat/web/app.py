"""The web application: `create_app` joins settings, access rules, routes and a pipeline into a ChatApp.

Knows nothing of models: the pipeline is any ChatService.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from ..errors import ChatError, UsageError
from ..protocol.messages import ChatService
from ..settings import BACKGROUND_PLACES, Settings
from ..text.personas import each_persona
from . import render
from .access import Access
from .chat_routes import chat_routes
from .live_replies import LiveReplies
from .metrics import Metrics, metrics_routes
from .openai_routes import openai_routes
from .page_routes import page_routes
from .server import Server, interrupted_once, serve_until

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class ChatApp(Flask):
    """Flask with the chat's parts: `settings`, those that each of the `personas` brings to a request that names it,
    `chat` (the pipeline), `access`, `metrics`, and the `live` replies.
    """

    def __init__(self, settings: Settings, chat: ChatService, personas: Mapping[str, Settings]) -> None:
        super().__init__(__name__, template_folder=_folder("templates"), static_folder=_folder("static"))
        self.settings = settings
        self.personas = personas
        self.chat = chat
        self.access = Access(settings)
        self.live = LiveReplies()
        self.metrics = Metrics(lambda: (chat.stats(), chat.status(), self.live.count))
        self._server: Server | None = None
        self._stop = threading.Event()
        self._at_stop = contextlib.ExitStack()
        # X-Forwarded-Host is never believed, or it could talk its way past the Host check.
        self._behind_proxy = ProxyFix(super().wsgi_app, x_for=1, x_proto=1, x_host=0)

    @property
    def access_key(self) -> str | None:
        """The key that opens the server; None while none is asked for."""
        return self.access.key

    @property
    def bound_port(self) -> int | None:
        """The port in use while the server runs."""
        return self._server.port if self._server and self._server.is_alive else None

    def add_public_host(self, host: str) -> None:
        """Register the public name (host or URL) of a tunnel; from now on the access key is asked for."""
        self.access.add_public_host(host)

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self.access.trusts_proxy(environ):
            return self._behind_proxy(environ, start_response)
        return super().wsgi_app(environ, start_response)

    def run(
        self,
        host: str | None = None,
        port: int | None = None,
        *rest: Any,
        on_ready: Callable[[ChatApp], None] | None = None,
        stop_event: threading.Event | None = None,
        **options: Any,
    ) -> None:
        """Serve until KeyboardInterrupt, SIGTERM, `shutdown()` or `stop_event`; then end everything and return.

        `on_ready` is called once the port is bound and answers. However it ends, the pipeline is closed.
        """
        if rest or options:
            named = ", ".join(options) or "further arguments"
            raise UsageError(f"run() does not take {named}.", hint="It takes host, port, on_ready and stop_event.")
        self._stop = stop_event or threading.Event()
        self.live = LiveReplies()
        self._at_stop = contextlib.ExitStack()
        with interrupted_once(), contextlib.closing(self.chat), self._listening(host, port) as server:
            self._server = server
            self.access.bound_to(server.host, server.port)
            self.chat.start()
            serve_until(self._stop, server, on_ready=lambda: on_ready(self) if on_ready else None)

    def shutdown(self) -> None:
        """End `run` from another thread."""
        self._stop.set()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have this called once when the present `run` ends: after the replies, before server and pipeline."""
        self._at_stop.callback(callback)

    def _listening(self, host: str | None, port: int | None) -> Server:
        address = (host or self.settings.host, self.settings.port if port is None else port)
        return Server(
            self,
            address=address,
            requests=self.settings.max_requests + BACKGROUND_PLACES,
            end_replies=self.live.close,
            on_drained=self._at_stop.close,
        )


def create_app(settings: Settings, chat: ChatService, *, personas: Mapping[str, Settings] | None = None) -> ChatApp:
    """The app over a pipeline; `app.run()` serves it. Without `personas` they are the bundled ones."""
    app = ChatApp(settings, chat, each_persona(settings) if personas is None else personas)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    # Redirects would be the one answer that is neither the page nor JSON.
    app.url_map.merge_slashes = False
    app.register_blueprint(page_routes)
    app.register_blueprint(chat_routes)
    app.register_blueprint(metrics_routes)
    app.register_blueprint(openai_routes, url_prefix="/v1")
    app.register_blueprint(openai_routes, name="openai_without_prefix")
    app.register_error_handler(ChatError, render.render_error)
    app.register_error_handler(HTTPException, render.render_http_exception)
    app.register_error_handler(Exception, render.render_unexpected)
    app.before_request(lambda: _admit(app))
    app.after_request(lambda response: _finish(app, response))
    return app


def _admit(app: ChatApp) -> Response | None:
    app.access.check(request)
    if request.method != "OPTIONS" or request.routing_exception is not None:
        return None
    adapter = app.create_url_adapter(request)
    allowed = adapter.allowed_methods() if adapter else []
    return Response(status=204, headers={"Allow": ", ".join(sorted(allowed))})


def _finish(app: ChatApp, response: Response) -> Response:
    app.metrics.count(request, response)
    response.headers.update(app.access.cors_headers(request.path))
    return render.finish(response)


def _folder(name: str) -> str:
    """Beside this module in a wheel, at the top level in a checkout or an editable install."""
    packed = Path(__file__).parent / name
    return str(packed if packed.is_dir() else Path(__file__).parents[2] / name)
