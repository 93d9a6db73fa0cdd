"""Languages by their FLORES-200 codes: their names, other models' codes for them, and near matches for what is none.

Knows no request and no model; asks a tokenizer which of them it has.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TABLE = Path(__file__).parent / "languages.tsv"
CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
MOST_NEAR = 4
NEAR_ENOUGH = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """One row of the table: `short` is the two letters of ISO 639-1, `m2m` and `mbart` other models' codes; or ""."""

    code: str
    name: str
    short: str
    m2m: str
    mbart: str


@cache
def languages() -> Mapping[str, Language]:
    """All that FLORES-200 has, and what NLLB and M2M-100 have beside, by code."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        cleaned = [{name: "" if value == "-" else value for name, value in row.items()} for row in rows]
    return MappingProxyType({row["code"]: Language(**row) for row in cleaned})


def name_of(code: str) -> str:
    """The language's English name; the code itself where a model has one of its own."""
    found = languages().get(code)
    return found.name if found else code


def code_of(short: str) -> str | None:
    """The code of two letters, as T5's config names languages."""
    return next((one.code for one in languages().values() if short and short == one.short), None)


def token_ids(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, int]:
    """The tokens by which a translation model tells languages apart, by the languages' codes; empty where it has none.

    NLLB writes the codes themselves, M2M-100 `__ja__`, mBART `ja_XX`.
    """
    table = languages().values()
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    spellings = [
        {code: code for code in {*languages(), *filter(CODE.fullmatch, added)}},
        {one.code: f"__{one.m2m}__" for one in table if one.m2m},
        {one.code: one.mbart for one in table if one.mbart},
    ]
    found = [_ids(tokenizer, spelling) for spelling in spellings]
    most = max(found, key=len)
    return most if len(most) > 1 else {}


def _ids(tokenizer: PreTrainedTokenizerBase, spelling: Mapping[str, str]) -> dict[str, int]:
    ids = {code: tokenizer.convert_tokens_to_ids(token) for code, token in sorted(spelling.items())}
    return {code: one for code, one in ids.items() if isinstance(one, int) and one != tokenizer.unk_token_id}


def near_matches(asked: str, known: Collection[str]) -> tuple[str, ...]:
    """Codes among the known ones that somebody may have meant, the likeliest first.

    Finds them by the language's name, by other codes for it (`ja`, `jpn`, `ja-JP`), and by letters that are alike.
    """
    wanted = _folded(asked)
    names = {code: set(_names(code)) for code in known}
    for text in (wanted, wanted.partition("_")[0]):
        meant = [code for code in known if text and text in names[code]]
        if meant:
            return tuple(sorted(meant, key=_rarity)[:MOST_NEAR])
    alike = {code: max(SequenceMatcher(None, wanted, name).ratio() for name in names[code]) for code in known}
    near = [code for code in known if alike[code] >= NEAR_ENOUGH]
    return tuple(sorted(near, key=lambda code: (-alike[code], *_rarity(code)))[:MOST_NEAR])


def _names(code: str) -> Iterator[str]:
    """What people write for it, folded."""
    yield code.lower()
    yield code[:3]
    one = languages().get(code)
    if one is not None:
        yield from filter(None, (one.short, one.m2m, one.mbart.lower()))
        name = _folded(one.name.partition(" (")[0])
        yield from (name, _folded(one.name), *name.split("_"))


def _folded(text: str) -> str:
    return re.sub(r"[\W_]+", "_", text.casefold()).strip("_")


def _rarity(code: str) -> tuple[bool, str]:
    """Languages with two letters of their own are what most people mean."""
    one = languages().get(code)
    return one is None or not one.short, code
