"""The command `chat`: its flags, and what they mean. Loads no model library and no terminal library."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from ...settings import SamplingParams
from ..flags import settings_flags, settings_from

MODEL = ("model_id", "hf_token", "revision", "model_dir", "trust_remote_code")
LANGUAGES = ("language_source", "language_target")
HARDWARE = ("quantization", "dtype", "device", "compile", "context_length")
FLAGS = (*MODEL, *LANGUAGES, "system", *HARDWARE, *SamplingParams.model_fields)


@click.command()
@click.option("--once", metavar="TEXT", help="Send this one message, print the reply alone, and end.")
@click.option("--show-prompt", is_flag=True, help="Show before each reply what the model gets.")
@partial(settings_flags, only=FLAGS)
def chat(once: str | None, show_prompt: bool, **flags: Any) -> None:
    """Talk to a model in the terminal, or in a notebook's cell.

    Of what is piped in, the whole is one message; the reply alone goes to standard output.
    """
    settings = settings_from(flags, hint="See colab-llm-chat chat --help.")
    from .run import run_chat

    # One reply at a time: a model's memory for the others would lie idle.
    run_chat(settings.model_copy(update={"max_rows": 1}), once=once, show_prompt=show_prompt)
