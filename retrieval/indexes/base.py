"""How a query finds images: the protocol that all indexes share."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np

Ties = Literal["half", "optimistic"]


class Found(NamedTuple):
    """What one look into an index gives for B queries."""

    candidates: np.ndarray  # (B, K) images, best first; equal scores in the order of the gallery
    scores: np.ndarray  # (B, K) their scores
    rank: np.ndarray  # (B,) the targets' ranks; infinite where only "beyond `depth`" is known


class Index(Protocol):
    """The searchable side of a gallery; rebuilt when embeddings change, never patched.

    An index that cannot tell every rank has an attribute `depth`: ranks from there on are not
    known, and are given as infinite (see `retrieval.metrics.BEYOND`).
    """

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


def check_queries(query: np.ndarray, dim: int) -> np.ndarray:
    """Queries (B, D) as float32.

    Raises:
        ValueError: the queries are of another size than the embeddings.
    """
    if query.ndim != 2 or query.shape[1] != dim:
        raise ValueError(f"expected queries (B, {dim}), got {query.shape}")
    return np.ascontiguousarray(query, dtype=np.float32)


def rank_from_counts(above: np.ndarray, level: np.ndarray, ties: Ties) -> np.ndarray:
    """Ranks (B,) from whole counts, so that counts of parts of a gallery can be added first.

    Args:
        above: images scored above the target (B,).
        level: images scored like the target (B,), the target itself among them.
        ties: "half" or "optimistic"; see `retrieval.metrics.rank_of`.

    Raises:
        ValueError: `ties` is unknown.
    """
    if ties not in ("half", "optimistic"):
        raise ValueError(f"unknown ties {ties!r}. Known: half, optimistic.")
    if ties == "optimistic":
        return above.astype(np.float64)
    return above + (level - 1.0) / 2
