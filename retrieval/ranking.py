"""The best images of every query, in little memory and with a settled order of ties.

Similarity is the dot product and larger is closer. Images equally similar stand in the order of
the gallery, so that a result does not depend on the sorting routine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retrieval.indexes.selection import top_k

BLOCK_BYTES = 64 * 2**20
"""About the size of each of the few temporary arrays."""


def top_images(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    members: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
) -> np.ndarray:
    """The k most similar images of each query, best first.

    Args:
        queries: (Q, D), float.
        gallery: (N, D), float.
        k: how many images to name.
        members: the rows of `gallery` that are searched (M); all by default. A row that is there
            twice takes two places.
        excluded: for each query, a row that is not offered (Q), or -1.

    Returns:
        Rows of `gallery` (Q, min(k, M)); -1 where the images have run out.

    Raises:
        ValueError: the shapes do not fit, or a similarity is not finite.

    Example:
        >>> top_images(np.eye(2), np.array([[1.0, 0], [0, 1], [1, 1]]), k=2)
        array([[0, 2],
               [1, 2]])
    """
    _check_tables(queries, gallery)
    rows = np.arange(len(gallery)) if members is None else np.asarray(members, dtype=np.int64)
    k = min(k, len(rows))
    top = np.empty((len(queries), k), dtype=np.int64)  # (Q, k)
    for start, scores in _score_blocks(queries, gallery, rows):
        if excluded is not None:
            scores[rows == excluded[start : start + len(scores), None]] = -np.inf
        best = top_k(scores, k)  # (B, k)
        offered = np.isfinite(np.take_along_axis(scores, best, axis=1))
        top[start : start + len(scores)] = np.where(offered, rows[best], -1)
    return top


def rank_members(
    queries: np.ndarray, gallery: np.ndarray, members: np.ndarray, excluded: np.ndarray
) -> np.ndarray:
    """Each query's own few images, best first.

    Args:
        queries: (Q, D), float.
        gallery: (N, D), float.
        members: rows of `gallery` (Q, M), another set for each query.
        excluded: one of each query's members, which is left out (Q).

    Returns:
        Rows of `gallery` (Q, M - 1).

    Raises:
        ValueError: the shapes do not fit, a similarity is not finite, or an excluded image is
            not a member of its own set.
    """
    _check_tables(queries, gallery)
    members = np.sort(members, axis=1)  # (Q, M), ties in the order of the gallery
    if not ((members == excluded[:, None]).sum(axis=1) == 1).all():
        raise ValueError("expected every query's reference once in its image set; check the sets")
    ordered = np.empty((len(queries), members.shape[1] - 1), dtype=np.int64)  # (Q, M - 1)
    step = _rows_per_block(members.shape[1] * gallery.shape[1])
    for start in range(0, len(queries), step):
        chunk = slice(start, start + step)
        vectors = gallery[members[chunk]].astype(np.float32, copy=False)  # (B, M, D)
        asked = np.asarray(queries[chunk], dtype=np.float32)
        scores = np.einsum("bd,bmd->bm", asked, vectors)  # (B, M)
        _check_scores(scores)
        scores[members[chunk] == excluded[chunk, None]] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :-1]
        ordered[chunk] = np.take_along_axis(members[chunk], order, axis=1)
    return ordered


def take_rows(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows of a table; a view, not a copy, where they follow each other."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return table[rows[0] : rows[0] + len(rows)]
    return table[rows]


def _score_blocks(
    queries: np.ndarray, gallery: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """The first query of a block, and the block's similarities (B, M)."""
    at_once = _rows_per_block(max(len(rows), queries.shape[1]))
    width = _rows_per_block(gallery.shape[1])
    for start in range(0, len(queries), at_once):
        asked = np.asarray(queries[start : start + at_once], dtype=np.float32)  # (B, D)
        scores = np.empty((len(asked), len(rows)), dtype=np.float32)  # (B, M)
        for left in range(0, len(rows), width):
            block = take_rows(gallery, rows[left : left + width])
            vectors = block.astype(np.float32, copy=False)  # (W, D)
            np.matmul(asked, vectors.T, out=scores[:, left : left + width])
        _check_scores(scores)
        yield start, scores


def _rows_per_block(floats: int) -> int:
    return max(1, BLOCK_BYTES // (4 * max(1, floats)))


def _check_tables(queries: np.ndarray, gallery: np.ndarray) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            "expected query vectors (Q, D) and gallery vectors (N, D) of one size D, "
            f"got {queries.shape} and {gallery.shape}; make both with one model"
        )


def _check_scores(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{int((~np.isfinite(scores)).sum())} of {scores.size} similarities are not finite, "
            "so no rank can be trusted; look for NaN or infinity in the vectors"
        )
