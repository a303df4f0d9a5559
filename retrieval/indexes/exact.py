"""Exact search and ranks: blocks of a product in float32, settled by the definition of a score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from retrieval.errors import unknown
from retrieval.indexes.base import Found, Ties, check_queries, rank_from_counts
from retrieval.indexes.block import Block, around, is_many
from retrieval.indexes.products import NumpyProducts, Products, TorchProducts, Wish
from retrieval.indexes.scoring import (
    largest_scores,
    listed_scores,
    longest,
    margin,
    paired_scores,
    score_table,
)
from retrieval.indexes.selection import keep_best, kth_best, prune

Engine = Literal["numpy", "torch"]
ENGINES = ("numpy", "torch")
QUERIES = 512  # taken through the gallery together
SCORES = 2**24  # in the table of one block: 64 MB


class Survey(NamedTuple):
    """What B queries find in a part of a gallery, ready to be merged with other parts."""

    candidates: np.ndarray  # (B, K) or fewer, rows of this part
    scores: np.ndarray  # (B, K) float32
    above: np.ndarray  # (B,) int64, images scored above the target's own score
    level: np.ndarray  # (B,) int64, images with that very score


class ExactIndex:
    """Exact search by matrix products, block by block.

    Scores are those of `retrieval.indexes.scoring`: ranks and candidates depend neither on the
    size of a batch nor on blocks, engine, threads or device. Beside the embeddings it needs some
    100 MB at most, and rather less for few queries.

    Args:
        embeddings: rows (N, D), unit-norm where a score should be a cosine similarity. float32
            and float16 are kept as they are, also memory-mapped (`np.load(..., mmap_mode="r")`):
            exact means exact for the numbers that are stored. Others become float32.
        ties: "half" (mid-ranks) or "optimistic" (strictly above only, as published in 2018:
            then a collapsed embedding looks perfect).
        engine: "numpy", or "torch" for PyTorch's products.
        device: of the torch engine; on "cuda" a copy of the embeddings is kept there.

    Raises:
        ValueError: embeddings that are no table, an unknown engine or device, or a device
            without the torch engine.

    Example:
        >>> index = ExactIndex(np.eye(3, dtype=np.float32))
        >>> index.search(np.array([[0.1, 0.9, 0.2]], dtype=np.float32), k=2)
        array([[1, 2]])
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        ties: Ties = "half",
        engine: Engine = "numpy",
        device: str = "cpu",
    ):
        if embeddings.ndim != 2:
            raise ValueError(f"expected embeddings (N, D), got an array {embeddings.shape}")
        if engine not in ENGINES:
            raise unknown("engine", engine, ENGINES)
        if engine == "numpy" and device != "cpu":
            raise ValueError(f"NumPy works on the CPU alone; for {device} use engine='torch'")
        half = embeddings.dtype == np.float16
        self.embeddings = np.ascontiguousarray(embeddings, None if half else np.float32)
        self.ties = ties
        self._products: Products = (
            NumpyProducts(self.embeddings)
            if engine == "numpy"
            else TorchProducts(self.embeddings, device)
        )
        self.longest = longest(self.embeddings)

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
        return self.embeddings[image].astype(np.float32)

    def scores(self, query: np.ndarray) -> np.ndarray:
        """Scores (B, N) of queries (B, D) with all images, float32.

        Raises:
            ValueError: the queries are of another size than the embeddings.
        """
        query = check_queries(query, self.dim)
        blocks = [score_table(query, self.embeddings[block]) for block in self._blocks(len(query))]
        return np.concatenate(blocks, axis=1) if blocks else np.empty((len(query), 0), np.float32)

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """The K images (B, K) that score highest, best first."""
        return self.survey(query, None, k, scored=False).candidates

    def rank(self, query: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The targets' ranks (B,): images scored above, plus half of those tied."""
        found = self.survey(query, self.own_scores(query, target), 0)
        return rank_from_counts(found.above, found.level, self.ties)

    def look_up(self, query: np.ndarray, target: np.ndarray, k: int = 1) -> Found:
        """Candidates (B, K) with scores, and ranks (B,), in one pass."""
        found = self.survey(query, self.own_scores(query, target), k)
        rank = rank_from_counts(found.above, found.level, self.ties)
        return Found(found.candidates, found.scores, rank)

    def search_and_rank(
        self, query: np.ndarray, target: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Candidates (B, K) and ranks (B,) in one pass, without the candidates' scores.

        For large K it is cheaper than `look_up`: most of the order is plain without them.
        """
        found = self.survey(query, self.own_scores(query, target), k, scored=False)
        return found.candidates, rank_from_counts(found.above, found.level, self.ties)

    def own_scores(self, query: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Scores (B,) of queries (B, D) with one image each."""
        query, image = check_queries(query, self.dim), np.asarray(image, np.int64)
        return paired_scores(query, np.arange(len(query)), self.embeddings, image)

    def survey(
        self, query: np.ndarray, own: np.ndarray | None, k: int, scored: bool = True
    ) -> Survey:
        """The best images, and how many stand above and level with given scores.

        Args:
            query: (B, D).
            own: scores to count against (B,) float32; nothing is counted without.
            k: K, as far as there are images.
            scored: whether the candidates' scores are wanted; without, they are approximate.

        Raises:
            ValueError: queries of another size, or scores that are not finite.
        """
        query = check_queries(query, self.dim)
        largest = largest_scores(query, self.longest)  # (B, 1)
        parts = [
            self._survey_some(
                query[start : start + QUERIES],
                None if own is None else own[start : start + QUERIES, None],
                min(k, self.size),
                largest[start : start + QUERIES],
                scored,
            )
            for start in range(0, max(1, len(query)), QUERIES)
        ]
        return Survey(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _survey_some(
        self,
        query: np.ndarray,
        own: np.ndarray | None,
        k: int,
        largest: np.ndarray,
        scored: bool,
    ) -> Survey:
        """One pass over the gallery for a few hundred queries."""
        count = len(query)
        slack = margin(largest, self.dim)  # (B, 1)
        between = None if own is None else around(own, slack)
        near = np.empty((count, 0), np.int64), np.empty((count, 0), np.float32)
        counts = np.zeros((2, count), np.int64)  # above and level
        for place in self._blocks(count):
            block = Block(query, self.embeddings[place], place.start, largest)
            looked_for = 0 if is_many(k, place.stop - place.start) else k
            wish = Wish(between, looked_for, kth_best(near[1], k), 2 * slack)
            look = self._products.look(query, place, wish)
            if own is not None:
                counts += block.counted(look, own)
            if k:
                near = prune(block.joined(look, near, k), k, 2 * slack)
        images, scores = self._settled(query, near, k, largest, scored)
        return Survey(images.reshape(count, k), scores.reshape(count, k), *counts)

    def _settled(
        self,
        query: np.ndarray,
        near: tuple[np.ndarray, np.ndarray],
        k: int,
        largest: np.ndarray,
        scored: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best (B, K) among images (B, C) with approximate scores (B, C).

        Where two neighbours in order are farther apart than both can be wrong, their order
        stands; the others' scores are worked out, or all where they are wanted.
        """
        images, scores = keep_best(*near, near[0].shape[1])
        unsure = scores > -np.inf
        if not scored:
            beside = np.zeros_like(unsure)
            slack = 2.01 * margin(largest, self.dim)
            with np.errstate(invalid="ignore"):  # -infinity fills short rows
                beside[:, 1:] = scores[:, :-1] - scores[:, 1:] <= slack
            unsure &= beside | np.roll(beside, -1, axis=1)
        rows, columns = np.nonzero(unsure)
        chosen = images[rows, columns]
        scores[rows, columns] = listed_scores(query, rows, self.embeddings, chosen, largest)
        order = np.lexsort((images, -scores))[:, :k]
        return np.take_along_axis(images, order, 1), np.take_along_axis(scores, order, 1)

    def _blocks(self, count: int) -> Iterator[slice]:
        """Slices of the gallery whose scores with that many queries make one table."""
        width = max(1024, SCORES // max(1, min(count, QUERIES)))
        for start in range(0, self.size, width):
            yield slice(start, min(start + width, self.size))
