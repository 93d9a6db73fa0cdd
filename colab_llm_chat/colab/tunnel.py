"""A public address for a port of this machine, by ngrok.

Knows neither the app nor Colab: whoever opens a tunnel registers its address with the app, and closes it at the end.
"""

from __future__ import annotations

import contextlib
import re
from types import TracebackType

from pydantic import SecretStr

from ..errors import DomainRefused, NgrokTokenMissing, NgrokTokenRefused
from .agent import Agent, agent_program, end_agents

CONNECT_SECONDS = 30.0
TOKEN = re.compile(r"[A-Za-z0-9._~+/=:-]+")
DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]+")


class Tunnel:
    """Open from its making on; `url` is the public address, without a slash at its end."""

    def __init__(self, url: str, agent: Agent) -> None:
        self.url = url.rstrip("/")
        self._agent = agent

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the agent still runs; without it the address leads nowhere."""
        return self._agent.alive

    def close(self) -> None:
        """Take the address back and end the agent; returns when it is gone. Once more does nothing."""
        self._agent.close()


def open_tunnel(
    *,
    port: int,
    ngrok_token: SecretStr | None,
    domain: str | None = None,
    connect_seconds: float = CONNECT_SECONDS,
) -> Tunnel:
    """A tunnel to this port of the loopback address, in place of any that this process still has.

    Raises a TunnelError that says what to do. The program is downloaded at the first use; `connect_seconds` bounds
    what comes after.
    """
    token = _checked_token(ngrok_token)
    name = _checked_domain(domain)
    program = agent_program()
    end_agents()
    with contextlib.ExitStack() as undo:
        agent = Agent(program, token)
        undo.callback(agent.close)
        url = agent.connect(f"http://127.0.0.1:{port}", domain=name, seconds=connect_seconds)
        undo.pop_all()
    return Tunnel(url, agent)


def _checked_token(ngrok_token: SecretStr | None) -> SecretStr:
    """The token without the white space that comes along when it is copied."""
    token = SecretStr((ngrok_token.get_secret_value() if ngrok_token else "").strip())
    if not token:
        raise NgrokTokenMissing("There is no ngrok token.")
    if not TOKEN.fullmatch(token.get_secret_value()):
        raise NgrokTokenRefused("The ngrok token holds characters that no authtoken has.")
    return token


def _checked_domain(domain: str | None) -> str | None:
    """The bare name, also of one given as a link; None for an empty one."""
    name = (domain or "").strip().lower().removeprefix("https://").removeprefix("http://").rstrip("/")
    if name and not DOMAIN.fullmatch(name):
        raise DomainRefused(f"{domain!r} is not a domain name.")
    return name or None
