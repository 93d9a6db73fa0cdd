"""Who may use the server: the access key, the session cookie, and the Host, Origin and CORS rules of API.md.

Knows requests, not routes' work. A Host check stops DNS rebinding: a page of another site can point its own name at
this machine, but the browser then sends that name. An address literal cannot be rebound.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from flask import Request

from ..errors import InvalidAccessKey, OriginRefused
from ..settings import Settings

OPEN_PATHS = frozenset({"/", "/session", "/health", "/favicon.ico"})
# The OpenAI door, and its routes for clients whose base URL has no /v1.
OPENAI_PREFIXES = ("/v1/", "/models/")
OPENAI_PATHS = frozenset({"/models", "/chat/completions", "/completions", "/responses", "/tokenize"})
CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, ngrok-skip-browser-warning",
    "Access-Control-Expose-Headers": "x-request-id, x-dropped-messages, Retry-After",
    "Access-Control-Max-Age": "600",
}
# OpenAI's client for JavaScript sends a dozen headers of its own. `*` stands for all but Authorization.
OPENAI_HEADERS = {
    "Access-Control-Allow-Headers": CORS_HEADERS["Access-Control-Allow-Headers"] + ", *",
    "Access-Control-Expose-Headers": CORS_HEADERS["Access-Control-Expose-Headers"] + ", x-should-retry",
}
# Names that no one else can point anywhere: they are resolved on the machine itself.
LOCAL_NAMES = frozenset({"localhost", "host.docker.internal"})
COLAB_PROXY = re.compile(r"[a-z0-9.-]+(-colab\.googleusercontent\.com|\.prod\.colab\.dev)")
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
DEFAULT_PORTS = {"http": 80, "https": 443}
# Name and port, None where none is written.
Authority = tuple[str, int | None]
READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Access:
    """The rules of one app. The server tells where it is bound; a tunnel registers its public name."""

    def __init__(self, settings: Settings) -> None:
        self._open_by_hand = settings.access_key == ""
        self._asked_for = bool(settings.access_key)
        self._key = settings.access_key or secrets.token_urlsafe(24)
        self._named = frozenset(_registered(name) for name in settings.allowed_hosts.split(",") if name.strip())
        self._public: frozenset[Authority] = frozenset()
        self._bound_host = settings.host.lower().strip("[]")
        self._port = settings.port

    def bound_to(self, host: str, port: int) -> None:
        self._bound_host = host.lower().strip("[]")
        self._port = port

    def add_public_host(self, host: str) -> None:
        """From now on the server is reachable from outside under this name (a host or a URL)."""
        self._public |= {_registered(host)}

    def remove_public_host(self, host: str) -> None:
        name, _ = _registered(host)
        self._public = frozenset(known for known in self._public if known[0] != name)

    @property
    def required(self) -> bool:
        """Whether the access key is asked for."""
        exposed = bool(self._public) or not _is_loopback(self._bound_host)
        return not self._open_by_hand and (self._asked_for or exposed)

    @property
    def key(self) -> str | None:
        """The key that opens the server; None while none is asked for."""
        return self._key if self.required else None

    @property
    def cookie_name(self) -> str:
        """Cookies do not tell ports apart, so two servers on one machine need two names."""
        return f"colab_llm_chat_{self._port}"

    @property
    def cookie_value(self) -> str:
        """Proof that the key was known; a stolen cookie does not tell the key."""
        return hmac.new(self._key.encode("utf-8", "replace"), b"session cookie", hashlib.sha256).hexdigest()

    def opens(self, key: str) -> bool:
        return hmac.compare_digest(key.encode("utf-8", "replace"), self._key.encode("utf-8", "replace"))

    def trusts_proxy(self, environ: Mapping[str, object]) -> bool:
        """X-Forwarded-* is believed only from an agent on this machine, and only while a tunnel is registered."""
        return bool(self._public) and _is_loopback(str(environ.get("REMOTE_ADDR") or ""))

    def recognises(self, request: Request) -> bool:
        """Whether the request may use everything."""
        return not self.required or self._has_bearer(request) or self._has_cookie(request)

    def check(self, request: Request) -> None:
        """Raises OriginRefused or InvalidAccessKey; reads headers only, never the body."""
        self._check_host(request)
        origin = request.headers.get("Origin")
        foreign = origin is not None and not self._is_own(origin, request)
        if foreign and not (self.required and _has_cors(request.path)):
            raise OriginRefused("Pages of other sites may not use this server.")
        if request.method == "OPTIONS" or not self.required or self._has_bearer(request):
            return
        # Signing out is open to all, but whose cookie it takes away must have asked for it.
        is_open = _is_open(request.path)
        if not self._has_cookie(request):
            if is_open:
                return
            raise InvalidAccessKey("The access key is missing or wrong.")
        writes = request.method not in READING and not (is_open and request.method == "POST")
        if writes and (origin is None or foreign):
            raise OriginRefused(
                "A request signed by the session cookie must come from this server's own page.",
                hint="Scripts send the header Authorization: Bearer KEY instead of the cookie.",
            )

    def cors_headers(self, path: str) -> dict[str, str]:
        if not self.required or not _has_cors(path):
            return {}
        return CORS_HEADERS if path == "/chat" else CORS_HEADERS | OPENAI_HEADERS

    def _has_bearer(self, request: Request) -> bool:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        # WSGI hands headers over as latin-1, whatever bytes they were.
        given = value.strip().encode("latin-1", "replace").decode("utf-8", "replace")
        return scheme.lower() == "bearer" and self.opens(given)

    def _has_cookie(self, request: Request) -> bool:
        given = request.cookies.get(self.cookie_name, "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.cookie_value.encode())

    def _check_host(self, request: Request) -> None:
        host = _split_authority(request.environ.get("HTTP_HOST", ""))
        if host is None or not self._answers_to(host[0]):
            raise OriginRefused("This server does not answer to the host name of this request.")

    def _answers_to(self, name: str) -> bool:
        if name in LOCAL_NAMES or self._ports(name) or COLAB_PROXY.fullmatch(name):
            return True
        if _is_loopback(name) or name == self._bound_host:
            return True
        if _is_loopback(self._bound_host):
            return False
        # Bound to the network, it is visited by address or by the machine's own name, whichever people know.
        machine = socket.gethostname().lower()
        return _is_address(name) or name in (machine, f"{machine}.local")

    def _ports(self, name: str) -> set[int | None]:
        """The ports with which the name was registered; empty if it was not."""
        return {port for known, port in self._public | self._named if known == name}

    def _is_own(self, origin: str, request: Request) -> bool:
        """The address of the Host header, or a registered one, whose proxy may have rewritten the Host.

        Only the port tells a name's servers apart: another one on this machine is as foreign as another site.
        """
        scheme, _, rest = origin.partition("://")
        sender = _split_authority(rest)
        host = _split_authority(request.environ.get("HTTP_HOST", ""))
        if scheme not in DEFAULT_PORTS or sender is None or host is None:
            return False
        port = sender[1] or DEFAULT_PORTS[scheme]
        registered = self._ports(sender[0])
        if registered and (port in registered or port == DEFAULT_PORTS[scheme]):
            return True
        # Colab's proxy and a registered one speak https for us and need not say so; nobody else does.
        proxied = bool(registered) or COLAB_PROXY.fullmatch(host[0]) is not None
        if scheme != request.scheme and not (proxied and scheme == "https"):
            return False
        return (sender[0], port) == (host[0], host[1] or DEFAULT_PORTS[scheme])


def _split_authority(text: str) -> Authority | None:
    """Name and port of a Host header; None when it is none."""
    match = AUTHORITY.fullmatch(text.strip())
    if match is None:
        return None
    return match[1].lower().strip("[]").removesuffix("."), int(match[2]) if match[2] else None


def _registered(host_or_url: str) -> Authority:
    text = host_or_url.strip().lower()
    return _split_authority(urlsplit(text).netloc if "://" in text else text) or (text, None)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _has_cors(path: str) -> bool:
    return path == "/chat" or path.startswith(OPENAI_PREFIXES) or path in OPENAI_PATHS


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith("/static/")
