"""Which requests nobody waits for: the titles, tags and the like that chat front ends ask for beside each reply.

They are known by the opening sentences of the front ends' own prompts, whole, as no person writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from .messages import Message

# Open WebUI, backend/open_webui/config.py, DEFAULT_*_PROMPT_TEMPLATE. Search queries and image prompts are not among
# them: those are asked for before the reply, and the person waits.
TASK = "### Task:\n"
TASKS = (
    "Generate a concise title summarizing the chat history.",
    "Generate a concise, 3-5 word title with an emoji summarizing the chat history.",
    "Generate 1-3 broad tags categorizing the main themes of the chat history, along with 1-3 more specific subtopic "
    "tags.",
    "Suggest 3-5 relevant follow-up questions or prompts that the user might naturally ask next in this conversation "
    "as a **user**, based on the chat history, to help continue or deepen the discussion.",
    "Predict 3-5 useful messages this user might naturally send next to advance their current objective.",
    "You are an autocompletion system. Continue the text in `<text>` based on the **completion type** in `<type>` and "
    "the given language.",
)
HISTORY = "<chat_history>\n"
# LibreChat by danny-avila/agents, src/utils/title.ts: defaultTitlePrompt and defaultCompletionPrompt.
TITLES = (
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A concise title in the "
    "detected language (5 words or less, no punctuation or quotation)\n\n",
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the title "
    "itself.\n\nConversation:\n",
    "Provide a concise, 5-word-or-less title for the conversation, using its same language, with no punctuation. Apply "
    "title case conventions appropriate for the language. Never directly mention the language name or the word ",
)


def is_background(messages: Sequence[Message]) -> bool:
    """Whether the conversation is one such prompt and nothing else, but for a system message."""
    asked = [message for message in messages if message.role != "system"]
    if len(asked) != 1 or asked[0].role != "user":
        return False
    text = asked[0].content.replace("\r\n", "\n")
    is_task = text.startswith(TASK) and text.removeprefix(TASK).startswith(TASKS) and HISTORY in text
    return is_task or text.startswith(TITLES)
