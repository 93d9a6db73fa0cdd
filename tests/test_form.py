"""Errors below a notebook's cell: the form's fields instead of flags, and Japanese for every kind that it can meet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

import pytest

from colab_llm_chat.cli import cli
from colab_llm_chat.colab import agent_errors
from colab_llm_chat.errors import ChatError, ColabError, LoadError, ModelGated, ModelTooLarge, TunnelError
from colab_llm_chat.errors.form import JAPANESE, NOT_IN_FORM, SWITCHES, form_name, in_form_words
from colab_llm_chat.settings import Settings, flag_of

KANA = re.compile("[ぁ-んァ-ヶ]")


def kinds_of(kind: type[ChatError]) -> Iterator[type[ChatError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from kinds_of(narrower)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("take --quantization 4bit, or", 'take QUANTIZATION = "4bit", or'),
        ("--port 0 takes any", "FLASK_PORT = 0 takes any"),
        ("a smaller one by --model-name.", "a smaller one by MODEL_NAME."),
        ("--device cuda: no GPU", 'DEVICE = "cuda": no GPU'),
        ("leave --dtype out", "leave DTYPE out"),
        ("with --trust-remote-code.", "with TRUST_REMOTE_CODE = True."),
        ("by --hf-token or HF_TOKEN.", "by the secret HF_TOKEN (key icon on the left)."),
        ("on --host 0.0.0.0 and --help", "on --host 0.0.0.0 and --help"),
    ],
)
def test_flags_become_fields_of_the_form(text: str, shown: str) -> None:
    assert in_form_words(text) == shown


def test_every_flag_of_the_command_has_a_name_in_the_form_but_secrets_and_the_address() -> None:
    serve = cli.commands["serve"]
    flags = {option for parameter in serve.params for option in parameter.opts if option.startswith("--")}
    left = {flag for flag in flags if in_form_words(flag) == flag}
    assert left == {flag_of(field) for field in NOT_IN_FORM}
    assert in_form_words("--max-rows") == form_name("max_rows") == "MAX_ROWS"


def test_switches_and_the_words_that_settings_take_are_known() -> None:
    fields = Settings.model_fields
    assert {name for name, field in fields.items() if field.annotation is bool} == SWITCHES
    words = {
        word
        for field in fields.values()
        if get_origin(field.annotation) is Literal
        for word in get_args(field.annotation)
    }
    assert {in_form_words(f"--tunnel {word}") for word in words} == {f'TUNNEL = "{word}"' for word in words}


@pytest.mark.parametrize("kind", sorted(kinds_of(ChatError), key=lambda kind: kind.__name__))
def test_no_usual_hint_names_a_flag_below_a_cell(kind: type[ChatError]) -> None:
    shown = "\n".join(kind("It failed.")._render_traceback_())
    assert {flag_of(field) for field in Settings.model_fields} & set(re.findall(r"--[a-z-]+", shown)) == set()


@pytest.mark.parametrize("kind", [*kinds_of(LoadError), *kinds_of(TunnelError)])
def test_loading_and_tunnel_errors_have_a_japanese_line(kind: type[ChatError]) -> None:
    assert KANA.search(kind("It failed.")._render_traceback_()[-1])


def test_the_japanese_lines_are_for_kinds_that_exist() -> None:
    assert set(JAPANESE) <= {kind.__name__ for kind in kinds_of(ChatError) if not issubclass(kind, ColabError)}
    assert set(agent_errors.JAPANESE) <= set(agent_errors.REASONS)


def test_a_model_that_does_not_fit_names_the_fields_that_would() -> None:
    shown = "\n".join(ModelTooLarge("It needs 16 GB.")._render_traceback_())
    assert ('QUANTIZATION = "4bit"' in shown, "MODEL_NAME" in shown, "--" in shown) == (True, True, False)


def test_an_error_that_came_from_the_worker_is_told_in_japanese_too() -> None:
    error = ChatError.from_dict(ModelGated("It is gated.").to_dict())
    shown = error._render_traceback_()
    assert ("the secret HF_TOKEN" in shown[1], any("規約に同意" in line for line in shown)) == (True, True)


def test_where_the_fields_are_is_said_only_when_one_is_named() -> None:
    assert [len(error._render_traceback_()) for error in (ChatError("No."), ModelTooLarge("No."))] == [2, 5]
