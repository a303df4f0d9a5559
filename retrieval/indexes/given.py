"""An index for agents that score every image themselves."""

from __future__ import annotations

import numpy as np

from retrieval.indexes.base import Found, Ties
from retrieval.indexes.selection import top_k
from retrieval.metrics import rank_of


class ScoreIndex:
    """For agents that score every image themselves: a query is the row of N scores."""

    def __init__(self, size: int, ties: Ties = "half"):
        self.size = size
        self.ties = ties

    @property
    def dim(self) -> int:
        """A query has one number per image."""
        return self.size

    def query_of(self, image: np.ndarray) -> np.ndarray:
        """One-hot rows (B, N)."""
        return np.asarray(np.arange(self.size) == np.asarray(image)[:, None], dtype=np.float32)

    def scores(self, query: np.ndarray) -> np.ndarray:
        """The queries themselves (B, N)."""
        if query.ndim != 2 or query.shape[1] != self.size:
            raise ValueError(f"expected scores (B, {self.size}), got {query.shape}")
        return query

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """The K images (B, K) that score highest, best first."""
        return top_k(self.scores(query), k)

    def rank(self, query: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The targets' ranks (B,): images scored above, plus half of those tied."""
        return rank_of(self.scores(query), target, self.ties)

    def look_up(self, query: np.ndarray, target: np.ndarray, k: int = 1) -> Found:
        """Candidates (B, K) with scores, and ranks (B,)."""
        scores = self.scores(query)
        rank = rank_of(scores, target, self.ties)  # first: it refuses scores that are not finite
        candidates = top_k(scores, k)
        return Found(candidates, np.take_along_axis(scores, candidates, axis=1), rank)
