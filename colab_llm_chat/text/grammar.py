"""JSON schemas as grammars that the engine enforces, checked before a reply begins.

Knows no tokens; never imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from .matchers import limits, refused, unsupported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Room for a thousand properties; what is longer is compiled for seconds before it is refused.
LONGEST_SCHEMA = 100_000
# `x-guidance` in a schema would switch off what is checked here; and no space where a model could go on for ever.
STRICT: dict[str, Any] = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}
# llguidance's compiler goes down by recursion, through references too, and for ever from the least of 64-bit integers,
# to which it rounds these: either would end this process. Measured: its stack holds 2,400 levels, but not 3,600.
DEEPEST_SCHEMA = 1_500
LEAST_NUMBER = -(2**63) + 1024
BYTES = {"ByteLevel", "ByteFallback"}


def json_grammar(schema: Mapping[str, Any], *, param: str = "response_format") -> str:
    """The grammar of a schema, {} being any JSON object. Raises InvalidRequest for one that cannot be enforced."""
    if not schema:
        schema = {"type": "object"}
    try:
        text = json.dumps({name: value for name, value in schema.items() if name != "x-guidance"})
        if len(text) > LONGEST_SCHEMA:
            raise refused(f"it has {len(text):,} characters, more than {LONGEST_SCHEMA:,}", param=param)
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=STRICT)  # type: ignore[arg-type]
    except (ValueError, RecursionError) as error:
        raise refused(str(error), param=param) from error
    check_grammar(grammar, param=param)
    return grammar


def check_schema(schema: Mapping[str, Any], *, param: str = "response_format") -> None:
    """Raises InvalidRequest for a schema that llguidance could not be trusted with."""
    references: set[str] = set()
    # What is reached through references is no deeper than the whole schema, once for each of them.
    deepest = _depth(schema, references, param) * (1 + len(references))
    if deepest > DEEPEST_SCHEMA:
        raise refused(
            f"its {len(references)} references may nest {deepest} levels, more than {DEEPEST_SCHEMA}", param=param
        )


def _depth(value: Any, references: set[str], param: str) -> int:
    """The levels of a JSON value, whose references are gathered."""
    if isinstance(value, int | float) and value < LEAST_NUMBER:
        raise refused(f"it has a number below {LEAST_NUMBER}", param=param)
    if isinstance(value, dict) and isinstance(value.get("$ref"), str):
        references.add(value["$ref"])
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max((_depth(one, references, param) for one in inner), default=0)


def check_grammar(grammar: str, *, param: str = "response_format") -> None:
    """Raises InvalidRequest for a grammar that llguidance does not compile."""
    fault, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=limits())
    if fault:
        raise refused("; ".join(messages), param=param)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, param: str = "response_format") -> None:
    """Raises UnsupportedParameter where llguidance cannot tell which bytes a token stands for.

    By its rule, not by its answer: to prepare a vocabulary would hold up every reply for a second.
    """
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    state = json.loads(decoder.__getstate__()) if decoder is not None else {}
    if not BYTES & {state.get("type"), *(part["type"] for part in state.get("decoders", []))}:
        raise unsupported(tokenizer, param=param)
