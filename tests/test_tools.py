from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_llm_chat.text.stream import TextStream
from tests.reply_formats import FAMILIES, Parsed, asking, parser_of, templated, tokenizer_of, with_tools

MAKERS = {**{family: lambda family=family: tokenizer_of(family) for family in FAMILIES}, "templated": templated}
TOKENIZERS = {name: make() for name, make in MAKERS.items()}
W, C = '{"name": "weather", "arguments": {"city": "東京"}}', '{"name": "clock", "arguments": {}}'
WEATHER_CALL, CLOCK_CALL = ["weather", '{"city": "東京"}'], ["clock", "{}"]
TWO_CALLS = {
    "hermes": f"<tool_call>\n{W}\n</tool_call>\n<tool_call>{C}</tool_call>",
    "tagged": "<tool_call>\n<function=weather>\n<parameter=city>\n東京\n</parameter>\n</function>\n</tool_call>\n"
    "<function=clock>\n</function>",
    "llama": f"<|python_tag|>{W.replace('arguments', 'parameters')}; {C}",
    "mistral": '[TOOL_CALLS]weather[ARGS]{"city": "東京"}[TOOL_CALLS]clock[ARGS]{}',
    "harmony": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
    '<|constrain|>json<|message|>{"city": "東京"}<|call|><|start|>assistant to=functions.clock<|channel|>commentary'
    "<|message|>{}<|call|>",
    "templated": f"<tool_call>\n{W}\n</tool_call>\n<tool_call>{C}</tool_call>",
}
MARKS = (
    "<tool_call>", "</tool_call>", "<function=weather>", "<parameter=city>", "</parameter>", "</function>", "{", "}",
    "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", "[THINK]", "[/THINK]", "<|channel|>",
    "<|message|>",    "analysis", "final", " to=functions.clock", "<|end|>", "<|start|>", "<|call|>", W, C,
    '{"name": "weather"', '"', "[",
    "]", "name", ", ", "\n", "ただの文", "a", "; ", "\\", "weather",
)  # fmt: skip
replies = st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=3)), max_size=14).map("".join)
many = settings(deadline=None, max_examples=150)


def parsed(family: str, *feeds: str, **use: object) -> Parsed:
    return Parsed(parser_of(TOKENIZERS[family], with_tools(**use)), *feeds)


@pytest.mark.parametrize("family", TWO_CALLS)
def test_calls_come_out_with_name_and_arguments(family: str) -> None:
    reply = parsed(family, TWO_CALLS[family])
    assert (reply.text, reply.calls) == ("", [WEATHER_CALL, CLOCK_CALL])


@pytest.mark.parametrize("family", TWO_CALLS)
@many
@given(reply=replies, seed=st.integers(0, 10**6))
def test_no_cut_changes_what_a_reply_says(family: str, reply: str, seed: int) -> None:
    cuts = sorted(random.Random(seed).choices(range(len(reply) + 1), k=6))
    feeds = [reply[start:end] for start, end in zip([0, *cuts], [*cuts, len(reply)], strict=True)]
    assert parsed(family, *feeds).whole == parsed(family, reply).whole


@pytest.mark.parametrize("family", ["hermes", "tagged", "llama", "mistral"])
@many
@given(reply=replies.filter(lambda reply: "THINK" not in reply and "think" not in reply))
def test_a_reply_without_a_call_is_all_text(family: str, reply: str) -> None:
    out = parsed(family, reply)
    assert out.calls or (out.text, out.reasoning) == (reply, "")


@pytest.mark.parametrize("family", TWO_CALLS)
@given(text=st.text("abc １２。\n.,!?猫", min_size=1).map(lambda text: f"x{text}y"))
def test_ordinary_text_comes_through_unchanged_and_is_not_held(family: str, text: str) -> None:
    parser, shown = parser_of(TOKENIZERS[family], with_tools()), ""
    for at, letter in enumerate(text):
        shown += parser.feed(letter).text
        assert shown.rstrip() == text[: at + 1].rstrip()
    assert (shown + parser.flush().text, parser.called) == (text, False)


@pytest.mark.parametrize("family", ["hermes", "tagged", "llama", "mistral"])
@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        "<tool_call>later</tool_call>",
        '{"answer": {"name": "weather"}}',
        '[TOOL_CALLS]nothing[ARGS]{"a": 1}',
        '[TOOL_CALLS][{"name": "nothing"}]',
        "<function=other><parameter=x>1</parameter></function>",
        '<tool_call>{"name": "weather", "arguments": 3}</tool_call>',
    ],
)
def test_what_is_no_call_of_a_tool_is_text(family: str, text: str) -> None:
    reply = parsed(family, f"{text} end")
    assert (reply.text, reply.calls) == (f"{text} end", [])


def test_arguments_come_while_they_are_written() -> None:
    parser = parser_of(TOKENIZERS["hermes"], with_tools())
    assert parser.feed("Sure.\n").text == "Sure."
    (begun,) = parser.feed('<tool_call>{"name": "weather", "arguments": ').tool_calls or (None,)
    assert begun is None
    named, opened = parser.feed('{"ci').tool_calls
    assert (named.name, named.arguments, opened.arguments) == ("weather", "", '{"ci')
    assert str(named.call_id).startswith("call_")
    assert len(str(named.call_id)) == 29
    assert [(one.index, one.arguments, one.call_id) for one in parser.feed('ty":').tool_calls] == [(0, 'ty":', None)]
    assert parser.called


@pytest.mark.parametrize("family", TWO_CALLS)
def test_without_parallel_calls_the_first_is_the_last(family: str) -> None:
    parser = parser_of(TOKENIZERS[family], with_tools(parallel=False))
    assert Parsed(parser, TWO_CALLS[family]).calls == [WEATHER_CALL]
    assert (parser.stopped, parser.feed("more").text) == (True, "")


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"arguments": {"city": "東京"}, "name": "weather"}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"東京\\"}"}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"city": "東京"}</tool_call>',
        '<tool_call>{"type": "function", "function": {"name": "weather", "arguments": {"city": "東京"}}}</tool_call>',
    ],
)
def test_hermes_calls_are_read_as_models_write_them(text: str) -> None:
    reply = parsed("hermes", text)
    assert (reply.text, reply.calls) == ("", [WEATHER_CALL])


def test_mistrals_older_array_is_read() -> None:
    assert parsed("mistral", f" [TOOL_CALLS] [{W}, {C}]").calls == [WEATHER_CALL, CLOCK_CALL]


def test_llamas_call_needs_no_mark_at_the_beginning_of_a_reply() -> None:
    text = W.replace("arguments", "parameters")
    assert parsed("llama", text).calls == [WEATHER_CALL]
    assert parsed("llama", f"It is {text}").calls == []


def test_tagged_values_have_the_types_of_the_schema() -> None:
    head = "<tool_call><function=weather><parameter=city>12</parameter>"
    reply = parsed("tagged", f"{head}<parameter=days>\n3\n</parameter></function></tool_call>")
    assert json.loads(reply.calls[0][1]) == {"city": "12", "days": 3}


def test_text_around_calls_stays_and_the_space_between_goes() -> None:
    reply = parsed("hermes", f"One.\n\n<tool_call>{W}</tool_call>\n\n<tool_call>{C}</tool_call>\n")
    assert (reply.text, len(reply.calls)) == ("One.", 2)


def test_a_call_cut_by_length_keeps_what_it_has() -> None:
    assert parsed("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "東').calls == [
        ["weather", '{"city": "東']
    ]


@pytest.mark.parametrize("family", TWO_CALLS)
def test_without_tools_marks_of_calls_are_text(family: str) -> None:
    text = f"See <tool_call>{W}</tool_call> and [TOOL_CALLS]"
    reply = Parsed(parser_of(TOKENIZERS[family], asking()), text)
    assert reply.calls == []
    assert family == "templated" or reply.text == text


@pytest.mark.parametrize("family", TWO_CALLS)
def test_special_tokens_that_mark_calls_are_decoded_for_the_parser(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    parser = parser_of(tokenizer, with_tools())
    stream = TextStream(tokenizer, shown_ids=parser.shown_ids)
    pieces = [stream.feed([one]) for one in tokenizer.encode(TWO_CALLS[family], add_special_tokens=False)]
    assert Parsed(parser, *pieces, stream.flush()).calls == [WEATHER_CALL, CLOCK_CALL]


@pytest.mark.parametrize("family", TWO_CALLS)
def test_stop_strings_are_looked_for_in_the_answer_only(family: str) -> None:
    request = with_tools()
    object.__setattr__(request, "stop", ("東", "END"))
    parser = parser_of(TOKENIZERS[family], request)
    assert len(Parsed(parser, TWO_CALLS[family]).calls) == 2
    parser = parser_of(TOKENIZERS[family], request)
    text = "<|channel|>final<|message|>one EN" if family == "harmony" else "one EN"
    assert (Parsed(parser, text, "D two").text, parser.stopped) == ("one ", True)
