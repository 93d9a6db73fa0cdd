"""Reads the hand-written templates and draws lines from them.

One line of `lines/<situation>.txt` is one template group: `{a|b}` picks an alternative and `=name` a word
from `lists.txt`. Knows nothing of replies, splits or models.
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "lines"
SITUATIONS = (
    "greeting", "food", "petting", "praise", "scolding", "play", "command", "night", "farewell", "other",
)  # fmt: skip
_CHOICE = re.compile(r"\{([^{}]*)\}")
_WORD = re.compile(r"=([a-z]+)")
_JAPANESE = re.compile(r"[ぁ-ヿ（]")


@dataclass(frozen=True)
class Group:
    """One template with what it is about; `name` is unique, `mood` finds the fitting actions."""

    name: str
    situation: str
    mood: str
    template: str

    @property
    def language(self) -> str:
        """`ja`, or `en` for English and every other language."""
        return "ja" if _JAPANESE.search(self.template) else "en"


def read_lists(folder: Path = FOLDER) -> dict[str, list[str]]:
    """The shared word lists by name."""
    rows = _rows(folder / "lists.txt")
    return {name: words.strip().split("|") for name, words in (row.split(":", 1) for row in rows)}


def read_groups(folder: Path = FOLDER) -> list[Group]:
    """Every template group of every situation, in file order."""
    groups: list[Group] = []
    for situation in SITUATIONS:
        mood = ""
        for number, row in enumerate(_rows(folder / f"{situation}.txt")):
            if re.fullmatch(r"\[[a-z]+\]", row):
                mood = row[1:-1]
            else:
                groups.append(Group(f"{situation}/{mood}/{number}", situation, mood, row))
    return groups


def _rows(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [row for row in text.split("\n") if row.strip() and not row.startswith("# ")]


def draw(template: str, lists: dict[str, list[str]], rng: random.Random) -> str:
    """One random line of `template`."""

    def word(match: re.Match[str]) -> str:
        words = lists.get(match[1])
        return rng.choice(words) if words else match[0]

    def choice(match: re.Match[str]) -> str:
        return rng.choice(match[1].split("|"))

    while _CHOICE.search(template):
        template = _CHOICE.sub(choice, template)
    return re.sub(r"\s+", " ", _WORD.sub(word, template)).strip()


def draw_distinct(template: str, lists: dict[str, list[str]], *, count: int, rng: random.Random) -> list[str]:
    """Up to `count` different lines of `template`; fewer where it has fewer."""
    lines = (draw(template, lists, rng) for _ in range(count * 6))
    return [line for line in dict.fromkeys(lines) if line][:count]
