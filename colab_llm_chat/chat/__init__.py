"""The one pipeline that every door uses: prompts, engine and text joined."""

from .pipeline import Chat

__all__ = ["Chat"]
