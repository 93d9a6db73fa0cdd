"""Where lines may be broken: at spaces, and between Japanese characters that a line may begin or end with.

Knows no screen; widths are in columns.
"""

from __future__ import annotations

from rich.cells import cell_len

NOT_FIRST = frozenset(
    "、。，．・：；？！」』）】〉》〕］｝ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮー々ゝゞヽヾ…‥〜～,.!?)]}:;%"
)
NOT_LAST = frozenset("「『（【〈《〔［｛([{")


def breaks(text: str, width: int, *, hang: int = 0) -> list[int]:
    """The offsets at which lines of at most `width` columns begin, without the first, which is longer by `hang`."""
    found: list[int] = []
    start = column = 0
    may_break = 0
    for at, letter in enumerate(text):
        size = cell_len(letter)
        if at > start and _may_break(text[at - 1], letter):
            may_break = at
        # A space at the end of a line is not shown.
        if column + size > width and not letter.isspace() and at > start:
            start = may_break if may_break > start and hang + cell_len(text[may_break : at + 1]) <= width else at
            found.append(start)
            column = hang + cell_len(text[start:at])
        column += size
    return found


def _may_break(before: str, after: str) -> bool:
    if after.isspace():
        return False
    if before.isspace():
        return True
    wide = cell_len(before) == 2 or cell_len(after) == 2
    return wide and after not in NOT_FIRST and before not in NOT_LAST
