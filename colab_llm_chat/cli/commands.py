"""The command line. Flags derive from Settings; a ChatError becomes one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage or input.
"""

from __future__ import annotations

import logging
import shlex
import sys
import types
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import SecretStr, ValidationError

from ..errors import ChatError, UsageError
from ..settings import VERSION, Settings, flag_of, settings_fields
from .bench.command import bench

SHORT_FLAGS = {"model_id": ["-m"], "hf_token": ["-t"]}
ENVIRONMENT = {"hf_token": "HF_TOKEN", "ngrok_token": "NGROK_AUTHTOKEN"}
DOWNLOAD = ("revision", "hf_token", "model_dir", "trust_remote_code")
SECRET = frozenset({"hf_token", "ngrok_token", "access_key"})


def _flag_type(annotation: Any) -> Any:
    """The click type of a field: the one that is not None, a choice for a Literal."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is Literal:
        return click.Choice([str(choice) for choice in get_args(annotation)])
    return str if annotation is SecretStr else annotation


def settings_flags(command: Callable[..., Any], *, only: Collection[str] | None = None) -> Callable[..., Any]:
    """Give a command one flag for each field of Settings, or for some of them."""
    for name, field in reversed(settings_fields().items()):
        if only is not None and name not in only:
            continue
        kind = _flag_type(field.annotation)
        shown = "" if field.default in (None, "") or kind is bool else f" [default: {field.default}]"
        command = click.option(
            flag_of(name),
            name,
            *SHORT_FLAGS.get(name, []),
            type=kind,
            is_flag=kind is bool,
            default=None,
            envvar=ENVIRONMENT.get(name, f"COLAB_LLM_CHAT_{name.upper()}"),
            help=(field.description or "") + shown,
        )(command)
    return command


def settings_from(flags: dict[str, Any]) -> Settings:
    """Settings of the flags that were given. Raises UsageError naming the flag at fault."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        given = "" if name in SECRET else f" (given: {flags.get(name)!r})"
        raise UsageError(f"{flag_of(name)}: {first['msg']}{given}.", param=name) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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


def main(arguments: list[str] | None = None) -> int:
    """The console command; `arguments` without the program's name."""
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
        click.echo(f"Error: {error.message}\n{error.hint}", err=True)
        return error.exit_code
    return 0
