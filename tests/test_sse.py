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


def read(stream: bytes, cuts: list[int]) -> list[str]:
    """What a reader makes of the stream in pieces of these sizes."""
    reader, found = sse.EventReader(), []
    for size in cuts:
        found += reader.feed(stream[:size])
        stream = stream[size:]
    return found + reader.feed(stream)


@given(
    st.lists(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",))), min_size=1)),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 9)),
)
def test_events_come_out_as_they_went_in_wherever_they_are_cut(
    events: list[list[str]], end: str, cuts: list[int]
) -> None:
    lines = [line for event in events for line in (": ping", "event: x", *(f"data: {one}" for one in event), "", "")]
    # What stands behind the last empty line has not ended.
    stream = "".join(f"{line}{end}" for line in [*lines, "data: cut off"]).encode()
    assert read(stream, cuts) == ["\n".join(event) for event in events]


def test_a_mark_at_the_beginning_and_data_without_a_space_are_read() -> None:
    assert read("\ufeffdata:一\n\n\n: data: no\ndata\n\n".encode(), [1, 1]) == ["一", ""]


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_can_break_out_of_its_line(text: str) -> None:
    line = sse.event({"delta": text})
    assert line.count(b"\n") == 2
    assert b"\r" not in line
    assert json.loads(line.removeprefix(b"data: ")).keys() == {"delta"}
