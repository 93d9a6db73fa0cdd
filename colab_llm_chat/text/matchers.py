"""Grammars that replies must keep to: the vocabulary prepared once, then one llguidance matcher a sequence.

Knows neither tensors nor rows. Never imports torch: the web process checks grammars with the same limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from ..errors import InvalidRequest, UnsupportedParameter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Measured over 128 k ids: at most 0.2 s to compile, 40 ms for a mask; llguidance's own limit allows 12 s and 0.6 s.
LARGEST_GRAMMAR = 20_000


class Grammars:
    """Makes matchers for one tokenizer. To prepare it takes a second for 128 k ids, with the interpreter held."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises UnsupportedParameter for tokenizers whose ids are not bytes of text."""
        try:
            serialized = tokenizer.backend_tokenizer.to_str()
            self._vocabulary = LLTokenizer(serialized, eos_token=tokenizer.eos_token_id)
        except (AttributeError, ValueError) as error:
            raise unsupported(tokenizer) from error

    def matcher(self, grammar: str) -> LLMatcher:
        """At the beginning of a reply, its first mask made. Raises InvalidRequest for a grammar that allows nothing."""
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0, limits=limits())
        if not matcher.is_error():
            # The first is the slowest by far, and is kept until a token is taken.
            matcher.compute_bitmask()
        if matcher.is_error():
            raise refused(matcher.get_error())
        return matcher


def limits() -> LLParserLimits:
    # Optional properties may each come next: its own limit ends a reply in the middle where a thousand may.
    return LLParserLimits(max_grammar_size=LARGEST_GRAMMAR, max_items_in_row=LARGEST_GRAMMAR, verbose_errors=False)


def refused(fault: str, *, param: str = "response_format") -> InvalidRequest:
    """llguidance's own words on a schema, of which those in lines of their own are for its developers."""
    words = " ".join(fault.replace("<non-verbose/>", "").split()).rstrip(".")
    if "NoExtension" in words:
        words = "no text can satisfy it"
    return InvalidRequest(
        f"This JSON schema cannot be enforced: {words[:300]}.",
        param=param,
        hint="Simplify the schema, or leave the keyword out; the README lists what is understood.",
    )


def unsupported(tokenizer: PreTrainedTokenizerBase, *, param: str = "response_format") -> UnsupportedParameter:
    return UnsupportedParameter(
        f"{type(tokenizer).__name__} of this model does not make its text from bytes: JSON cannot be enforced with it.",
        param=param,
        hint="Ask for JSON in words, or start the server with a model that has a byte-level tokenizer.",
    )
