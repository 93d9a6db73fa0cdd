"""The form for base models, which know no chat template: a conversation written down with speaker labels.

Knows nothing of token ids or context windows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..protocol.messages import Message


@dataclass(frozen=True, slots=True)
class Labels:
    """The words of a transcript in one language."""

    user: str
    assistant: str
    system: str


JAPANESE = Labels(
    user="ユーザー",
    assistant="アシスタント",
    system="以下は、ユーザーと親切なアシスタントの会話です。アシスタントは質問に日本語で正確に、わかりやすく答えます。",
)
ENGLISH = Labels(
    user="User",
    assistant="Assistant",
    system="The following is a conversation between a user and a helpful assistant. "
    "The assistant answers the user's questions correctly and clearly.",
)

_KANA_OR_KANJI = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff66-\uff9f]")
_SPEAKERS = tuple(name for labels in (JAPANESE, ENGLISH) for name in (labels.user, labels.assistant))
_SPEAKER_LINE = re.compile(rf"^(?=[ \t　]*(?:{'|'.join(_SPEAKERS)})[ \t　]*[:：])", re.MULTILINE)

# Models answer in either language and colon; with a blank line too, so that none is left at the reply's end.
STOP = tuple(f"{gap}{name}{colon}" for gap in ("\n\n", "\n") for name in _SPEAKERS for colon in (":", "："))

# For tokenizers that turn newlines into spaces: there the model cannot write the others.
STOP_WITHOUT_NEWLINES = tuple(f" {name}{colon}" for name in _SPEAKERS for colon in (":", "："))


def labels_for(messages: Sequence[Message]) -> Labels:
    """Japanese as soon as one message has a kana or kanji, so that an "OK" does not turn the conversation over."""
    return JAPANESE if any(_KANA_OR_KANJI.search(message.content) for message in messages) else ENGLISH


def render(messages: Sequence[Message], *, continue_final: bool, label: bool = True) -> str:
    """The transcript up to where the model goes on: the assistant's label, without a space that would spoil its
    first piece, or the end of the assistant's last message. Without `label` it ends where the last message does.
    """
    labels = labels_for(messages)
    system = "\n\n".join(message.content.strip() for message in messages if message.role == "system")
    lines = [_line(labels, message) for message in messages if message.role != "system"]
    head = f"{system or labels.system}\n\n"
    if continue_final:
        unfinished = messages[-1].content.lstrip()
        return head + "\n".join(
            [*lines[:-1], f"{labels.assistant}: {_quoted(unfinished)}" if unfinished else _open(labels)]
        )
    return head + "\n".join([*lines, _open(labels)] if label else lines)


def _open(labels: Labels) -> str:
    return f"{labels.assistant}:"


def _line(labels: Labels, message: Message) -> str:
    speaker = labels.user if message.role == "user" else labels.assistant
    return f"{speaker}: {_quoted(message.content.strip())}"


def _quoted(text: str) -> str:
    """A line that looks like a speaker's is quoted, so that no message can speak for the other side."""
    return _SPEAKER_LINE.sub("> ", text)
