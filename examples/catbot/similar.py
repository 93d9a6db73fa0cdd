"""Says whether two lines are near-duplicates: the rule that keeps held-out lines new."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from difflib import SequenceMatcher

TRIGRAM_JACCARD = 0.5
EDIT_SIMILARITY = 0.8
# Below this overlap of trigrams the slower edit similarity is not even looked at.
WORTH_EDITING = 0.2


def letters(line: str) -> str:
    """`line` without case, width, spaces and punctuation; all of it if nothing would be left."""
    plain = unicodedata.normalize("NFKC", line).lower()
    return re.sub(r"[\W_ー〜ｰ]+", "", plain) or plain


def trigrams(text: str) -> frozenset[str]:
    """Character trigrams with one mark at each end."""
    padded = f"^{text}$"
    return frozenset(padded[at : at + 3] for at in range(max(1, len(padded) - 2)))


class NearIndex:
    """Known lines, ready to be asked for near-duplicates of another line."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.texts = sorted({letters(line) for line in lines})
        self.sizes = [len(trigrams(text)) for text in self.texts]
        self.places: dict[str, list[int]] = defaultdict(list)
        for place, text in enumerate(self.texts):
            for trigram in trigrams(text):
                self.places[trigram].append(place)

    def near(self, line: str) -> str | None:
        """A known line's letters with trigram Jaccard >= 0.5 or (from 0.2 on) edit similarity >= 0.8."""
        text = letters(line)
        own = trigrams(text)
        shared = Counter(place for trigram in own for place in self.places.get(trigram, ()))
        for place, count in shared.items():
            jaccard = count / (len(own) + self.sizes[place] - count)
            if jaccard >= TRIGRAM_JACCARD:
                return self.texts[place]
            if jaccard >= WORTH_EDITING and _edit_similarity(text, self.texts[place]) >= EDIT_SIMILARITY:
                return self.texts[place]
        return None


def _edit_similarity(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()
