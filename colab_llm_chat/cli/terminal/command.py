"""The command `chat`: its flags, and what they mean. Loads no model library and no terminal library."""

from __future__ import annotations

from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from ...errors import UsageError
from ...settings import SamplingParams, flag_of
from ..flags import settings_flags, settings_from

MODEL = ("model_id", "hf_token", "revision", "model_dir", "trust_remote_code")
LANGUAGES = ("language_source", "language_target")
HARDWARE = ("quantization", "dtype", "device", "compile", "context_length")
FLAGS = (*MODEL, *LANGUAGES, "system", "persona", *HARDWARE, *SamplingParams.model_fields)


# What means something for a model on this machine alone.
LOCAL = ("hf_token", "revision", "model_dir", "trust_remote_code", *HARDWARE)


@click.command()
@click.option("--once", metavar="TEXT", help="Send this one message, print the reply alone, and end.")
@click.option("--show-prompt", is_flag=True, help="Show before each reply what the model gets.")
@click.option(
    "--upstream",
    metavar="URL",
    envvar="COLAB_LLM_CHAT_UPSTREAM",
    help="Talk to the model of a server there (this program's, or any that speaks OpenAI's API).",
)
@click.option("--upstream-key", metavar="KEY", envvar="UPSTREAM_API_KEY", help="Key of that server. It is never shown.")
@partial(settings_flags, only=FLAGS)
@click.pass_context
def chat(
    ctx: click.Context,
    /,
    *,
    once: str | None,
    show_prompt: bool,
    upstream: str | None,
    upstream_key: str | None,
    **flags: Any,
) -> None:
    """Talk to a model in the terminal, or in a notebook's cell.

    Of what is piped in, the whole is one message; the reply alone goes to standard output.
    """
    settings = settings_from(flags, hint="See colab-llm-chat chat --help.")
    _refuse_contradictions(ctx, has_upstream=bool(upstream))
    from ...chat.remote import parse_address
    from .run import run_chat

    run_chat(
        # One reply at a time: a model's memory for the others would lie idle.
        settings.model_copy(update={"max_rows": 1}),
        once=once,
        show_prompt=show_prompt,
        upstream=parse_address(upstream, upstream_key) if upstream else None,
    )


def _refuse_contradictions(ctx: click.Context, *, has_upstream: bool) -> None:
    """Raises UsageError for a flag that would be without effect; in the environment it may be for other commands."""
    idle = LOCAL if has_upstream else ("upstream_key",)
    given = [name for name in idle if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if not given:
        return
    if has_upstream:
        raise UsageError(
            f"{flag_of(given[0])} is for a model on this machine, --upstream for one elsewhere.",
            hint="Leave one of the two out; the upstream's own settings say how its model runs.",
        )
    raise UsageError("--upstream-key needs --upstream.", hint="Say where the server is: --upstream URL.")
