"""The largest numbers of many rows, with a settled order of ties."""

from __future__ import annotations

import numpy as np

GROUPS = 4  # groups per wanted number: more make a higher floor, fewer a cheaper one


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns (B, K) of the largest scores (B, N), best first; ties go to the lower column.

    Example:
        >>> top_k(np.array([[0.1, 0.9, 0.2, 0.9]]), 3)
        array([[1, 3, 2]])
    """
    k = min(k, scores.shape[1])
    if k < 1:
        return np.empty((len(scores), 0), dtype=np.int64)
    if k == 1:
        return scores.argmax(axis=1)[:, None]
    rows, columns = np.nonzero(scores >= floor_of(scores, k)[:, None])
    found, offered = laid_out(len(scores), rows, columns, scores[rows, columns])
    return keep_best(found, offered, k)[0]


def floor_of(scores: np.ndarray, k: int) -> np.ndarray:
    """Numbers (B,) that at least k scores of each row (B, N) reach, and few more than k.

    Columns are dealt out to groups; the k largest groups' maxima are k scores. Making maxima is
    many times faster than partitioning the row.
    """
    count, size = scores.shape
    if k == 1:
        return np.asarray(scores.max(axis=1))
    groups = max(256, GROUPS * k)
    if size >= 4 * groups:
        deep = size // groups
        dealt = scores[:, : deep * groups].reshape(count, deep, groups)
        scores = dealt.max(axis=1)  # (B, groups)
    cut = scores.shape[1] - k
    return np.asarray(np.partition(scores, cut, axis=1)[:, cut])


def laid_out(
    count: int, rows: np.ndarray, columns: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (M,), row after row, as tables (B, C): columns, and scores filled with -infinity."""
    sizes = np.bincount(rows, minlength=count)  # (B,)
    width = int(sizes.max(initial=0))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # (M,) in its row
    found = np.full((count, width), -1, dtype=np.int64)
    offered = np.full((count, width), -np.inf, dtype=np.result_type(scores, np.float32))
    found[rows, place] = columns
    offered[rows, place] = scores
    return found, offered


def keep_best(images: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each row, best first: images and scores (B, K).

    Args:
        images: (B, C). Among equal scores the lower image must stand first.
        scores: (B, C).
        k: K; all of them where there are fewer.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(images, order, axis=1), np.take_along_axis(scores, order, axis=1)


def kth_best(scores: np.ndarray, k: int) -> np.ndarray:
    """The k-th largest number of each row (B, C), or -infinity where there are fewer (B, 1)."""
    if not 0 < k <= scores.shape[1]:
        return np.full((len(scores), 1), -np.inf, np.float32)
    return np.asarray(-np.partition(-scores, k - 1, axis=1)[:, k - 1 : k])


def prune(
    near: tuple[np.ndarray, np.ndarray], k: int, slack: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Images and scores (B, C) without those more than `slack` (B, 1) below the k-th score.

    The images keep their order; -infinity fills rows that have fewer than others.
    """
    images, scores = near
    if scores.shape[1] <= k:
        return near
    least = kth_best(scores, k) - slack
    rows, columns = np.nonzero((scores >= least) & (scores > -np.inf))
    return laid_out(len(scores), rows, images[rows, columns], scores[rows, columns])
