"""Small chat templates in the formats of the families that call tools or think, and what their models would reply."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from colab_llm_chat.protocol.messages import ChatRequest, Message, Tool, ToolUse
from colab_llm_chat.settings import SamplingParams
from colab_llm_chat.text.prompts import PromptEncoder
from colab_llm_chat.text.reply import ReplyParser
from tests.tokenizers_made_here import byte_level

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}CALL{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"


def _family(call: str) -> str:
    return TOOLS + TURNS.replace("CALL", call)


HERMES = _family(
    '<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>'
)
TAGGED = _family(
    "<tool_call><function={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}"
    "<parameter={{ k }}>{{ v }}</parameter>{% endfor %}</function></tool_call>"
)
LLAMA = (
    _family('{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}')
    .replace("</think>", "")
    .replace("<think>", "")
)
MISTRAL = (
    _family(
        "{% if c.id | length != 9 %}{{ raise_exception('ids of length 9') }}{% endif %}"
        "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}"
    )
    .replace("<think>", "[THINK]")
    .replace("</think>", "[/THINK]")
)
HARMONY = (
    "{% for t in tools or [] %}{{ t.function.name }}: {{ t.function.description }}\n{% endfor %}"
    "{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
FAMILIES = {"hermes": HERMES, "tagged": TAGGED, "llama": LLAMA, "mistral": MISTRAL, "harmony": HARMONY}
SPECIAL = {
    "llama": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"),
    "harmony": ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"),
}
RESPONSE_TEMPLATE: dict[str, Any] = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "content": {},
        "reasoning_content": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "content": "json",
            "repeats": True,
            "transform": {"type": "function", "function": "{content}"},
        },
    },
}
WEATHER = Tool(
    name="weather",
    description="Weather of a city.",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
CLOCK = Tool(name="clock", parameters={"type": "object", "properties": {}, "additionalProperties": False})


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer with that family's template and special tokens."""
    tokenizer = byte_level(FAMILIES[family])
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL.get(family, ())])
    return tokenizer


def templated() -> PreTrainedTokenizerFast:
    """One that brings transformers' own description of its replies."""
    tokenizer = tokenizer_of("hermes")
    tokenizer.response_template = RESPONSE_TEMPLATE
    return tokenizer


def asking(*messages: Message, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=messages or (Message("user", "hi"),), sampling=SamplingParams(), **fields)


def with_tools(*messages: Message, **use: Any) -> ChatRequest:
    return asking(*messages, tool_use=ToolUse(tools=(WEATHER, CLOCK), **use))


def parser_of(tokenizer: PreTrainedTokenizerFast, request: ChatRequest) -> ReplyParser:
    encoder = PromptEncoder(tokenizer)
    return encoder.parser(request, encoder.encode(request, context_length=4096))


class Parsed:
    """A reply's deltas joined."""

    def __init__(self, parser: ReplyParser, *feeds: str) -> None:
        self.text, self.reasoning, self.calls = "", "", list[list[str]]()
        for delta in [*map(parser.feed, feeds), parser.flush()]:
            self.text += delta.text
            self.reasoning += delta.reasoning
            for call in delta.tool_calls:
                if call.name is not None:
                    self.calls.append([call.name, ""])
                self.calls[call.index][1] += call.arguments

    @property
    def whole(self) -> tuple[str, str, list[list[str]]]:
        return self.text, self.reasoning, self.calls
