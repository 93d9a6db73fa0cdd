"""Which requests nobody waits for: the front ends' own prompts, and no person's message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colab_llm_chat.protocol.background import is_background
from colab_llm_chat.protocol.messages import Message

HISTORY = "\n### Chat History:\n<chat_history>\nUSER: hi\nASSISTANT: Hello!\n</chat_history>"
TITLE = "### Task:\nGenerate a concise title summarizing the chat history.\n### Guidelines:\n- The title should clearly"
OPEN_WEBUI = [
    TITLE + HISTORY,
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n### Guidelines:\n- The"
    + HISTORY,
    "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history, along with 1-3 more specific "
    "subtopic tags.\n\n### Guidelines:\n- Start with high-level domains" + HISTORY,
    "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user might naturally ask next in this "
    "conversation as a **user**, based on the chat history, to help continue or deepen the discussion.\n### Guidelines:"
    + HISTORY,
    "### Task:\nPredict 3-5 useful messages this user might naturally send next to advance their current objective.\n"
    + HISTORY,
    "### Task:\nYou are an autocompletion system. Continue the text in `<text>` based on the **completion type** in "
    "`<type>` and the given language.  \n\n### **Instructions**:\n---\n### Context:\n<chat_history>\n</chat_history>",
]
LIBRECHAT = [
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A concise title in the "
    "detected language (5 words or less, no punctuation or quotation)\n\nUser: hi\nAI: Hello!",
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the title "
    "itself.\n\nConversation:\nUser: hi\nAI: Hello!",
    "Provide a concise, 5-word-or-less title for the conversation, using its same language, with no punctuation. Apply "
    "title case conventions appropriate for the language. Never directly mention the language name or the word "
    '"title" and only return the title itself.\n\nConversation:\nUser: hi',
]
SEARCH = "### Task:\nAnalyze the chat history to determine the necessity of generating search queries, in the given"


@pytest.mark.parametrize("text", OPEN_WEBUI + LIBRECHAT)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_front_ends_own_prompts_are_background(text: str, line_end: str) -> None:
    asked = Message("user", text.replace("\n", line_end))
    assert is_background([asked])
    assert is_background([Message("system", "Be kind."), asked])


@pytest.mark.parametrize(
    "text",
    [
        "Generate a concise title summarizing the chat history.",
        TITLE,
        "Why does Open WebUI send this?\n\n" + TITLE + HISTORY,
        "### Task:\nGenerate a concise title for my essay." + HISTORY,
        "Provide a concise, 5-word-or-less title for the conversation, please.",
        "Analyze this conversation and provide:\n1. A summary",
        SEARCH + HISTORY,
        "",
    ],
)
def test_a_persons_message_is_not(text: str) -> None:
    assert not is_background([Message("user", text)])


def test_within_a_conversation_the_same_text_is_a_persons() -> None:
    turns = [Message("user", "hi"), Message("assistant", "Hello!"), Message("user", TITLE + HISTORY)]
    assert not is_background(turns)
    assert not is_background([Message("system", TITLE + HISTORY)])


@given(st.text())
def test_no_other_text_is_background(text: str) -> None:
    assert not is_background([Message("user", text)])
