"""A ChatRequest as the body that an upstream gets. Knows no network.

Other servers than this project's refuse fields that they do not know, so only what somebody set is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...errors import UnsupportedParameter
from ...errors.upstream import UpstreamLacks
from ...protocol.body import well_formed
from ...protocol.messages import ChatRequest, Message, Task
from ...settings import TokenRules

CHAT, RAW, TOKENIZE = "/chat/completions", "/completions", "/tokenize"
LANGUAGES = ("source_language", "target_language")
# What a person may have set, by the body's names; an upstream may not know them.
SETTABLE = frozenset(
    {*LANGUAGES, "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "no_repeat_ngram_size"}
    | {"frequency_penalty", "presence_penalty", "seed"}
)
# Of a request what no terminal asks for, and is not passed on yet.
NOT_PASSED_ON = {"tool_use": "tools", "json_schema": "response_format", "template_kwargs": "chat_template_kwargs"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A route behind the base, and the JSON that goes there."""

    route: str
    body: dict[str, Any]


def asked(request: ChatRequest, model: str, *, is_own: bool, task: Task = "chat") -> Asked:
    """A reply to the request, as a stream; `task` is the model's. Raises UnsupportedParameter, UpstreamLacks."""
    _refuse(request)
    request = _in_one(request, task) if request.raw and request.continue_final else request
    said = _prompt(request, is_own=is_own)
    drawn = request.sampling.model_dump(exclude_unset=True, exclude_none=True, exclude={"max_new_tokens"})
    body = {"model": model, **said, "stream": True, "max_tokens": request.sampling.max_new_tokens, **drawn}
    # Not with a raw text: some servers know it for conversations alone.
    body |= {"stream_options": {"include_usage": True}} if is_own or not request.raw else {}
    body |= {"stop": list(request.stop)} if request.stop else {}
    body |= {"deadline_ms": request.deadline_ms} if request.deadline_ms else {}
    return Asked(RAW if request.raw else CHAT, body)


def asked_for_prompt(request: ChatRequest, model: str) -> Asked:
    """The request's prompt, of this project's server."""
    _refuse(request)
    return Asked(TOKENIZE, {"model": model, **_prompt(request, is_own=True), "return_token_strs": True})


def _prompt(request: ChatRequest, *, is_own: bool) -> dict[str, Any]:
    named = {name: getattr(request, name) for name in LANGUAGES if getattr(request, name)}
    own: dict[str, Any] = {"truncation": request.truncation} if is_own else {}
    if request.raw and not request.continue_final:
        return {"prompt": well_formed(request.messages[-1].content), **named, **own}
    if request.continue_final and not is_own:
        raise UpstreamLacks(
            "This upstream cannot carry a reply on.", hint="Ask for the rest in a message; a colab-llm-chat server can."
        )
    if request.continue_final:
        own |= {"continue_final_message": True, "add_generation_prompt": False}
    own |= {"raw": True} if request.raw else {}
    return {"messages": [_fields(one) for one in request.messages], **named, **own}


def _in_one(request: ChatRequest, task: Task) -> ChatRequest:
    """A raw text with its reply so far, as /v1 can take them: one longer text. An encoder's text must stay what it was,
    and only as messages can the reply to it be carried on.
    """
    if task != "chat":
        return replace(request, raw=False)
    text = "".join(message.content for message in request.messages[-2:])
    return replace(request, messages=(Message("user", text),), continue_final=False)


def _fields(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": well_formed(message.content)}


def _refuse(request: ChatRequest) -> None:
    """Raises UnsupportedParameter for what would be silently without effect."""
    names = [name for field, name in NOT_PASSED_ON.items() if getattr(request, field)]
    if request.prompt_ids or request.rules != TokenRules():
        names.append("logit_bias" if not request.prompt_ids else "prompt")
    if names:
        raise UnsupportedParameter(f"`{names[0]}` is not passed on to an upstream.", param=names[0])
