"""How people really type: stray punctuation, emoji, letter case, typing errors, characters of no meaning."""

import random

ENDINGS = ["！", "!", "〜", "。", "…", "♪", "w", "笑", "😊", "🐱", "❤️", "✨", "🐾", "(^^)", "!!", "～"]
ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "0123456789",
    "あいうえおかきくけこさしすせそたちつてとのはひふへほまみむめもらりるれろん",
    "海山川田空木森林車駅紙石鉄電気算数国民経済政治法律鑰鱗麤龘",
    "!@#$%^&*()[]<>/\\|~`'\";:+-=_",
    "абвгдежзиклмнопрст가나다라마바사아자차αβγδεζηθ",
    "🚗🏢📈🧮🗻🎹🛰️🧲🥁🪐",
]


def gibberish(rng: random.Random, *, longest: int = 24) -> str:
    """Characters of one or two alphabets without meaning."""
    letters = "".join(rng.sample(ALPHABETS, rng.randint(1, 2)))
    text = "".join(rng.choice(letters + " ") for _ in range(rng.randint(2, longest)))
    return text.strip() or "?"


def disturb(line: str, rng: random.Random, *, times: int) -> str:
    """`line` with `times` small changes of the kind a hurried typist makes."""
    for _ in range(times):
        change = rng.choice([_drop, _swap, _double, _replace, _end, _strip_end, str.lower, str.upper, _end])
        line = change(line) if change in (str.lower, str.upper) else change(line, rng)
    return line or "?"


def crop(line: str, rng: random.Random) -> str:
    """A random stretch of `line`: whole words where it has spaces, else characters; at least a third of it."""
    parts: list[str] | str = line.split(" ") if line.isascii() else line
    size = rng.randint(max(1, -(-len(parts) // 3)), len(parts))
    start = rng.randint(0, len(parts) - size)
    joint = " " if line.isascii() else ""
    return joint.join(parts[start : start + size]) or line


def _inside(line: str, rng: random.Random) -> int:
    return rng.randrange(max(1, len(line) - 1))


def _drop(line: str, rng: random.Random) -> str:
    at = _inside(line, rng)
    return line[:at] + line[at + 1 :] if len(line) > 3 else line


def _swap(line: str, rng: random.Random) -> str:
    at = _inside(line, rng)
    return line[:at] + line[at : at + 2][::-1] + line[at + 2 :]


def _double(line: str, rng: random.Random) -> str:
    at = _inside(line, rng)
    return line[: at + 1] + line[at:]


def _replace(line: str, rng: random.Random) -> str:
    at = _inside(line, rng)
    return line[:at] + rng.choice(rng.choice(ALPHABETS)) + line[at + 1 :] if len(line) > 4 else line


def _end(line: str, rng: random.Random) -> str:
    return line if line.endswith(("）", ")", "*")) else line + rng.choice(ENDINGS)


def _strip_end(line: str, rng: random.Random) -> str:
    return line.rstrip("！!?？。.〜…♪~")
