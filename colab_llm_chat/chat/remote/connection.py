"""Requests to an upstream over HTTP. What goes wrong is one of our errors. Knows no chat.

Each request has a connection of its own: one kept while somebody thinks is mostly dead by their next message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from ...errors import UsageError
from ...errors.upstream import UpstreamRefused, UpstreamUnreachable, UpstreamUnreadable
from ...protocol.sse import EventReader
from ...settings import VERSION
from . import faults
from .address import EXAMPLES, Address
from .asking import SETTABLE, Asked
from .link import Link

QUICK = httpx.Timeout(30.0, connect=10.0)
# Models think for long before their first word, and some servers load one only when it is asked for.
PATIENT = httpx.Timeout(30.0, connect=10.0, read=600.0)
LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
Told = TypeVar("Told", bound=BaseModel)


class Connection:
    """The way to one upstream. Any thread may ask."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._limit = LIMIT
        self._client = _client(address)

    @contextmanager
    def got(self, url: str) -> Iterator[httpx.Response]:
        """The answer to a GET, whatever it is, read."""
        with self._answered(self._client.build_request("GET", url, timeout=QUICK)) as response:
            response.read()
            yield response

    @contextmanager
    def posted(self, ask: Asked, times: httpx.Timeout = QUICK, *, link: Link | None = None) -> Iterator[httpx.Response]:
        """The answer to a POST, before its body is read. Raises what the upstream has against it."""
        body = {self._limit if name == LIMIT else name: value for name, value in ask.body.items()}
        traced = {} if link is None else {"trace": link.trace}
        url = self.address.base + ask.route
        request = self._client.build_request("POST", url, json=body, timeout=times, extensions=traced)
        with self._answered(request) as response:
            if response.is_success and not faults.is_page(response):
                yield response
                return
            response.read()
            error = faults.refusal(response, self.address, sent=SETTABLE & body.keys())
        # OpenAI's newer models know the limit by its other name alone, and say so.
        if self._limit == NEWER_LIMIT or NEWER_LIMIT not in error.message or not isinstance(error, UpstreamRefused):
            raise error
        self._limit = NEWER_LIMIT
        with self.posted(ask, times, link=link) as response:
            yield response

    @contextmanager
    def _answered(self, request: httpx.Request) -> Iterator[httpx.Response]:
        try:
            with closing(self._client.send(request, stream=True)) as response:
                yield response
        except httpx.HTTPError as error:
            raise faults.connection_fault(error, self.address) from None


def read(kind: type[Told], response: httpx.Response) -> Told:
    """The answer's JSON. Raises UpstreamUnreadable."""
    try:
        return kind.model_validate_json(response.read())
    except ValidationError:
        raise UpstreamUnreadable("The upstream's answer cannot be read.") from None


def events(response: httpx.Response) -> Iterator[str]:
    """The data of each event as it comes; the whole body where somebody answers without a stream."""
    if response.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        yield response.read().decode("utf-8", "replace")
        return
    reader = EventReader()
    for piece in response.iter_bytes():
        yield from reader.feed(piece)


def _client(address: Address) -> httpx.Client:
    headers = {
        "User-Agent": f"colab-llm-chat/{VERSION}",
        # Compressed events would wait for one another.
        "Accept-Encoding": "identity",
        # Else ngrok may answer the first visit with a page of its own.
        "ngrok-skip-browser-warning": "1",
    }
    # As bytes, in which a key may have letters of any alphabet.
    fields = {name.encode(): value.encode() for name, value in headers.items()}
    if address.key is not None:
        fields[b"Authorization"] = b"Bearer " + address.key.encode("utf-8", "replace")
    try:
        return httpx.Client(
            base_url=address.base,
            headers=fields,
            # So there is nothing to close, either.
            limits=httpx.Limits(max_keepalive_connections=0),
            # A proxy leads away from this machine.
            trust_env=not address.is_local,
        )
    except httpx.InvalidURL:
        raise UsageError("--upstream is no address that can be asked.", hint=EXAMPLES) from None
    except (ImportError, ValueError) as error:
        raise UpstreamUnreachable(
            f"The proxy that the environment names cannot be used: {faults.plain(error)}.",
            hint="Correct HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or name the upstream's host in NO_PROXY.",
        ) from None
