"""Search by Faiss, with scores and ranks that are exact for the vectors that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from retrieval.errors import unknown
from retrieval.indexes.base import Found, Ties, check_queries
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.scoring import largest_scores, listed_scores
from retrieval.indexes.selection import keep_best
from retrieval.metrics import BEYOND

Kind = Literal["flat", "ivf", "hnsw", "pq"]

RECIPES: dict[str, Callable[[int, int], str]] = {  # of (N, D), as `faiss.index_factory` reads it
    "flat": lambda size, dim: "Flat",
    "ivf": lambda size, dim: f"IVF{max(1, min(int(4 * size**0.5), size // 39))},Flat",
    "hnsw": lambda size, dim: "HNSW32,Flat",
    "pq": lambda size, dim: f"PQ{_pieces(dim)}",
}
"""IVF: 4 sqrt(N) cells, with Faiss's least of 39 training vectors each."""


class FaissIndex:
    """Candidates from Faiss, ordered anew by their scores; ranks are counted.

    Faiss names `rerank` times as many images as are asked for; their scores are worked out from
    the embeddings as everywhere (`retrieval.indexes.scoring`), so "pq" searches its short codes
    and answers with real scores. What the engine misses stays missed: the best candidate may lie
    below the true one. Ranks are not taken from the engine's list, which proves nothing about
    what it left out: they are counted over the embeddings, at the cost of one product, or not
    known at all (`counted=False`).

    When each pays (2 cores; measured in SCALING.md): "flat" is exact up to ties and rounding at
    the cut, and slower than `ExactIndex`. "ivf" is worth it from some 10^5 images, once its cells
    are trained. "hnsw" is the fastest to ask and by far the slowest to build: only where the
    vectors stand still, which for an agent is from the start of RL on. "pq" is for memory: D / 8
    bytes per image in the engine, with the embeddings memory-mapped.

    Args:
        embeddings: (N, D) float32 or float16, also memory-mapped.
        kind: "flat", "ivf", "hnsw" or "pq".
        ties: as for `ExactIndex`.
        counted: whether ranks are counted; otherwise they are beyond 0, that is, unknown.
        rerank: candidates scored per candidate wanted.
        effort: how much is searched: cells of "ivf" (`nprobe`), the list's length in "hnsw"
            (`efSearch`).

    Raises:
        ImportError: Faiss is not installed.
        ValueError: an unknown kind, or too few images for its training.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        kind: Kind = "flat",
        ties: Ties = "half",
        counted: bool = True,
        rerank: int = 4,
        effort: int = 64,
    ):
        if kind not in RECIPES:
            raise unknown("kind of Faiss index", kind, RECIPES)
        self._faiss = _faiss()
        self._exact = ExactIndex(embeddings, ties)
        self._rerank = max(1, rerank)
        self.depth = None if counted else 0
        size, dim = self._exact.embeddings.shape
        if kind == "pq" and size < 256:
            raise ValueError(f"kind 'pq' trains on at least 256 images, got {size}; use 'flat'")
        metric = self._faiss.METRIC_INNER_PRODUCT
        self.engine = self._faiss.index_factory(dim, RECIPES[kind](size, dim), metric)
        self._fill()
        if kind == "ivf":
            self.engine.nprobe = effort
        if kind == "hnsw":
            self.engine.hnsw.efSearch = effort

    @property
    def ties(self) -> Ties:
        """How ranks count ties."""
        return self._exact.ties

    @ties.setter
    def ties(self, ties: Ties) -> None:
        self._exact.ties = ties

    @property
    def size(self) -> int:
        """Number N of images."""
        return self._exact.size

    @property
    def dim(self) -> int:
        """Size D of a query."""
        return self._exact.dim

    @property
    def embeddings(self) -> np.ndarray:
        """The vectors (N, D) that scores are worked out from."""
        return self._exact.embeddings

    def query_of(self, image: np.ndarray) -> np.ndarray:
        """The images' own embeddings (B, D)."""
        return self._exact.query_of(image)

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """The K best of what Faiss finds (B, K), best first."""
        return self._best(query, k)[0]

    def rank(self, query: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The targets' ranks (B,), counted; infinite where counting is off."""
        if self.depth is None:
            return self._exact.rank(query, target)
        return np.full(len(query), BEYOND)

    def look_up(self, query: np.ndarray, target: np.ndarray, k: int = 1) -> Found:
        """Candidates (B, K) with scores, and ranks (B,)."""
        return Found(*self._best(query, k), self.rank(query, target))

    def _best(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and scores (B, K)."""
        query = check_queries(query, self.dim)
        k = min(k, self.size)
        largest = largest_scores(query, self._exact.longest)
        named = self.engine.search(query, min(self._rerank * k, self.size))[1]  # (B, C)
        named = np.sort(named, axis=1)  # -1, for too few, first
        rows, columns = np.nonzero(named >= 0)
        scores = np.full(named.shape, -np.inf, np.float32)
        scores[rows, columns] = listed_scores(
            query, rows, self.embeddings, named[rows, columns], largest
        )
        images, scores = keep_best(named, scores, k)
        short = np.flatnonzero((images < 0).any(axis=1))  # the cells searched held fewer than K
        if len(short):
            found = self._exact.survey(query[short], None, k)
            images[short], scores[short] = found.candidates, found.scores
        return images, scores

    def _fill(self) -> None:
        """Train on and take in the embeddings, some at a time."""
        vectors = self._exact.embeddings
        if not self.engine.is_trained:
            every = max(1, len(vectors) // 2**17)  # Faiss trains on no more than this
            self.engine.train(np.ascontiguousarray(vectors[::every], np.float32))
        step = max(1, 2**24 // max(1, self.dim))
        for start in range(0, len(vectors), step):
            self.engine.add(np.ascontiguousarray(vectors[start : start + step], np.float32))


def _pieces(dim: int) -> int:
    """Pieces of a product quantiser, of one byte each: about D / 8, and a divisor of D."""
    return next(count for count in range(max(1, dim // 8), 0, -1) if dim % count == 0)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "the Faiss index needs Faiss: pip install 'dialog-retrieval[faiss]'"
        ) from error
    return faiss
