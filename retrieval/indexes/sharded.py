"""A gallery in shards, one on each rank of a process group: exact, whatever the cut."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval.indexes.base import Found, Ties, check_queries, rank_from_counts
from retrieval.indexes.exact import Engine, ExactIndex
from retrieval.indexes.selection import keep_best


def shard_of(size: int, rank: int, ranks: int) -> slice:
    """The images that one of several ranks keeps: a run of the gallery, near to size / ranks.

    Example:
        >>> [shard_of(7, rank, 3) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(size * rank // ranks, size * (rank + 1) // ranks)


class ShardedIndex:
    """Exact search and ranks over shards, by merging the best and adding counts.

    Every rank holds a run of the gallery's rows, in the order of the ranks. A call is collective:
    all ranks make it together, each with queries of its own, also none (0, D); each gets the
    answers to its own. Queries travel to all ranks; from each come, per query, K images with
    scores and two whole numbers (images above the target's score, and level with it). Half of
    the ties is taken once the sums are made, so nothing is rounded on the way.

    The outcome equals `ExactIndex` over the whole gallery bit for bit, since a score is a
    function of its two vectors alone (`retrieval.indexes.scoring`): it does not show the shape of
    the product, the shard or the batch that it was worked out in.

    Args:
        embeddings: this rank's rows (N_r, D); see `shard_of`.
        ties: as for `ExactIndex`.
        group: a `torch.distributed` process group; by default the whole world.
        engine, device: of this rank's products, as for `ExactIndex`.

    Raises:
        RuntimeError: there is no process group.
        ValueError: shards of different sizes D.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        ties: Ties = "half",
        group: Any = None,
        engine: Engine = "numpy",
        device: str = "cpu",
    ):
        import torch.distributed as dist

        if not dist.is_initialized():
            raise RuntimeError(
                "a sharded index needs a process group; start with torchrun and call "
                "torch.distributed.init_process_group first"
            )
        self.ties = ties
        self._group = group
        self._rank, self._ranks = dist.get_rank(group), dist.get_world_size(group)
        self._shard = ExactIndex(embeddings, ties, engine, device)
        shapes = self._gather(np.array([embeddings.shape], np.int64))  # (R, 2)
        if len(set(shapes[:, 1])) > 1:
            raise ValueError(f"expected shards of one size D, got {sorted(set(shapes[:, 1]))}")
        self._first = np.concatenate([[0], np.cumsum(shapes[:, 0])])  # (R + 1,)

    @property
    def size(self) -> int:
        """Number N of images on all ranks."""
        return int(self._first[-1])

    @property
    def dim(self) -> int:
        """Size D of a query."""
        return self._shard.dim

    def query_of(self, image: np.ndarray) -> np.ndarray:
        """The images' own embeddings (B, D), from the ranks that hold them; collective."""
        wanted, mine = self._gather_rows(np.asarray(image, np.int64)[:, None])
        here, local = self._held(wanted[:, 0])
        vectors = np.zeros((len(wanted), self.dim), np.float32)
        vectors[here] = self._shard.query_of(local[here])
        return self._sum(vectors)[mine]  # one rank's numbers and zeros

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """The K images (B, K) that score highest, best first; collective."""
        asked, mine = self._gather_rows(check_queries(query, self.dim))
        return self._best(asked, mine, None, k)[0]

    def rank(self, query: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The targets' ranks (B,): images scored above, plus half of those tied; collective."""
        return self.look_up(query, target, 0).rank

    def look_up(self, query: np.ndarray, target: np.ndarray, k: int = 1) -> Found:
        """Candidates (B, K) with scores, and ranks (B,), in one pass; collective."""
        asked, mine = self._gather_rows(check_queries(query, self.dim))
        own = self._own_scores(asked, np.asarray(target, np.int64))
        candidates, scores, counts = self._best(asked, mine, own, k)
        rank = rank_from_counts(counts[0], counts[1], self.ties)
        return Found(candidates, scores, rank)

    def _best(
        self, asked: np.ndarray, mine: slice, own: np.ndarray | None, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Candidates and scores (B, K) and counts (2, B) of this rank's own queries."""
        found = self._shard.survey(asked, own, k)
        count, width = len(asked), min(k, self.size)
        images = np.full((count, width), -1, np.int64)
        scores = np.full((count, width), -np.inf, np.float32)  # a small shard fills it in part
        images[:, : found.scores.shape[1]] = found.candidates + self._first[self._rank]
        scores[:, : found.scores.shape[1]] = found.scores
        # side by side in the order of the ranks, so that lower images stand first among equals
        images = np.concatenate(np.split(self._gather(images), self._ranks), axis=1)[mine]
        scores = np.concatenate(np.split(self._gather(scores), self._ranks), axis=1)[mine]
        counts = self._sum(np.stack([found.above, found.level]))  # (2, all queries)
        return *keep_best(images, scores, width), counts[:, mine]

    def _own_scores(self, asked: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Scores (all queries,) with their targets, each from the rank that holds it."""
        targets = self._gather_rows(target[:, None])[0][:, 0]
        here, local = self._held(targets)
        own = np.zeros(len(asked), np.float32)
        own[here] = self._shard.own_scores(asked[here], local[here])
        return self._sum(own)

    def _held(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which images are in this rank's shard, and their rows there.

        Raises:
            IndexError: there is no such image in any shard.
        """
        if ((image < 0) | (image >= self.size)).any():
            raise IndexError(f"expected images from 0 to {self.size - 1}, got {image.tolist()}")
        local = image - self._first[self._rank]
        return (local >= 0) & (local < self._shard.size), local

    def _gather_rows(self, rows: np.ndarray) -> tuple[np.ndarray, slice]:
        """The rows of all ranks, of whatever number, and which of them are this rank's."""
        counts = self._gather(np.array([len(rows)], np.int64))  # (R,)
        padded = np.zeros((int(counts.max()), rows.shape[1]), rows.dtype)
        padded[: len(rows)] = rows
        parts = np.split(self._gather(padded), self._ranks)
        first = int(counts[: self._rank].sum())
        joined = np.concatenate([part[:n] for part, n in zip(parts, counts, strict=True)])
        return joined, slice(first, first + len(rows))

    def _gather(self, array: np.ndarray) -> np.ndarray:
        """Arrays of one shape from all ranks, one after another."""
        import torch
        import torch.distributed as dist

        if not array.size:  # nothing to send, which not every backend likes
            return np.concatenate([array] * self._ranks)
        given = torch.from_numpy(np.ascontiguousarray(array)).to(self._transport())
        parts = [torch.empty_like(given) for _ in range(self._ranks)]
        dist.all_gather(parts, given, group=self._group)
        return torch.cat(parts).cpu().numpy()

    def _sum(self, array: np.ndarray) -> np.ndarray:
        """The sum of all ranks' arrays, of whole numbers or with one rank's number in a place."""
        import torch
        import torch.distributed as dist

        if not array.size:
            return array
        given = torch.from_numpy(np.ascontiguousarray(array)).to(self._transport())
        dist.all_reduce(given, group=self._group)
        return given.cpu().numpy()

    def _transport(self) -> str:
        """Where the backend wants its tensors."""
        import torch.distributed as dist

        return "cuda" if dist.get_backend(self._group) == "nccl" else "cpu"
