"""Streaming clients: one reply, many replies begun together, a conversation. Knows a URL and bodies, no peer."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from urllib.parse import urlsplit

from .measures import Reply

PATH = "/v1/chat/completions"
Body = dict[str, Any]


def stream(url: str, body: Body, *, timeout: float, together: Barrier | None = None) -> Reply:
    """Post a conversation and read its stream to the end; what goes wrong is told in the reply."""
    reply = Reply()
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout)
    if together is not None:
        together.wait()
    began = time.perf_counter()
    try:
        connection.request("POST", PATH, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise http.client.HTTPException(f"status {response.status}: {response.read(500).decode(errors='replace')}")
        for line in response:
            if line.startswith(b"data: {"):
                take(reply, json.loads(line[6:]), time.perf_counter() - began)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reply.failure = str(error) or type(error).__name__
    finally:
        connection.close()
    reply.total = time.perf_counter() - began
    # Servers that tell no usage send a piece of text a token.
    reply.tokens = reply.tokens or len(reply.texts)
    return reply


def take(reply: Reply, event: Body, now: float) -> None:
    """One event of a stream. Raises ValueError for an error sent in it."""
    if "error" in event:
        raise ValueError(f"error in the stream: {event['error']}")
    text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    if text:
        reply.texts.append(now)
        reply.text += text
    if usage := event.get("usage"):
        reply.tokens, reply.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]


def run_load(url: str, bodies: Sequence[Body], *, timeout: float) -> tuple[list[Reply], float]:
    """All bodies posted at once, each by a client of its own: their replies, and seconds until the last was done."""
    together = Barrier(len(bodies))
    pool = ThreadPoolExecutor(len(bodies))
    try:
        asked = [pool.submit(stream, url, body, timeout=timeout, together=together) for body in bodies]
        replies = [one.result() for one in asked]
    finally:
        # An interrupt waits for no reply: the servers are ended next, and the clients with them.
        pool.shutdown(wait=False)
    return replies, max(reply.total for reply in replies)


def run_turns(url: str, body: Body, lines: Sequence[str], *, timeout: float) -> list[Reply]:
    """A conversation that begins with the body's messages; each turn brings all before it along."""
    messages = list(body["messages"])
    replies = []
    for line in lines:
        messages.append({"role": "user", "content": line})
        replies.append(stream(url, {**body, "messages": messages}, timeout=timeout))
        if replies[-1].failure:
            break
        messages.append({"role": "assistant", "content": replies[-1].text})
    return replies
