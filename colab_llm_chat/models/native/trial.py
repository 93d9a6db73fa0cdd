"""`python trial.py LIBRARY`: each kernel once, in a process of its own, which a wrong instruction may end.

Knows no PyTorch, which would take seconds to import; whether numbers are right is told by a model's own logits.
"""

from __future__ import annotations

import sys
from ctypes import CDLL, c_float, c_int64, c_void_p
from itertools import chain

# Of many rows each number of vectors has code of its own.
ROWS = (1, 2, 3, 4, 7, 9, 17, 25, 33, 49)
INPUTS, OUTPUTS = 70, 29


def declare(library: CDLL) -> CDLL:
    """Tell the types of what is in a library; see kernels.cpp."""
    size, at = c_int64, c_void_p
    library.most_rows.argtypes, library.most_rows.restype = [], size
    library.linear.argtypes = [at] * 4 + [size] * 3
    library.attend.argtypes = [at] * 6 + [size] * 8 + [c_float]
    library.rms_norm.argtypes = [at] * 3 + [size] * 2 + [c_float]
    library.rotate.argtypes = [at] * 4 + [size] * 5
    library.decode.argtypes = [at, at, size, *[at] * 5, size, c_float, c_float]
    for one in (library.decode, library.linear, library.attend, library.rms_norm, library.rotate):
        one.restype = None
    return library


def try_all(library: CDLL) -> None:
    numbers, out = ((c_float * 8192)(*[0.5] * 8192) for _ in range(2))
    for rows in ROWS:
        if rows <= library.most_rows():
            library.linear(out, numbers, numbers, None, rows, INPUTS, OUTPUTS)
    # Two tokens of one row, then one of another: positions 0 to 40 and 48 to 56.
    spans = (c_int64 * 8)(*chain((0, 2, 0, 40), (2, 1, 48, 56)))
    for dim in (8, 64):
        library.attend(out, numbers, numbers, numbers, None, spans, 2, 2, 1, dim, dim, dim, 2 * dim, 0, 1.0)
    library.rms_norm(out, numbers, numbers, 3, INPUTS, 1e-6)
    library.rotate(out, numbers, numbers, numbers, 3, 2, 20, 20, 40)


if __name__ == "__main__":
    try_all(declare(CDLL(sys.argv[1])))
