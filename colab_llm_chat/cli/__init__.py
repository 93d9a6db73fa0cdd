"""The command line: `serve`, `chat` in the terminal, `download`, and `bench`, which measures beside peers."""

from .commands import cli, llm_chat, main

__all__ = ["cli", "llm_chat", "main"]
