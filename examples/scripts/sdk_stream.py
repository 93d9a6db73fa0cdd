"""Stream a reply with the openai SDK: a system prompt, what was said before, and a message from the command line.

Needs `pip install openai`. CHAT_ENDPOINT says which server, CHAT_ACCESS_KEY opens it; any key does where none is asked.
"""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("CHAT_ENDPOINT", "http://127.0.0.1:5000").rstrip("/") + "/v1",
    api_key=os.environ.get("CHAT_ACCESS_KEY", "none"),
)
stream = client.chat.completions.create(
    model="catbot",
    messages=[
        {"role": "system", "content": "Answer in one short sentence."},
        {"role": "user", "content": "Good morning!"},
        {"role": "assistant", "content": "Good morning. Did you sleep well?"},
        {"role": "user", "content": " ".join(sys.argv[1:]) or "Very well. And you?"},
    ],
    max_tokens=4096,
    stream=True,
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
