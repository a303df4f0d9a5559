"""How a query finds images: the index protocol and exact search."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np

from retrieval.metrics import rank_of

Ties = Literal["half", "optimistic"]


class Found(NamedTuple):
    """What one look into an index gives for B queries."""

    candidates: np.ndarray  # (B, K) images, best first; equal scores in the order of the gallery
    scores: np.ndarray  # (B, K) their scores
    rank: np.ndarray  # (B,) the targets' ranks


class Index(Protocol):
    """The searchable side of a gallery; rebuilt when embeddings change, never patched."""

    @property
    def size(self) -> int:
        """Number N of images."""
        ...

    @property
    def dim(self) -> int:
        """Size D of a query."""
        ...

    def query_of(self, image: np.ndarray) -> np.ndarray:
        """The queries (B, D) that ask for the images (B,) themselves."""
        ...

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """The K images (B, K) that score highest, best first."""
        ...

    def rank(self, query: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The targets' ranks (B,): images scored above, plus half of those tied."""
        ...

    def look_up(self, query: np.ndarray, target: np.ndarray, k: int = 1) -> Found:
        """`search` and `rank` in one pass over the gallery."""
        ...


class _ScoredIndex:
    """Search and ranks of an index that can score all its images."""

    ties: Ties = "half"

    def scores(self, query: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """The K images (B, K) that score highest, best first."""
        return top_k(self.scores(query), k)

    def rank(self, query: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The targets' ranks (B,): images scored above, plus half of those tied."""
        return rank_of(self.scores(query), target, self.ties)

    def look_up(self, query: np.ndarray, target: np.ndarray, k: int = 1) -> Found:
        """Candidates (B, K) with scores, and ranks (B,), from one product."""
        scores = self.scores(query)
        rank = rank_of(scores, target, self.ties)  # first: it refuses scores that are not finite
        candidates = top_k(scores, k)
        return Found(candidates, np.take_along_axis(scores, candidates, axis=1), rank)


class ExactIndex(_ScoredIndex):
    """Exact search by one matrix product.

    Args:
        embeddings: unit-norm rows (N, D), so that a score is a cosine similarity when the
            query has unit norm too.
        ties: "half" (mid-ranks) or "optimistic" (strictly above only, as published in 2018:
            then a collapsed embedding looks perfect).

    Example:
        >>> index = ExactIndex(np.eye(3, dtype=np.float32))
        >>> index.search(np.array([[0.1, 0.9, 0.2]], dtype=np.float32), k=2)
        array([[1, 2]])
    """

    def __init__(self, embeddings: np.ndarray, ties: Ties = "half"):
        self.embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
        self._wide = self.embeddings.astype(np.float64)
        self.ties = ties

    @property
    def size(self) -> int:
        """Number N of images."""
        return len(self.embeddings)

    @property
    def dim(self) -> int:
        """Size D of a query."""
        return self.embeddings.shape[1]

    def query_of(self, image: np.ndarray) -> np.ndarray:
        """The images' own embeddings (B, D)."""
        return self.embeddings[image]

    def scores(self, query: np.ndarray) -> np.ndarray:
        """Similarity (B, N) of queries (B, D) to all images.

        Raises:
            ValueError: the queries are of another size than the embeddings.
        """
        if query.ndim != 2 or query.shape[1] != self.dim:
            raise ValueError(f"expected queries (B, {self.dim}), got {query.shape}")
        # In double precision: the order in which BLAS adds, and with it the rounding, hangs on the
        # number of queries, and ties must be ties and a dialog the same in a batch of any size.
        query = query.astype(np.float32, copy=False).astype(np.float64)
        return (query @ self._wide.T).astype(np.float32)


class ScoreIndex(_ScoredIndex):
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


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns (B, K) of the largest scores (B, N), best first; ties go to the lower column."""
    k = min(k, scores.shape[1])
    if k == 1:
        return scores.argmax(axis=1)[:, None]
    cut = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k][:, None]  # K-th best score
    best = np.empty((len(scores), k), dtype=np.int64)
    for row, (values, least) in enumerate(zip(scores, cut, strict=True)):
        among = np.flatnonzero(values >= least)
        best[row] = among[np.argsort(-values[among], kind="stable")][:k]
    return best
