from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from colab_llm_chat.errors import InvalidRequest, UnsupportedParameter
from colab_llm_chat.protocol.messages import ChatRequest, Message, Tool, ToolUse
from colab_llm_chat.text.prompts import encode
from tests.reply_formats import CLOCK, FAMILIES, TURNS, WEATHER, asking, templated, tokenizer_of, with_tools
from tests.tokenizers_made_here import CHATML, byte_level, word_piece

PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
CALLS = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "x", "days": 3}}\n</tool_call>',
    "tagged": "<tool_call>\n<function=weather>\n<parameter=city>\nx <b> y\n</parameter>\n<parameter=days>\n3\n"
    "</parameter>\n</function>\n</tool_call>",
    "llama": '{"name": "weather", "parameters": {"city": "x", "days": 3}}',
    "mistral": '[TOOL_CALLS]weather[ARGS]{"city": "x", "days": 3}',
    "harmony": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
    '<|constrain|>json<|message|>{"city": "x", "days": 3}',
}  # fmt: skip


@cache
def model(family: str) -> tuple[Any, LLTokenizer]:
    made = byte_level(family) if family not in FAMILIES else tokenizer_of(family)
    return made, from_tokenizer(made)


def accepts(family: str, request: ChatRequest, reply: str) -> bool:
    """Whether the grammar lets the model write this reply, and end there."""
    tokenizer, known = model(family)
    matcher = LLMatcher(known, encode(tokenizer, request, context_length=4096).grammar or "start: /(.|\\n)*/")
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(reply, add_special_tokens=False)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


@pytest.mark.parametrize("family", CALLS)
def test_a_forced_reply_is_a_call_with_valid_arguments(family: str) -> None:
    request = with_tools(choice="required")
    assert accepts(family, request, CALLS[family])
    assert not accepts(family, request, "No.")
    assert not accepts(family, request, CALLS[family].replace("days", "dogs"))
    assert not accepts(family, request, CALLS[family].replace("3", "z"))
    assert not accepts(family, request, CALLS[family].replace("weather", "whether"))


@pytest.mark.parametrize("family", CALLS)
def test_a_named_tool_is_the_only_one_that_can_be_called(family: str) -> None:
    assert accepts(family, with_tools(choice="named", name="weather"), CALLS[family])
    assert not accepts(family, with_tools(choice="named", name="clock"), CALLS[family])


@pytest.mark.parametrize("family", ["hermes", "llama", "mistral"])
def test_a_name_in_japanese_is_forced_as_the_template_shows_it(family: str) -> None:
    tool = Tool(name="天気", parameters={"type": "object"})
    request = asking(Message("user", "?"), tool_use=ToolUse(tools=(tool,), choice="required"))
    reply = CALLS[family].replace("weather", "天気").replace('"city": "x", "days": 3', "")
    assert "天気" in encode(model(family)[0], request, context_length=4096).text
    assert accepts(family, request, reply)


def test_a_choice_that_is_no_tool_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'dog'") as caught:
        encode(tokenizer_of("hermes"), with_tools(choice="named", name="dog"), context_length=4096)
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize(("family", "between"), [("hermes", "\n"), ("tagged", "\n"), ("llama", "; "), ("mistral", "")])
def test_several_calls_only_where_they_may_be_parallel(family: str, between: str) -> None:
    two = CALLS[family] + between + CALLS[family]
    assert accepts(family, with_tools(choice="required"), two)
    assert not accepts(family, with_tools(choice="required", parallel=False), two)


def test_mistrals_older_array_is_forced_as_one() -> None:
    older = FAMILIES["mistral"].replace("[ARGS]", "")
    call = '{"name": "weather", "arguments": {"city": "x"}}'
    assert accepts(older, with_tools(choice="required"), f"[TOOL_CALLS][{call}, {call}]")


@pytest.mark.parametrize("family", CALLS)
def test_strict_tools_bind_a_call_once_it_begins(family: str) -> None:
    strict = Tool(name="weather", parameters=WEATHER.parameters, strict=True)
    request = asking(tool_use=ToolUse(tools=(strict, CLOCK)))
    said = "<|channel|>final<|message|>Hi" if family == "harmony" else "Hi"
    assert accepts(family, request, said)
    assert accepts(family, request, CALLS[family])
    assert not accepts(family, request, CALLS[family].replace("days", "dogs"))
    assert encode(tokenizer_of(family), with_tools(), context_length=4096).grammar is None


def test_json_alone_is_kept_to_its_schema() -> None:
    assert accepts(CHATML, asking(json_schema=PERSON), '{"name":"x"}')
    assert not accepts(CHATML, asking(json_schema=PERSON), '{"name":1}')
    assert accepts(CHATML, asking(json_schema={}), '{"anything":[1]}')
    assert not accepts(CHATML, asking(json_schema={}), "[1]")


@pytest.mark.parametrize("family", ["hermes", "mistral", "harmony"])
def test_json_comes_after_the_reasoning(family: str) -> None:
    thought = {
        "hermes": "<think>\nHm {\n</think>\n\n",
        "mistral": "[THINK]Hm {[/THINK]",
        "harmony": "<|channel|>analysis<|message|>Hm {<|end|><|start|>assistant<|channel|>final<|message|>",
    }[family]
    assert accepts(family, asking(json_schema=PERSON), thought + '{"name":"x"}')
    assert not accepts(family, asking(json_schema=PERSON), thought + "x")


def test_json_after_reasoning_that_the_prompt_opened() -> None:
    opened = TURNS.replace("assistant\n", "assistant\n<think>\n")
    assert accepts(opened, asking(json_schema=PERSON), 'Hm {\n</think>\n\n{"name":"x"}')
    assert not accepts(opened, asking(json_schema=PERSON), '{"name":"x"}')


def test_json_or_a_call_where_both_are_offered() -> None:
    request = asking(json_schema=PERSON, tool_use=ToolUse(tools=(WEATHER,)))
    assert accepts("hermes", request, '{"name":"x"}')
    assert accepts("hermes", request, CALLS["hermes"])
    assert not accepts("hermes", request, "Hi")


def test_a_call_that_cannot_be_forced_is_a_named_error() -> None:
    tokenizer = templated()
    tokenizer.chat_template = "{{ tools }}" + TURNS
    with pytest.raises(UnsupportedParameter) as caught:
        encode(tokenizer, with_tools(Message("user", "hi"), choice="required"), context_length=4096)
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("family", ["hermes", "harmony"])
def test_a_tools_schema_that_cannot_be_enforced_is_a_named_error(family: str) -> None:
    tool = Tool(name="weather", parameters={"type": "object", "properties": {"a": {"type": "nonsense"}}})
    request = asking(tool_use=ToolUse(tools=(tool,), choice="required"))
    with pytest.raises(InvalidRequest) as caught:
        encode(tokenizer_of(family), request, context_length=4096)
    assert caught.value.param == "tools"


def _chained(references: int) -> dict[str, Any]:
    """A definition that leads to the next, five alternatives deep."""
    definitions: dict[str, Any] = {f"d{references}": {"type": "object"}}
    for at in range(references):
        deep: dict[str, Any] = {"$ref": f"#/$defs/d{at + 1}"}
        for _ in range(5):
            deep = {"anyOf": [deep, {"type": "null"}]}
        definitions[f"d{at}"] = deep
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize("as_tool", [False, True])
@pytest.mark.parametrize(
    "schema",
    [{"type": "integer", "const": -(2**63)}, {"type": "integer", "minimum": -1e30, "maximum": -1e29}, _chained(400)],
    ids=["least integer", "beyond it", "chained references"],
)
def test_a_schema_that_would_end_the_process_is_a_named_error(schema: dict[str, Any], as_tool: bool) -> None:
    tool = Tool(name="f", parameters={**schema, "properties": {"a": schema}})
    use = ToolUse(tools=(tool,), choice="required")
    request = asking(tool_use=use) if as_tool else asking(json_schema=schema)
    with pytest.raises(InvalidRequest, match="cannot be enforced") as caught:
        encode(model("hermes")[0], request, context_length=200_000)
    assert caught.value.param == ("tools" if as_tool else "response_format")


def test_references_as_real_schemas_have_them_are_enforced() -> None:
    request = asking(json_schema=_chained(60))
    assert accepts(CHATML, request, "null")
    assert not accepts(CHATML, request, "1")


def test_a_tokenizer_that_takes_no_grammar_is_a_named_error() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        encode(word_piece(FAMILIES["hermes"]), with_tools(choice="required"), context_length=4096)
    assert caught.value.param == "tools"
