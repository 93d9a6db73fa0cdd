"""What of a text may go to a terminal: all but the characters that it would obey. Knows no screen."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """The text without control characters but newlines and tabs: a model's words must not move the cursor."""
    return CONTROL.sub("", text)
