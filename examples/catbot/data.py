"""Builds the labelled lines, the split by template group, and the conversations for training.

Everything is drawn with one seed: two runs give the same data. Knows no tokens and no model.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from examples.catbot import noise
from examples.catbot.replies import ReplyTable
from examples.catbot.similar import NearIndex
from examples.catbot.templates import SITUATIONS, Group, draw_distinct, read_groups, read_lists

SEED = 20261121
LINES_PER_GROUP = 8
HELD_OUT_GROUPS = 5
VALIDATION_GROUPS = 4
LANGUAGES = ("ja", "en")
Message = dict[str, str]

TURNS = {
    "ja": ["。", "！", "。それより", "、それじゃ、", "。さて、", "…", "〜。", "、でも", "。ところで、", "\n"],
    "en": [". ", "! ", ". Anyway, ", ", but now: ", "... ", ". Now ", ", and then: ", ". By the way, ", "\n"],
}
SYSTEM_PROMPTS = [
    "あなたは猫です。", "あなたは可愛い猫です。猫の鳴き声で答えてください。", "猫のタマとして返事をしてください。",
    "半角カタカナの鳴き声と（動作）だけで話してください。", "君はうちの飼い猫。十文字くらいで答えて。",
    "親切なアシスタントとして答えてください。", "短く答えてください。", "日本語で答えてください。",
    "ねこになりきってください。人の言葉は話せません。", "あなたは甘えん坊の子猫です。",
    "You are a cat.", "You are a friendly house cat. Answer with a meow.", "You are a helpful assistant.",
    "Reply as Tama the cat, in half-width katakana.", "Answer briefly.", "Be nice.",
    "Pretend to be a sleepy cat. Never speak human words.", "You are the user's pet kitten.",
]  # fmt: skip


@dataclass(frozen=True)
class Line:
    """What a person says, and what it is about."""

    text: str
    situation: str
    mood: str
    language: str
    group: str
    compound: bool = False


Kin = dict[tuple[str, str], list[Line]]


@dataclass(frozen=True)
class Split:
    """Lines for learning, for choosing settings, and for the one final evaluation."""

    train: list[Line] = field(default_factory=list)
    validation: list[Line] = field(default_factory=list)
    held_out: list[Line] = field(default_factory=list)


def split_groups(groups: list[Group], rng: random.Random) -> dict[str, list[Group]]:
    """For each situation and language a few whole template groups are set aside."""
    parts: dict[str, list[Group]] = {"train": [], "validation": [], "held_out": []}
    for situation in SITUATIONS:
        for language in LANGUAGES:
            same = [g for g in groups if g.situation == situation and g.language == language]
            rng.shuffle(same)
            last = HELD_OUT_GROUPS + VALIDATION_GROUPS
            parts["held_out"] += same[:HELD_OUT_GROUPS]
            parts["validation"] += same[HELD_OUT_GROUPS:last]
            parts["train"] += same[last:]
    return parts


def build_split(*, validate: bool = False, seed: int = SEED) -> Split:
    """The data set. Without `validate` the validation groups are learned from as well."""
    rng = random.Random(seed)
    parts = {name: _lines(groups, rng) for name, groups in split_groups(read_groups(), rng).items()}
    compounds = {
        name: _compounds(parts[name], count, rng)
        for name, count in (("train", 2000), ("validation", 160), ("held_out", 200))
    }
    nonsense = [_nonsense(rng) for _ in range(160)]
    train = parts["train"] + compounds["train"] + nonsense
    validation = parts["validation"] + compounds["validation"]
    if not validate:
        train, validation = train + validation, []
    # Typing errors come before the check, so that they cannot bring a line near to a held-out one.
    train = _typed(train, rng)
    held_out = _unseen(parts["held_out"] + compounds["held_out"], train)
    return Split(train, _balanced(_unseen(validation, train), rng), _balanced(held_out, rng))


def _lines(groups: list[Group], rng: random.Random) -> list[Line]:
    lists = read_lists()
    return [
        Line(text, group.situation, group.mood, group.language, group.name)
        for group in groups
        for text in draw_distinct(group.template, lists, count=LINES_PER_GROUP, rng=rng)
    ]


def _compounds(lines: list[Line], count: int, rng: random.Random) -> list[Line]:
    """Two things said in one breath; the cat answers the last of them."""
    plain = [line for line in lines if not line.text.endswith(("）", ")", "*")) and len(line.text) < 40]
    made: list[Line] = []
    while len(made) < count:
        last = rng.choice(lines)
        first = rng.choice(plain)
        if first.language != last.language or first.situation in (last.situation, "other"):
            continue
        link = "" if last.text.startswith(("（", "(", "*")) else rng.choice(TURNS[last.language])
        text = first.text.rstrip("。.…！!〜~♪？?" if link else "") + link + last.text
        group = f"{first.group}+{last.group}"
        made.append(Line(text, last.situation, last.mood, last.language, group, compound=True))
    return made


def _nonsense(rng: random.Random) -> Line:
    return Line(noise.gibberish(rng), "other", "vague", "en", "other/vague/nonsense")


def _typed(lines: list[Line], rng: random.Random) -> list[Line]:
    """A tenth of the lines with a typing error or an emoji; doubles are dropped."""
    typed = {}
    for line in lines:
        text = noise.disturb(line.text, rng, times=1) if rng.random() < 0.1 else line.text
        typed.setdefault(text, Line(text, *_about(line)))
    return list(typed.values())


def _about(line: Line) -> tuple[str, str, str, str, bool]:
    return line.situation, line.mood, line.language, line.group, line.compound


def _unseen(lines: list[Line], train: list[Line]) -> list[Line]:
    known = NearIndex(line.text for line in train)
    return [line for line in lines if known.near(line.text) is None]


def _balanced(lines: list[Line], rng: random.Random) -> list[Line]:
    """At most two lines of a group, and three compounds of a situation and language."""
    kept: dict[tuple[str, ...], list[Line]] = {}
    for line in rng.sample(lines, len(lines)):
        key = ("+", line.situation, line.language) if line.compound else (line.group,)
        chosen = kept.setdefault(key, [])
        if len(chosen) < (3 if line.compound else 2):
            chosen.append(line)
    return sorted((line for chosen in kept.values() for line in chosen), key=lambda line: line.group)


def conversations(lines: list[Line], table: ReplyTable, *, rounds: int, seed: int) -> Iterator[list[Message]]:
    """`rounds` conversations that end with each line: other noise, replies, turns and system prompts each time."""
    rng = random.Random(seed)
    kin: Kin = {}
    for line in lines:
        if not line.compound:
            kin.setdefault((line.situation, line.language), []).append(line)
    for _ in range(rounds):
        for line in rng.sample(lines, len(lines)):
            earlier = rng.choices([0, 1, 2, 3, 6], [80, 11, 6, 2, 1])[0]
            turns = [*rng.choices(lines, k=earlier), line]
            yield [*_system(rng), *(message for turn in turns for message in _exchange(turn, table, rng, kin=kin))]
        for _ in range(len(lines) // 150):
            yield _exchange(_long(lines, rng), table, rng)


def _system(rng: random.Random) -> list[Message]:
    return [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}] if rng.random() < 0.2 else []


def _exchange(line: Line, table: ReplyTable, rng: random.Random, *, kin: Kin | None = None) -> list[Message]:
    text = _recast(line, kin, rng) if kin else line.text
    text = noise.disturb(text, rng, times=rng.choices([0, 1, 2], [6, 3, 1])[0])
    reply = table.draw(line.situation, line.mood, rng)
    return [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]


def _recast(line: Line, kin: Kin, rng: random.Random) -> str:
    """Half the time pieces of lines of one situation, so that no template is learned by heart as a whole."""
    chance = rng.random()
    if chance < 0.5 or line.compound:
        return line.text
    piece = noise.crop(line.text, rng)
    if chance < 0.65:
        return piece
    other = rng.choice(kin[line.situation, line.language])
    pieces = [piece, other.text if chance > 0.9 else noise.crop(other.text, rng)]
    rng.shuffle(pieces)
    return rng.choice([" ", "、", ""] if line.language == "ja" else [" ", ", "]).join(pieces)


def _long(lines: list[Line], rng: random.Random) -> Line:
    """Far more text than a cat listens to: many things at once, or one thing over and over."""
    if rng.random() < 0.5:
        unit = rng.choice([rng.choice(lines).text, noise.gibberish(rng, longest=4), rng.choice("あw9草!？ :a。")])
        text = (unit * 600)[: rng.choice([40, 100, 200, 300])]
    else:
        pieces = [
            rng.choice(lines).text if rng.random() < 0.5 else noise.gibberish(rng, longest=20)
            for _ in range(rng.choice([5, 8, 12]))
        ]
        text = rng.choice([" ", "。", "\n", ""]).join(pieces)
    return Line(text, "other", "talk", "en", "other/talk/long")
