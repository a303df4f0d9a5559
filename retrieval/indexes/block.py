"""A block of the gallery under some queries: what a first look leaves open is settled here."""

from __future__ import annotations

import numpy as np

from retrieval.indexes.products import OPEN_SHARE, Look
from retrieval.indexes.scoring import listed_scores, score_table
from retrieval.indexes.selection import laid_out, top_k


class Block:
    """Images W of the gallery and queries B, after a first look at their approximate scores.

    Args:
        query: (B, D) float32.
        vectors: (W, D).
        first: the gallery's row of the block's first image.
        largest: what no score can exceed (B, 1).
    """

    def __init__(self, query: np.ndarray, vectors: np.ndarray, first: int, largest: np.ndarray):
        self._query = query
        self._vectors = vectors
        self._first = first
        self._largest = largest
        self._exact: np.ndarray | None = None  # (B, W), once it is needed

    def counted(self, look: Look, own: np.ndarray) -> np.ndarray:
        """Images above and level with scores `own` (B, 1): counts (2, B)."""
        count = len(self._query)
        above, (rows, columns) = look.above, look.open
        if self._leaves_much_open(rows):
            exact = self._all()
            return np.stack([(exact > own).sum(axis=1), (exact == own).sum(axis=1)])
        scores = listed_scores(self._query, rows, self._vectors, columns, self._largest)
        mine = own[rows, 0]
        above = above + np.bincount(rows[scores > mine], minlength=count)
        return np.stack([above, np.bincount(rows[scores == mine], minlength=count)])

    def joined(
        self, look: Look, near: tuple[np.ndarray, np.ndarray], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images that may be among the k best, with scores as far as they are known.

        Where counts are wanted, they come first: they tell whether the look went to its end.

        Args:
            look: at this block.
            near: those of earlier blocks, images and scores (B, C).
            k: K.
        """
        rows, columns, values = look.best
        many = (
            self._exact is not None
            or self._leaves_much_open(rows)
            or is_many(k, len(self._vectors))
        )
        if not many:
            found, scores = laid_out(len(self._query), rows, columns, values)
        if many:
            exact = self._all()
            found = top_k(exact, k)
            scores = np.take_along_axis(exact, found, axis=1)
        return (
            np.concatenate([near[0], found + self._first], axis=1),
            np.concatenate([near[1], scores], axis=1),
        )

    def _leaves_much_open(self, rows: np.ndarray) -> bool:
        return len(rows) * OPEN_SHARE > len(self._query) * len(self._vectors)

    def _all(self) -> np.ndarray:
        """Scores (B, W) of all pairs."""
        if self._exact is None:
            self._exact = score_table(self._query, self._vectors)
        return self._exact


def is_many(k: int, width: int) -> bool:
    """Whether so many of a block's images W are wanted that a first look saves nothing."""
    return k * OPEN_SHARE > width


def around(own: np.ndarray, slack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 bounds (B, 1) that are at least `slack` below and above."""
    least, most = np.float32(-np.inf), np.float32(np.inf)
    low = np.nextafter((own - slack).astype(np.float32), least)
    return low, np.nextafter((own + slack).astype(np.float32), most)
