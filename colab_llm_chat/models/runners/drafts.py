"""What may come next in a text, looked up in the text itself: where its last ids stood before, and what followed there.

A step computes a row's drafts together with its next token, at little more cost. What is then drawn tells how many of
them were right, so the reply is the one that it would have been (prompt lookup decoding, Saxena 2023; Leviathan et
al. 2023 with drafts that are certain). Knows no tensors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from ...engine.sequence import Sequence, Step

# So many last ids must have stood there before: fewer do by chance.
KEY = 3
# Drafts of a row, and tokens of a step that has any: far more cost as much as they gain.
MOST, LARGEST_STEP = 8, 64
# Share of drafts taken to be right before any was tried, and the one above which it makes no difference.
FIRST_RATE, SURE = 0.6, 0.95
# Drafted is as far as all are right with this probability.
LEAST_CHANCE = 0.3
CHARACTERS = sys.maxunicode + 1


class Lookup:
    """The ids of one text as characters, which are searched quickly; `rate` is the share of drafts that were right."""

    def __init__(self) -> None:
        self.rate = FIRST_RATE
        self._text = ""

    def find(self, ids: list[int], most: int) -> list[int]:
        """What followed the last ids where they stood before, the latest such place; at most so many ids.

        `ids` are those of the last call, and more.
        """
        self._text += "".join(chr(one % CHARACTERS) for one in ids[len(self._text) :])
        at = self._text.rfind(self._text[-KEY:], 0, -1)
        if at < 0 or most < 1:
            return []
        reach = min(most, MOST, int(math.log(LEAST_CHANCE) / math.log(self.rate)))
        if reach < 1:
            # Forgotten little by little, so that it is tried again.
            self.rate += 0.02 * (FIRST_RATE - self.rate)
        first = at + KEY
        # A text that repeats itself goes on so.
        return [ids[first + i % (len(ids) - first)] for i in range(reach)]

    def learn(self, drafted: int, right: int) -> None:
        for one in [1.0] * right + [0.0] * (right < drafted):
            self.rate = min(0.7 * self.rate + 0.3 * one, SURE)

    def expected(self, drafted: int) -> float:
        """How many of so many drafts will be right."""
        return sum(self.rate**one for one in range(1, drafted + 1))


class Drafter:
    """Gives rows drafts wherever steps with so many tokens, as measured, are worth it."""

    def __init__(self, longest: int) -> None:
        """`longest` text that the model has positions for."""
        self._longest = longest
        self._lookups: WeakKeyDictionary[Sequence, Lookup] = WeakKeyDictionary()
        # Of steps, by the powers of two of their rows and of their drafts; None after the first of a size.
        self._seconds: dict[tuple[int, int], float | None] = {}

    def draft(self, step: Step) -> None:
        """Set the drafts of the step's rows; beside a chunk there are none, for it takes what time there is."""
        room = 0 if step.chunk is not None else LARGEST_STEP - len(step.rows)
        for at, row in enumerate(step.rows):
            # A fair share, for the first draft of a row is right more often than the last one of another.
            most = min(math.ceil(room / (len(step.rows) - at)), self._most(row))
            row.drafts = self._lookup(row).find(row.ids, most) if most > 0 else []
            room -= len(row.drafts)
        if not self._worth(step.rows):
            for row in step.rows:
                row.drafts = []

    def learn(self, step: Step, right: Mapping[Sequence, int], seconds: float | None) -> None:
        """Note how many of each row's drafts were right, and how long the step took."""
        for row in step.rows:
            if row.drafts:
                self._lookup(row).learn(len(row.drafts), right.get(row, 0))
        if step.chunk is not None or not step.rows or seconds is None:
            return
        key = _size(step.rows)
        known = self._seconds.get(key) or seconds
        # The first of a size is made ready, as by recording it, and a single slow one tells little.
        self._seconds[key] = 0.7 * known + 0.3 * min(seconds, 2 * known) if key in self._seconds else None

    def _lookup(self, row: Sequence) -> Lookup:
        return self._lookups.setdefault(row, Lookup())

    def _most(self, row: Sequence) -> int:
        """How many tokens a row may have after its next one, where its slot has room already."""
        if not _foreseeable(row):
            return 0
        ends = [row.place.size, self._longest, row.prompt_length + row.sampling.max_new_tokens - 1]
        # Beyond, it is read in another way.
        ends += [row.switch_length] if row.switch_length and not row.long else []
        return min(ends) - len(row.ids)

    def _worth(self, rows: list[Sequence]) -> bool:
        plain, drafted = self._seconds.get(_size(rows, plain=True)), self._seconds.get(_size(rows))
        if plain is None or drafted is None:
            # What is not known yet is tried, that without drafts first.
            return plain is not None
        expected = sum(self._lookup(row).expected(len(row.drafts)) for row in rows if row.drafts)
        if drafted <= plain * (1 + expected / len(rows)):
            return True
        # It is tried again some time.
        self._seconds[_size(rows)] = 0.99 * drafted + 0.01 * plain
        return False


def _foreseeable(row: Sequence) -> bool:
    """Whether the ids before a token change how it is drawn by the model's own logits only."""
    sampling, rules = row.sampling, row.rules
    ruled = row.matcher is not None or sampling.no_repeat_ngram_size or (row.must_go_on and not rules.ignore_eos)
    return not (sampling.penalises or ruled)


def _size(rows: list[Sequence], *, plain: bool = False) -> tuple[int, int]:
    drafts = 0 if plain else sum(len(row.drafts) for row in rows)
    return len(rows).bit_length(), drafts.bit_length()
