"""`python trial.py LIBRARY`: each kernel once, in a process of its own, which a wrong instruction may end.

Knows no PyTorch, which would take seconds to import; whether numbers are right is told by a model's own logits.
"""

from __future__ import annotations

import sys
from ctypes import CDLL, addressof, c_float, c_int, c_int64, c_void_p
from itertools import chain, product

# Of many rows each number of vectors has code of its own.
ROWS = (1, 2, 3, 4, 7, 9, 17, 25, 33, 49, 65, 97)
INPUTS, OUTPUTS = 70, 29
# Sizes of a head: less than a vector, one, several and a rest. Numbers of queries, of two heads each: alone, and in
# each number of vectors.
DIMS = (8, 16, 84)
QUERIES = (2, 5, 9, 17, 40)
SIZE = 2**14


def declare(library: CDLL) -> CDLL:
    """Tell the types of what is in a library; see kernels.cpp."""
    size, at = c_int64, c_void_p
    library.most_rows.argtypes, library.most_rows.restype = [], size
    library.linear.argtypes = [at] * 4 + [size] * 3
    library.attend.argtypes = [at] * 6 + [size] * 8 + [c_float]
    library.rms_norm.argtypes = [at] * 3 + [size] * 2 + [c_float]
    library.rotate.argtypes = [at] * 4 + [size] * 5
    library.decode.argtypes = [at, at, size, *[at] * 5, size, c_float, c_float]
    for one in (library.decode, library.linear, library.attend):
        one.restype = c_int
    for one in (library.rms_norm, library.rotate):
        one.restype = None
    return library


def try_all(library: CDLL) -> None:
    numbers, out, keys, values = ((c_float * SIZE)(*[0.5] * SIZE) for _ in range(4))
    for rows in ROWS:
        if rows <= library.most_rows():
            library.linear(out, numbers, numbers, numbers, rows, INPUTS, OUTPUTS)
    for queries, dim in product(QUERIES, DIMS):
        # Some tokens of one row, then one of another.
        spans = (c_int64 * 8)(*chain((0, queries, 0, 40), (queries, 1, 88, 96)))
        for window, sinks in ((0, None), (7, numbers)):
            library.attend(out, numbers, numbers, numbers, sinks, spans, 2, 2, 1, dim, dim, dim, 2 * dim, window, 1.0)
    library.rms_norm(out, numbers, numbers, 3, INPUTS, 1e-6)
    library.rotate(out, numbers, numbers, numbers, 3, 2, 20, 20, 40)
    # All pointers of a layer, its arenas at the end, and a window of 7.
    layer = (c_int64 * 21)(*[addressof(numbers)] * 18, addressof(keys), addressof(values), 7)
    tokens, hidden, heads, kv_heads, dim, inner = 3, 40, 2, 1, 8, 24
    shape, where = (c_int64 * 6)(tokens, hidden, heads, kv_heads, dim, inner), (c_int64 * 3)(39, 40, 55)
    spans = (c_int64 * 8)(*chain((0, 2, 0, 40), (2, 1, 48, 56)))
    library.decode(out, layer, 1, shape, numbers, numbers, where, spans, 2, 1e-6, 1.0)


if __name__ == "__main__":
    try_all(declare(CDLL(sys.argv[1])))
