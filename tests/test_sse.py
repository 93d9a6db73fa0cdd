"""The lines of an event stream."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from colab_llm_chat.protocol import sse


def test_an_event_is_one_data_line_and_an_empty_one() -> None:
    assert sse.event({"delta": "猫"}) == 'data: {"delta": "猫"}\n\n'.encode()


def test_comments_are_no_events() -> None:
    assert all(line.startswith(b":") and line.endswith(b"\n\n") for line in (sse.OPEN, sse.PING))


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_can_break_out_of_its_line(text: str) -> None:
    line = sse.event({"delta": text})
    assert line.count(b"\n") == 2
    assert b"\r" not in line
    assert json.loads(line.removeprefix(b"data: ")).keys() == {"delta"}
