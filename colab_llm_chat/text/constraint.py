"""Which grammar a request puts on its reply, if any: JSON, forced tool calls, or strict ones once they begin.

Knows no syntax of its own: `forced` writes the parts.
"""

from __future__ import annotations

from ..errors import InvalidRequest, UnsupportedParameter
from ..protocol.messages import ChatRequest, Tool, ToolUse
from . import forced
from .dialect import Dialect, offered
from .forced import GAP, TEXT, Grammar, inline_json, literal, one_of
from .grammar import check_grammar, check_schema, check_tokenizer, json_grammar


def reply_grammar(dialect: Dialect, request: ChatRequest, prompt: str) -> str | None:
    """None where the reply is free. Raises UnsupportedParameter where a call cannot be forced."""
    use = request.tool_use if offered(request) and not request.raw else None
    forces = use is not None and use.choice in ("required", "named")
    strict = use is not None and any(tool.strict for tool in use.tools)
    if request.json_schema is None and not forces and not strict:
        return None
    param = "tools" if request.json_schema is None else "response_format"
    check_tokenizer(dialect.tokenizer, param=param)
    for schema in (request.json_schema or {}, *(tool.parameters for tool in (use.tools if use else ()))):
        check_schema(schema, param=param)
    alone = None if request.json_schema is None else json_grammar(request.json_schema)
    if alone is not None and (request.raw or (use is None and dialect.marks is None and not dialect.harmony)):
        return alone
    grammar = Grammar(dialect.grammar_id)
    if dialect.harmony:
        text = _harmony(grammar, request, use if forces or strict or alone else None)
    else:
        answers = _answers(grammar, dialect, request, use=use)
        if not answers:
            return None
        text = grammar.finished(f"{_thought(grammar, dialect, request, prompt=prompt)} {one_of(answers)}")
    check_grammar(text, param=param)
    return text


def _answers(grammar: Grammar, dialect: Dialect, request: ChatRequest, *, use: ToolUse | None) -> list[str]:
    """What the reply may be; nothing where it may be anything."""
    if use is not None and use.choice in ("required", "named"):
        return [grammar.rule(_calls(grammar, dialect, use))]
    calls = use is not None and dialect.syntax is not None
    if request.json_schema is None:
        return [grammar.rule(_free(grammar, dialect, use))] if use is not None and calls else []
    answers = [grammar.rule(inline_json(request.json_schema))]
    return [*answers, grammar.rule(_calls(grammar, dialect, use))] if use is not None and calls else answers


def _thought(grammar: Grammar, dialect: Dialect, request: ChatRequest, *, prompt: str) -> str:
    """The reasoning before the answer, which the model need not begin unless the prompt did."""
    marks = dialect.marks
    if marks is None or prompt.rstrip().endswith(marks.close):
        return ""
    if dialect.opened(request, prompt):
        return f"{grammar.up_to(marks.close)} {GAP}"
    return f"({grammar.mark(marks.open)} {grammar.up_to(marks.close)} {GAP})?"


def _calls(grammar: Grammar, dialect: Dialect, use: ToolUse) -> str:
    """One call or more of the tools that are allowed, each with arguments that its schema takes."""
    syntax = dialect.syntax
    if syntax is None:
        raise UnsupportedParameter(
            "A tool call cannot be forced on this model: how its template writes calls is not known here.",
            param="tool_choice",
            hint='Use tool_choice "auto".',
        )
    opening = "" if syntax.first_openings else grammar.mark(syntax.openings[0])
    bodies = one_of([grammar.rule(syntax.write(grammar, tool, True)) for tool in _allowed(use)])
    more = f" {literal(syntax.between)}" if syntax.between else ""
    if syntax.around is not None:
        first, last = map(literal, syntax.around)
        several = f"({more} {bodies})*" if use.parallel else ""
        return f"{opening} {first} {bodies} {several} {last}"
    one = f"{opening} {bodies}"
    return f"{one} ({more} {one})*" if use.parallel else one


def _free(grammar: Grammar, dialect: Dialect, use: ToolUse) -> str:
    """Any text; a call, once it has begun, keeps to the schema of a strict tool."""
    syntax = dialect.syntax
    if syntax is None or syntax.around is not None:
        return grammar.rule(TEXT)
    bodies = one_of([grammar.rule(syntax.write(grammar, tool, tool.strict)) for tool in use.tools])
    if syntax.first_openings:
        return rf"/([^{{](.|\n)*)?/ | {bodies} ({literal(syntax.between)} {bodies})*"
    return f"({grammar.up_to(syntax.openings[0])} {bodies})* {grammar.rule(TEXT)}"


def _allowed(use: ToolUse) -> list[Tool]:
    if use.choice != "named":
        return list(use.tools)
    named = [tool for tool in use.tools if tool.name == use.name]
    if not named:
        raise InvalidRequest(f"tool_choice names {use.name!r}, which is none of the tools.", param="tool_choice")
    return named


def _harmony(grammar: Grammar, request: ChatRequest, use: ToolUse | None) -> str:
    """Analysis if the model likes, then the one message that is asked for."""
    channel, message = grammar.mark("<|channel|>"), grammar.mark("<|message|>")
    again = f'{grammar.mark("<|start|>")} "assistant"'
    thought = f'({channel} "analysis" {message} {grammar.up_to("<|end|>")} {again})?'
    forces = use is not None and use.choice in ("required", "named")
    answers = []
    if use is not None:
        exact = [(tool, forces or tool.strict) for tool in (_allowed(use) if forces else use.tools)]
        answers += [grammar.rule(forced.harmony(grammar, tool, strictly)) for tool, strictly in exact]
    if not forces:
        schema = request.json_schema
        body = TEXT if schema is None else inline_json(schema)
        answers.append(grammar.rule(f'"final" {message} {grammar.rule(body)}'))
    return grammar.finished(f"{thought} {channel} {one_of(answers)}")
