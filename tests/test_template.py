from __future__ import annotations

import json
from typing import Any

import pytest

from colab_llm_chat.errors import InvalidRequest, UnsupportedParameter
from colab_llm_chat.protocol.messages import ChatRequest, Message, Tool, ToolCall, ToolUse
from colab_llm_chat.text.prompts import Prompt, encode
from tests.reply_formats import CLOCK, FAMILIES, HERMES, TURNS, WEATHER, asking, tokenizer_of, with_tools
from tests.tokenizers_made_here import CHATML, byte_fallback, byte_level, unigram

ASKED = Message("user", "Weather?")
CALLED = Message(
    "assistant",
    "",
    tool_calls=(ToolCall(call_id="call_abc", name="weather", arguments='{"city":"東京"}'),),
    reasoning="Hm.",
)
ANSWERED = Message("tool", "Sunny.", tool_call_id="call_abc")


def prompt_of(tokenizer: Any, request: ChatRequest, context_length: int = 4096) -> Prompt:
    return encode(tokenizer, request, context_length=context_length)


@pytest.mark.parametrize("family", FAMILIES)
def test_tools_and_their_calls_and_results_are_shown_to_the_model(family: str) -> None:
    text = prompt_of(tokenizer_of(family), with_tools(ASKED, CALLED, ANSWERED)).text
    assert all(part in text for part in ("Weather of a city.", "clock", "東京", "Sunny."))


def test_arguments_are_an_object_and_a_result_has_its_tools_name() -> None:
    text = prompt_of(byte_level(HERMES), with_tools(ASKED, CALLED, ANSWERED)).text
    assert '<tool_call>{"name": "weather", "arguments": {"city": "東京"}}</tool_call>' in text
    assert "<|im_start|>tool weatherSunny." in text
    assert "<think>Hm.</think>" in text


def test_arguments_that_are_no_json_stay_text() -> None:
    called = Message("assistant", "", tool_calls=(ToolCall(call_id="1", name="weather", arguments="{oops"),))
    assert '"arguments": "{oops"' in prompt_of(byte_level(HERMES), with_tools(ASKED, called, ANSWERED)).text


@pytest.mark.parametrize("arguments", ['{"q": ' * 900 + "1" + "}" * 900, '{"q": 1e999}'])
def test_arguments_that_no_template_could_write_stay_text(arguments: str) -> None:
    called = Message("assistant", "", tool_calls=(ToolCall(call_id="1", name="weather", arguments=arguments),))
    text = prompt_of(byte_level(HERMES), with_tools(ASKED, called, ANSWERED), context_length=100_000).text
    assert f'"arguments": {json.dumps(arguments)}' in text


def test_half_a_character_in_arguments_is_replaced() -> None:
    called = Message("assistant", "", tool_calls=(ToolCall(call_id="1", name="weather", arguments=r'{"q": "\ud83d"}'),))
    text = prompt_of(byte_level(HERMES), with_tools(ASKED, called, ANSWERED)).text
    assert '"arguments": {"q": "\ufffd"}' in text


def test_a_template_that_joins_arguments_to_text_gets_text() -> None:
    joining = HERMES.replace("c.function.arguments | tojson", "'' + c.function.arguments")
    assert '"arguments": {"city":"東京"}}' in prompt_of(byte_level(joining), with_tools(ASKED, CALLED, ANSWERED)).text


def test_without_a_choice_tools_are_not_shown() -> None:
    text = prompt_of(byte_level(HERMES), with_tools(ASKED, choice="none")).text
    assert text == prompt_of(byte_level(HERMES), asking(ASKED)).text


@pytest.mark.parametrize("tokenizer", [byte_level(CHATML), unigram(), byte_fallback()])
def test_tools_that_the_model_has_no_place_for_are_a_named_error(tokenizer: Any) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        prompt_of(tokenizer, with_tools())
    assert (caught.value.param, "made for them" in caught.value.hint) == ("tools", True)


@pytest.mark.parametrize("tokenizer", [byte_level(CHATML), unigram()])
@pytest.mark.parametrize("message", [CALLED, ANSWERED])
def test_tool_messages_that_the_model_has_no_place_for_are_a_named_error(tokenizer: Any, message: Message) -> None:
    with pytest.raises(InvalidRequest, match="no place") as caught:
        prompt_of(tokenizer, asking(ASKED, message))
    assert caught.value.param == "messages"


def test_a_format_of_calls_that_is_not_known_is_a_named_error() -> None:
    with pytest.raises(UnsupportedParameter, match="not known"):
        prompt_of(byte_level("{{ tools | tojson if tools }}" + TURNS), with_tools())


def test_template_kwargs_reach_the_template() -> None:
    template = "{% if enable_thinking is false %}quiet{% endif %}{{ effort }}" + CHATML
    text = prompt_of(byte_level(template), asking(template_kwargs={"enable_thinking": False, "effort": "low"})).text
    assert text.startswith("quietlow<|im_start|>")


@pytest.mark.parametrize(
    "name", ["messages", "tools", "add_generation_prompt", "tokenize", "chat_template", "eos_token", "self"]
)
def test_template_kwargs_that_belong_to_the_server_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"cannot set '{name}'") as caught:
        prompt_of(byte_level(CHATML), asking(template_kwargs={name: "x"}))
    assert caught.value.param == "chat_template_kwargs"


def test_without_a_generation_prompt_the_prompt_ends_with_the_last_message() -> None:
    assert prompt_of(byte_level(CHATML), asking(generation_prompt=False)).text.endswith("hi<|im_end|>\n")
    assert prompt_of(unigram(), asking(generation_prompt=False)).text.endswith("User: hi")


@pytest.mark.parametrize("typed", ["<|im_end|>", "<tool_call>", "<|im_start|>system", "</think>"])
def test_control_tokens_in_what_tools_bring_stay_text(typed: str) -> None:
    tokenizer = byte_level(HERMES)
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "</think>"])
    control = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(["<tool_call>", "</think>"])}

    def controls(word: str) -> tuple[list[int], str]:
        tool = Tool(
            name="weather", description=word, parameters={"type": "object", "properties": {word: {"title": word}}}
        )
        escaped = json.dumps({"a": [word]}).replace("<", "\\u003c")
        calls = (ToolCall(call_id=word, name=word, arguments=escaped),)
        called = Message("assistant", "", tool_calls=calls, reasoning=word)
        result = Message("tool", word, tool_call_id=word, name=word)
        prompt = prompt_of(tokenizer, asking(ASKED, called, result, tool_use=ToolUse(tools=(tool, CLOCK))))
        return [one for one in prompt.prompt_ids if one in control], prompt.text

    assert controls(typed)[0] == controls("plain")[0]
    assert controls(typed)[1] == controls("plain")[1].replace("plain", typed)


def test_a_call_and_its_result_leave_the_window_together() -> None:
    old = [Message("user", "old " * 20), CALLED, Message("tool", "Rain.", tool_call_id="call_abc")]
    request = asking(*old, ASKED, CALLED, ANSWERED, tool_use=ToolUse(tools=(WEATHER,)))
    prompt = prompt_of(tokenizer_of("hermes"), request, 700)
    assert prompt.dropped_messages == 3
    assert ("Rain." in prompt.text, "Sunny." in prompt.text) == (False, True)


def test_ids_that_mistrals_template_refuses_are_shortened() -> None:
    assert (
        '[TOOL_CALLS]weather[ARGS]{"city": "東京"}'
        in prompt_of(tokenizer_of("mistral"), with_tools(ASKED, CALLED, ANSWERED)).text
    )


def test_parallel_calls_go_one_by_one_to_a_template_that_takes_no_more() -> None:
    template = FAMILIES["llama"].replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% if m.tool_calls | length > 1 %}{{ raise_exception('only one') }}{% endif %}",
    )
    more = ToolCall(call_id="call_2", name="clock", arguments="{}")
    both = Message("assistant", "", tool_calls=(*CALLED.tool_calls, more))
    text = prompt_of(
        byte_level(template), with_tools(ASKED, both, ANSWERED, Message("tool", "12", tool_call_id="call_2"))
    )
    places = [text.text.index(part) for part in ('"東京"', "Sunny.", '{"name": "clock", "p', "12<")]
    assert places == sorted(places)


def test_reasoning_is_left_out_where_the_template_refuses_it() -> None:
    template = "{% for m in messages %}{% if m.reasoning_content %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    text = prompt_of(byte_level(template + HERMES), with_tools(ASKED, CALLED, ANSWERED)).text
    assert ("Hm." in text, "東京" in text) == (False, True)
