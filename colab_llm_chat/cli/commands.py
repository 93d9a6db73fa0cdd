"""The command line. A ChatError becomes one line with its hint, and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage or input.
"""

from __future__ import annotations

import logging
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import ChatError
from ..settings import VERSION
from .bench.command import bench
from .flags import settings_flags, settings_from
from .terminal.command import chat

DOWNLOAD = ("revision", "hf_token", "model_dir", "trust_remote_code")


class ChatByDefault(click.Group):
    """Flags without a command before them are those of `chat`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {flag for param in self.get_params(ctx) for flag in param.opts}
        is_command = not args or not args[0].startswith("-") or args[0] in own
        return super().parse_args(ctx, args if is_command else ["chat", *args])


@click.group(cls=ChatByDefault, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION)
def cli() -> None:
    """Chat with an open language model: in a browser, from scripts, on your own machine."""


@cli.command()
@settings_flags
def serve(**flags: Any) -> None:
    """Serve a model as a chat page and as POST /chat."""
    settings = settings_from(flags)
    from ..launch import serve as launch_serve

    launch_serve(settings)


@cli.command()
@click.argument("model_id", metavar="MODEL")
@click.option("--to", type=click.Path(path_type=Path), help="An empty or new folder for the files themselves.")
@partial(settings_flags, only=DOWNLOAD)
def download(to: Path | None, **flags: Any) -> None:
    """Fetch a model from the Hub and say where it lies; `serve -m` with that folder needs no network.

    What is there already is not fetched again.
    """
    settings = settings_from(flags)
    from ..models.hub import fetch_model

    files = fetch_model(settings, to=to)
    click.echo(f"{files.model_id} lies in {files.folder}")
    click.echo(f"Serve it: colab-llm-chat serve -m {shlex.quote(str(files.folder))}", err=True)


cli.add_command(bench)
cli.add_command(chat)


def llm_chat() -> int:
    """The console command `llm-chat`: `colab-llm-chat chat` by a short name."""
    return main(["chat", *sys.argv[1:]])


def main(arguments: list[str] | None = None) -> int:
    """The console command; `arguments` without the program's name, None takes the process's own.

    A notebook's `main(["-m", MODEL])` talks to that model, as does `main([])` to the default one.
    """
    arguments = ["chat"] if arguments == [] else arguments
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("colab_llm_chat").setLevel(logging.INFO)
    try:
        cli.main(args=arguments, prog_name="colab-llm-chat", standalone_mode=False)
    except click.exceptions.Abort:
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ChatError as error:
        click.echo(" ".join(f"Error: {error.message} {error.hint}".split()), err=True)
        return error.exit_code
    return 0
