"""What went wrong with an upstream, as one error with the next step: no connection, a refusal, another kind of answer.

Repeats what an upstream says in one line, without the key.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Collection, Iterator
from typing import Any

import httpx

from ...errors import ChatError
from ...errors.upstream import (
    UpstreamBusy,
    UpstreamError,
    UpstreamFailed,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamUnreadable,
)
from .address import Address

MOST_CHARACTERS = 300
# What only this project's errors have, all together.
OWN_FIELDS = frozenset({"message", "type", "param", "code", "hint"})
TUNNEL_ERROR = re.compile(r"ERR_NGROK_\d+")
OFFLINE = "ERR_NGROK_3200"
LANGUAGES = {"source_language": ("--language-source", "/source"), "target_language": ("--language-target", "/target")}


def plain(text: object) -> str:
    """Another's words in one line, without what a terminal would obey."""
    line = " ".join("".join(one if one.isprintable() else " " for one in str(text)).split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…"


def connection_fault(error: httpx.HTTPError, address: Address) -> UpstreamError:
    """Of a request that got no answer, or not the whole of it."""
    if isinstance(error, httpx.ConnectError):
        return _no_connection(error, address)
    if isinstance(error, httpx.ConnectTimeout):
        return UpstreamUnreachable(f"{address.shown} does not answer: no connection came about in time.")
    if isinstance(error, httpx.TimeoutException):
        return UpstreamFailed(f"{address.shown} was silent for too long.")
    if isinstance(error, httpx.ProxyError):
        return UpstreamUnreachable(f"{address.shown} cannot be reached: {plain(_without(str(error), address.key))}.")
    return UpstreamFailed(f"The connection to {address.shown} broke off.")


def _no_connection(error: httpx.ConnectError, address: Address) -> UpstreamUnreachable:
    for cause in _causes(error):
        match cause:
            case socket.gaierror():
                return UpstreamUnreachable(
                    f"The name {httpx.URL(address.base).host} cannot be found.",
                    hint="Check its spelling in --upstream, and the network.",
                )
            case ssl.SSLError():
                return _insecure(cause, address)
            case ConnectionRefusedError():
                return UpstreamUnreachable(f"Nothing listens at {address.shown}.")
    return UpstreamUnreachable(f"{address.shown} cannot be reached: {plain(_without(str(error), address.key))}.")


def refusal(response: httpx.Response, address: Address, *, sent: Collection[str] = ()) -> ChatError:
    """Of an answer that is no reply, read to its end. `sent` are the fields that somebody has set."""
    text = response.text
    if is_page(response):
        return page_fault(response, address)
    value = _json(text)
    if response.status_code == 401:
        return _key_refused(address)
    if response.is_redirect:
        # Where to, could hold a key.
        return UpstreamUnreadable(f"{address.shown} sends on to another address.", hint="Give that one by --upstream.")
    told = told_error(value, address.key)
    if isinstance(told, UpstreamFailed):
        told = _by_status(response, address, told.message, sent=_named(text, sent))
    told.retry_after = _seconds(response)
    return told


def is_page(response: httpx.Response) -> bool:
    """Whether a page for people came, as tunnels and proxies answer for servers that are gone."""
    return "html" in response.headers.get("content-type", "")


def page_fault(response: httpx.Response, address: Address) -> UpstreamError:
    found = response.headers.get("ngrok-error-code") or response.text
    code = TUNNEL_ERROR.search(found)
    if code is None:
        return UpstreamUnreadable(
            f"{address.shown} answers with a page for browsers (status {response.status_code}), not as an API."
        )
    if code[0] == OFFLINE:
        return UpstreamUnreachable(
            f"The tunnel {address.shown} is offline ({OFFLINE}).",
            hint="Start its server again (in a notebook: run the last cell), and give the link that it prints then.",
        )
    return UpstreamUnreachable(
        f"The tunnel {address.shown} answers {code[0]} in the server's place.",
        hint=f"https://ngrok.com/docs/errors/{code[0].lower()} says why.",
    )


def told_error(value: Any, key: str | None) -> ChatError:
    """The error that a JSON answer tells: ours as it was, another's words as UpstreamFailed."""
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict) and error.keys() >= OWN_FIELDS and isinstance(error["message"], str):
        ours = {name: plain(_without(str(error[name] or ""), key)) for name in ("message", "hint")}
        return ChatError.from_dict({**error, **ours})
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or ""
    words = plain(_without(str(error), key)) if error else "no reason given"
    return UpstreamFailed(f"The upstream says: {words}")


def _by_status(response: httpx.Response, address: Address, said: str, *, sent: str | None) -> UpstreamError:
    match response.status_code:
        case 403:
            return UpstreamKeyRefused(said)
        case 404 | 405:
            return UpstreamRefused(
                f"There is nothing for this at {address.base}. {said}",
                hint="Check the model's name (-m), and the address: it mostly ends in /v1.",
            )
        case 429:
            seconds = _seconds(response)
            hint = f"Wait {seconds} seconds, then send the message again." if seconds else None
            return UpstreamBusy(said, hint=hint)
        case status if status >= 500:
            return UpstreamFailed(f"{said} (status {status})")
    if sent is not None:
        flag, command = LANGUAGES.get(sent, (f"--{sent.replace('_', '-')}", f"/set {sent} default"))
        hint = f"Leave {flag} out, or type {command}."
        return UpstreamRefused(f"The upstream refuses `{sent}`. {said}", param=sent, hint=hint)
    return UpstreamRefused(said)


def _key_refused(address: Address) -> UpstreamKeyRefused:
    problem = "asks for a key" if address.key is None else "refuses the key that it was given"
    return UpstreamKeyRefused(f"{address.shown} {problem}.")


def _insecure(error: ssl.SSLError, address: Address) -> UpstreamUnreachable:
    reason = plain(getattr(error, "verify_message", "") or error.reason or "the connection broke off")
    return UpstreamUnreachable(
        f"{address.shown} cannot be reached securely: {reason}.",
        hint="Check the address (a server on your own network mostly has http://), and this machine's clock.",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _named(text: str, sent: Collection[str]) -> str | None:
    """The first field of these that the answer speaks of."""
    return next((name for name in sorted(sent) if re.search(rf"\b{name}\b", text)), None)


def _seconds(response: httpx.Response) -> int | None:
    told = response.headers.get("retry-after", "")
    return int(told) if told.isdecimal() else None


def _without(text: str, key: str | None) -> str:
    return text.replace(key, "…") if key else text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
