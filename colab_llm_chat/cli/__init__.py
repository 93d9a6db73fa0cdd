"""The command line: `serve`, and `bench`, which measures it beside its peers."""

from .commands import cli, main

__all__ = ["cli", "main"]
