"""What can go wrong with an upstream: the way to it, the key, the request, the answer.

UpstreamError
├── UpstreamUnreachable
├── UpstreamRefused ── UpstreamKeyRefused
├── UpstreamBusy
├── UpstreamFailed
├── UpstreamUnreadable
└── UpstreamLacks
"""

from __future__ import annotations

from . import ChatError


class UpstreamError(ChatError):
    """Met by the terminal chat over a server elsewhere. Never holds the key."""

    status = 502
    code = "upstream_error"
    default_hint = "Look at the upstream's log for the cause, then try again."


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"
    default_hint = "Start the server, and check the address given by --upstream."


class UpstreamRefused(UpstreamError):
    """It does not take this request; `param` is the field that it names."""

    code = "upstream_refused"
    default_hint = "Change what it names, then send the message again."


class UpstreamKeyRefused(UpstreamRefused):
    code = "upstream_key_refused"
    exit_code = 2
    default_hint = (
        "Give the key by --upstream-key or UPSTREAM_API_KEY; a colab-llm-chat server prints it in its link (#key=KEY)."
    )


class UpstreamBusy(UpstreamError):
    status = 503
    code = "upstream_busy"
    type = "rate_limit_error"
    default_hint = "Wait a minute, then send the message again."


class UpstreamFailed(UpstreamError):
    code = "upstream_failed"
    default_hint = "Send the message again; the upstream's log names the cause."


class UpstreamUnreadable(UpstreamError):
    """Something answers, but not as an OpenAI-compatible server does."""

    code = "upstream_unreadable"
    default_hint = "Check the address given by --upstream; for other servers than this program's it mostly ends in /v1."


class UpstreamLacks(UpstreamError):
    """It is reached and works, but cannot do this."""

    code = "upstream_lacks"
    default_hint = "A colab-llm-chat server can."
