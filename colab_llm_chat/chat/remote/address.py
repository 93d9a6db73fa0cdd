"""The address of an upstream as people write or paste it, and the key that may stand in it. Knows no network."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from ...errors import UsageError

# What people copy from documentation along with the address.
ROUTES = ("/chat/completions", "/completions", "/models")
VERSION = "/v1"
KEY = "key="
EXAMPLES = "Give one such as http://127.0.0.1:5000 or https://NAME.ngrok-free.app; a printed link with #key= will do."


@dataclass(frozen=True, slots=True)
class Address:
    """`base` is what `/chat/completions` comes behind. The key is for its header alone."""

    base: str
    key: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The address without `/v1`, as people write it; there this project's server has its other routes."""
        return self.base.removesuffix(VERSION)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, where no proxy leads to."""
        name = urlsplit(self.base).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")


def parse_address(text: str, key: str | None = None) -> Address:
    """`key` comes before one in the link. Raises UsageError, which repeats nothing of a text that may hold a key."""
    parts = _split(text)
    if parts.username is not None or parts.query:
        raise UsageError(
            "--upstream may hold no user name, password or query (?…).",
            hint="Give a key by --upstream-key or the environment variable UPSTREAM_API_KEY.",
        )
    path = parts.path.rstrip("/")
    for route in ROUTES:
        path = path.removesuffix(route)
    linked = unquote(parts.fragment.removeprefix(KEY)) if parts.fragment.startswith(KEY) else None
    key = (key or linked or "").strip()
    if not key.isprintable():
        raise UsageError("The upstream's key has characters that no header can carry.", hint="Copy it anew.")
    return Address(f"{parts.scheme}://{parts.netloc}{path or VERSION}", key or None)


def _split(text: str) -> SplitResult:
    wrong = "is no address that begins with http:// or https://"
    try:
        parts = urlsplit(text.strip())
        # Asked for its fault alone.
        _ = parts.port
    except ValueError:
        raise UsageError(f"--upstream {wrong}.", hint=EXAMPLES) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.strip().isprintable():
        raise UsageError(f"--upstream {wrong}.", hint=EXAMPLES)
    return parts
