"""From which language into which one: what a request's two codes mean to each kind of encoder-decoder model.

Raises InvalidRequest for codes that the model does not know and for those it needs and did not get. Makes no ids.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import InvalidRequest
from ..protocol.messages import ChatRequest, Task
from .languages import code_of, languages, name_of, near_matches

Side = Literal["source_language", "target_language"]
EXAMPLES = ("jpn_Jpan", "eng_Latn", "fra_Latn", "deu_Latn")
# Letters alone: Chinese has the middle dot in names, and long and sound marks decorate text of any language.
_KANA = re.compile("[\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\uff66-\uff6f\uff71-\uff9d]")
# No error needs more of what the sender wrote.
SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """What the codes do: `prefix` goes before the text, the ids tell the model its languages; `notes` are for people.

    `translates`: the reply is a translation, and wants no randomness.
    """

    prefix: str = ""
    source_id: int | None = None
    target_id: int | None = None
    translates: bool = False
    notes: tuple[str, ...] = ()


class Way(Protocol):
    """How one model is told the languages; `languages` are the codes it is known to take."""

    task: Task
    languages: tuple[str, ...]

    def direction(self, request: ChatRequest, fixed: Collection[int]) -> Direction:
        """`fixed` are the ids with which the model's own files let a reply begin."""
        ...


class ByTokens:
    """NLLB, M2M-100 and mBART: a token for each language. The target must be told, unless the files fix it.

    The source is taken for what the text plainly looks like, and that is noted. A tokenizer's own source language is no
    default: its class writes one into its files that nobody chose.
    """

    task: Task = "translation"

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.languages = tuple(sorted(ids))
        self._ids = ids

    def direction(self, request: ChatRequest, fixed: Collection[int]) -> Direction:
        target = request.target_language or next((code for code in self.languages if self._ids[code] in fixed), None)
        target_id = self._id("target_language", target)
        source = request.source_language or self._looks_like(request, target)
        source_id = self._id("source_language", source)
        guessed = () if request.source_language else (f"The text was read as {name_of(str(source))} (`{source}`).",)
        return Direction(source_id=source_id, target_id=target_id, translates=True, notes=guessed)

    def _looks_like(self, request: ChatRequest, target: str | None) -> str | None:
        """Japanese with kana, English in plain letters: a guess, and so none where it would mean no translation."""
        text = last_of_user(request)
        letters = "".join(filter(str.isalpha, text))
        code = "jpn_Jpan" if _KANA.search(text) else "eng_Latn" if letters and letters.isascii() else None
        return code if code in self._ids and code != target else None

    def _id(self, side: Side, code: str | None) -> int:
        if code is None:
            raise missing(side, self.languages)
        if code not in self._ids:
            raise unknown(side, code, self.languages)
        return self._ids[code]


class ByPrefix:
    """T5: the prefixes of the pairs that it was trained on, as its config has them by two letters (`en`, `de`)."""

    task: Task = "text2text"

    def __init__(self, prefixes: Mapping[tuple[str, str], str]) -> None:
        pairs = {(code_of(source), code_of(target)): prefix for (source, target), prefix in prefixes.items()}
        self._prefixes = {(one, other): prefix for (one, other), prefix in pairs.items() if one and other}
        self.languages = tuple(sorted({code for pair in self._prefixes for code in pair}))

    def direction(self, request: ChatRequest, fixed: Collection[int]) -> Direction:
        source, target = request.source_language, request.target_language
        if source is None and target is None:
            typed = last_of_user(request)
            return Direction(translates=any(map(typed.startswith, self._prefixes.values())))
        check(request, self.languages)
        fitting = [one for one in self._prefixes if source in (None, one[0]) and target in (None, one[1])]
        if len(fitting) != 1:
            raise self._untrained(source, target)
        return Direction(prefix=self._prefixes[fitting[0]], translates=True)

    def _untrained(self, source: str | None, target: str | None) -> InvalidRequest:
        asked = f"from {name_of(source)}" if source else ""
        asked += f" into {name_of(target)}" if target else ""
        pairs = ", ".join(f"{source} to {target}" for source, target in self._prefixes)
        return InvalidRequest(
            f"This model was not trained to translate {asked.strip()}."
            if target
            else f"This model has to be told into which language it translates {asked}.",
            param="target_language",
            hint=f"It was trained for {pairs}. Without languages the text goes in as typed.",
        )


class ByInstruction:
    """FLAN-T5: languages by their names, in the sentence that its card uses."""

    task: Task = "text2text"
    languages: tuple[str, ...] = ()

    def direction(self, request: ChatRequest, fixed: Collection[int]) -> Direction:
        source, target = request.source_language, request.target_language
        if source is None and target is None:
            return Direction()
        check(request, languages())
        if target is None:
            raise missing("target_language", languages())
        origin = f" {name_of(source)}" if source else ""
        return Direction(prefix=f"translate{origin} to {name_of(target)}: ", translates=True)


class AsTyped:
    """BART and all others: codes mean nothing to them, not even to those that translate one pair of languages."""

    task: Task = "text2text"
    languages: tuple[str, ...] = ()

    def __init__(self, *, translates: bool) -> None:
        self._translates = translates

    def direction(self, request: ChatRequest, fixed: Collection[int]) -> Direction:
        return Direction(translates=self._translates, notes=ignored_languages(request))


def last_of_user(request: ChatRequest) -> str:
    """The text that the model reads. Raises InvalidRequest where there is none."""
    for message in reversed(request.messages):
        if message.role == "user":
            return message.content
    raise InvalidRequest(
        "There is no message of the user's to answer.", param=request.asked_in, hint="Send the text as such a message."
    )


def ignored_languages(request: ChatRequest) -> tuple[str, ...]:
    """The note that a request's codes were without effect."""
    named = {"source_language": request.source_language, "target_language": request.target_language}
    given = " and ".join(f"`{name}`" for name, code in named.items() if code is not None)
    return (f"This model does not translate by language codes; {given} had no effect.",) if given else ()


def check(request: ChatRequest, known: Collection[str]) -> None:
    """Raises InvalidRequest for a code that is none, with near matches among the known ones."""
    sides: dict[Side, str | None] = {
        "source_language": request.source_language,
        "target_language": request.target_language,
    }
    for side, code in sides.items():
        if code is not None and code not in known and code not in languages():
            raise unknown(side, code, known)


def unknown(side: Side, code: str, known: Collection[str]) -> InvalidRequest:
    """The error for a code that the model does not have."""
    near = ", ".join(f"`{one}` ({name_of(one)})" for one in near_matches(code, known))
    shown = code if len(code) <= SHOWN else code[:SHOWN] + "…"
    problem = f"is {name_of(code)}, which this model does not have" if code in languages() else "is no code it knows"
    return InvalidRequest(
        f"`{side}` {shown!r} {problem}.",
        param=side,
        hint=f"Did you mean {near}?" if near else f"Send a FLORES-200 code, such as {_examples(known)}.",
    )


def missing(side: Side, known: Collection[str]) -> InvalidRequest:
    """The error for a code that the model needs."""
    to_or_from = "into which language to translate" if side == "target_language" else "which language the text is in"
    flag = "--language-target" if side == "target_language" else "--language-source"
    return InvalidRequest(
        f"This model has to be told {to_or_from}: `{side}` is missing.",
        param=side,
        hint=f"Send `{side}` as a FLORES-200 code, such as {_examples(known)}; {flag} sets it for all requests.",
    )


def _examples(known: Collection[str]) -> str:
    usual = [code for code in EXAMPLES if code in known] or sorted(known)
    return " or ".join(f"`{code}`" for code in usual[:2])
