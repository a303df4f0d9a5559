r"""What a score is: a function of two vectors alone, whatever else is scored beside them.

A matrix product adds in an order that hangs on its shape, on the threads and on the machine, and
rounds accordingly: the same two vectors can score differently in a batch of another size, or in a
shard of the gallery. Here

.. math:: score(q, x) = float32 \Big( \sum_d q_d x_d \Big)

with products of float32 numbers, which are exact in float64, added up by halves
(`sum_by_halves`): element by element, so that NumPy and PyTorch, one shard and another give the
same bits. Adding so is slow. But any product in float64 comes so near that it rounds to the same
float32 unless it lies next to the middle between two of them, and any product in float32 comes
near enough to settle most comparisons (`margin`). So fast products decide nearly everything, and
the rest is added up by halves; the outcome is the definition's, bit for bit.

The bounds are those of any order of addition, with or without fused multiply-add: Higham,
"Accuracy and Stability of Numerical Algorithms", 2nd ed., eq. 3.5:
:math:`|error| \le \gamma_D \sum_d |q_d x_d|`, :math:`\gamma_D = D u / (1 - D u)`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

SINGLE, DOUBLE = 2.0**-24, 2.0**-53  # unit roundoffs u
AT_ONCE = 2**19  # numbers in one temporary array, so that it stays in the cache
FEW = 8  # images per query, below which one product per query costs more than it saves
LARGEST = 1e38  # of a score in float32, with some room


def sum_by_halves(terms: np.ndarray) -> np.ndarray:
    """Sums (M,) of float64 rows (M, D): the second half onto the first until one number is left.

    `terms` is used up.

    Example:
        >>> sum_by_halves(np.array([[1.0, 2.0, 4.0, 8.0, 16.0]]))
        array([31.])
    """
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0].copy() if width else np.zeros(len(terms))


def paired_scores(
    queries: np.ndarray, rows: np.ndarray, vectors: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """Scores (M,) of chosen pairs, by the definition.

    Args:
        queries: (B, D) float32.
        rows: of `queries`, one per pair (M,).
        vectors: (N, D) float32 or float16.
        images: rows of `vectors`, one per pair (M,).
    """
    scores = np.empty(len(rows), dtype=np.float32)  # (M,)
    step = max(1, AT_ONCE // max(1, queries.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        terms = vectors[images[part]].astype(np.float64)  # (P, D)
        terms *= queries[rows[part]]
        scores[part] = sum_by_halves(terms)
    return scores


def listed_scores(
    queries: np.ndarray,
    rows: np.ndarray,
    vectors: np.ndarray,
    images: np.ndarray,
    largest: np.ndarray,
) -> np.ndarray:
    """As `paired_scores`, faster where queries have many images each.

    Args:
        queries: (B, D) float32.
        rows: of `queries`, ascending (M,).
        vectors: (N, D) float32 or float16.
        images: rows of `vectors` (M,).
        largest: what no score of a query can exceed (B, 1); see `largest_scores`.
    """
    if len(rows) < FEW * len(queries):
        return paired_scores(queries, rows, vectors, images)
    sums = np.empty(len(rows))  # (M,)
    step = max(1, AT_ONCE // max(1, queries.shape[1]))
    edges = np.flatnonzero(np.diff(rows, prepend=-1, append=-1))  # where another query begins
    for first, last in pairwise(edges.tolist()):
        wide = queries[rows[first]].astype(np.float64)
        for start in range(first, last, step):
            part = slice(start, min(start + step, last))
            sums[part] = vectors[images[part]].astype(np.float64) @ wide
    bound = _relative(queries.shape[1]) * largest[rows, 0]
    scores = (sums - bound).astype(np.float32)
    open_ = np.flatnonzero(scores != (sums + bound).astype(np.float32))
    scores[open_] = paired_scores(queries, rows[open_], vectors, images[open_])
    return scores


def score_table(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Scores (B, W) of all pairs of queries (B, D) and vectors (W, D).

    By a product in float64; what that leaves open is added up by halves.
    """
    scores = np.empty((len(queries), len(vectors)), dtype=np.float32)  # (B, W)
    if not scores.size or not queries.shape[1]:
        scores[:] = 0
        return scores
    wide, columns = queries.astype(np.float64), vectors.T.astype(np.float64)  # (B, D), (D, W)
    bound = _double_bound(wide, columns)
    step = max(1, AT_ONCE // len(vectors))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        sums = wide[part] @ columns  # (P, W)
        error = sums * bound if np.isscalar(bound) else bound[0][part] * bound[1]
        scores[part] = sums - error
        rows, images = np.nonzero(scores[part] != np.add(sums, error, out=sums).astype(np.float32))
        scores[start + rows, images] = paired_scores(queries, start + rows, vectors, images)
    return scores


def _double_bound(queries: np.ndarray, columns: np.ndarray) -> Any:
    """How far a product in float64 can be from the sum by halves: twice the error of one.

    Relative to the sum where nothing cancels, so that a sum of zero is known to be zero (one-hot
    scenes share nothing with many others); else in factors (B, 1) and (1, W).
    """
    relative = _relative(queries.shape[1])
    if queries.min() >= 0 and columns.min() >= 0:
        return relative
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    return relative * lengths, np.linalg.norm(columns, axis=0, keepdims=True)


def longest(vectors: np.ndarray) -> float:
    """An upper bound of the Euclidean norms of rows (N, D); NaN or infinite where they are."""
    largest = 0.0
    step = max(1, AT_ONCE // max(1, vectors.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(vectors), step):
            rows = vectors[start : start + step].astype(np.float32, copy=False)
            squares = np.einsum("nd,nd->n", rows, rows)  # (P,)
            largest = np.maximum(largest, squares.max())  # keeps NaN
    # more than float32's rounding of D squares, and than their underflow
    return float(np.sqrt(np.float64(largest) * 1.001 + vectors.shape[1] * 2.0**-126))


def largest_scores(queries: np.ndarray, longest_vector: float) -> np.ndarray:
    """What no score of a query can exceed (B, 1), by Cauchy and Schwarz.

    Raises:
        ValueError: vectors hold NaN or infinity, or are so long that scores would overflow.
    """
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    largest = lengths * longest_vector  # (B, 1)
    if not (largest < LARGEST).all():
        count = int((~(largest < LARGEST)).sum())
        raise ValueError(
            f"the scores of {count} of {len(queries)} queries are not finite, so no rank can be "
            "trusted: look for NaN or infinity in the embeddings or the query."
        )
    return np.asarray(largest)


def margin(largest: np.ndarray, dim: int) -> np.ndarray:
    """How far a float32 product over D numbers can be from scores up to `largest`."""
    # + 8: float32's own spacing around a score, and the rounding of the bound itself
    return np.asarray(largest * (1.02 * (dim + 8) * SINGLE) + dim * 2.0**-120)


def _relative(dim: int) -> float:
    """Twice the error of a sum of D numbers in float64, relative to its largest value."""
    return 2.02 * (dim + 2) * DOUBLE
