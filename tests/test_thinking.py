from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_llm_chat.protocol.messages import ChatRequest, Message
from colab_llm_chat.text.stream import TextStream
from tests.reply_formats import HERMES, TURNS, Parsed, asking, parser_of, templated, tokenizer_of, with_tools
from tests.tokenizers_made_here import CHATML, byte_level

OPENED = TURNS.replace("assistant\n", "assistant\n<think>\n")
THOUGHTS = {
    "hermes": "<think>\nHm, 猫.\n\nYes.\n</think>\n\nMeow.\n",
    "mistral": "[THINK]Hm, 猫.\n\nYes.[/THINK]Meow.\n",
    "harmony": "<|channel|>analysis<|message|>Hm, 猫.\n\nYes.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Meow.\n",
}
TOKENIZERS = {family: tokenizer_of(family) for family in THOUGHTS} | {"templated": templated()}
THOUGHTS["templated"] = THOUGHTS["hermes"]
words = st.sampled_from(["<think>", "</think>", "<thi", "\n", " ", "a", "猫", "</", "[THINK]", "{"])
texts = st.lists(words, max_size=12).map("".join)


def parsed(template: str, *feeds: str, request: ChatRequest | None = None) -> tuple[str, str]:
    reply = Parsed(parser_of(byte_level(template), request or asking()), *feeds)
    return reply.reasoning, reply.text


@pytest.mark.parametrize("family", THOUGHTS)
def test_reasoning_and_answer_are_told_apart(family: str) -> None:
    reply = Parsed(parser_of(TOKENIZERS[family], asking()), *THOUGHTS[family])
    assert (reply.reasoning, reply.text) == ("Hm, 猫.\n\nYes.", "Meow.\n")


@pytest.mark.parametrize("family", THOUGHTS)
def test_reasoning_that_length_cuts_is_all_reasoning(family: str) -> None:
    reply = Parsed(parser_of(TOKENIZERS[family], asking()), THOUGHTS[family].partition(", 猫")[0])
    assert (reply.reasoning, reply.text) == ("Hm", "")


@pytest.mark.parametrize("family", ["hermes", "mistral", "harmony"])
def test_special_tokens_that_mark_reasoning_are_decoded_for_the_parser(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    parser = parser_of(tokenizer, asking())
    stream = TextStream(tokenizer, shown_ids=parser.shown_ids)
    pieces = [stream.feed([one]) for one in tokenizer.encode(THOUGHTS[family], add_special_tokens=False)]
    assert Parsed(parser, *pieces, stream.flush()).whole == ("Meow.\n", "Hm, 猫.\n\nYes.", [])


def test_a_prompt_that_opens_the_reasoning_needs_no_mark_in_the_reply() -> None:
    assert parsed(OPENED, "Hm.\n</think>\n\nMeow.") == ("Hm.", "Meow.")
    assert parsed(OPENED, "Hm.\n</thi") == ("Hm.\n</thi", "")


def test_an_answer_carried_on_is_no_reasoning_but_an_opened_thought_is() -> None:
    asked = Message("user", "hi")
    said = asking(asked, Message("assistant", "I said "), continue_final=True)
    assert parsed(HERMES, "<think> is a tag", request=said) == ("", "<think> is a tag")
    thought = asking(asked, Message("assistant", "<think>Hm"), continue_final=True)
    assert parsed(HERMES, "m.</think>Meow.", request=thought) == ("m.", "Meow.")


def test_marks_in_the_middle_of_an_answer_are_text() -> None:
    text = "Models write <think>so</think>.\n"
    assert parsed(HERMES, text) == ("", text)


@given(text=texts)
def test_models_without_marks_are_untouched(text: str) -> None:
    parser = parser_of(byte_level(CHATML), asking(stop=("a",)))
    assert (parser.shown_ids, parser.stream_stop) == (frozenset(), ("a",))
    assert Parsed(parser, text).whole == (text, "", [])


@given(text=texts)
def test_a_raw_prompts_reply_is_never_split(text: str) -> None:
    assert parsed(HERMES, text, request=asking(raw=True)) == ("", text)


@pytest.mark.parametrize("template", [HERMES, OPENED])
@settings(deadline=None, max_examples=200)
@given(text=texts, seed=st.integers(0, 10**6))
def test_no_cut_changes_the_parts(template: str, text: str, seed: int) -> None:
    cuts = sorted(random.Random(seed).choices(range(len(text) + 1), k=4))
    feeds = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parsed(template, *feeds) == parsed(template, text)


def test_reasoning_comes_before_a_call() -> None:
    text = 'Hm.</think>\n\n<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
    reply = Parsed(parser_of(byte_level(HERMES), with_tools()), "<think>", text)
    assert reply.whole == ("", "Hm.", [["clock", "{}"]])


def test_stop_strings_do_not_end_the_reasoning() -> None:
    parser = parser_of(byte_level(HERMES), asking(stop=("\n\n",)))
    reply = Parsed(parser, "<think>\nOne.\n\nTwo.\n</think>\n\nMeow.\n\nMore.")
    assert (reply.reasoning, reply.text, parser.stopped) == ("One.\n\nTwo.", "Meow.", True)
