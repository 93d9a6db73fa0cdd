"""The lines of a server-sent-event stream (HTML standard, section 9.2). Knows no field of any event."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
OPEN = b": open\n\n"


def event(value: dict[str, Any]) -> bytes:
    """One event whose data is the value's JSON, on one line (JSON escapes line ends inside strings)."""
    return b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n\n"
