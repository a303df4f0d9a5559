"""Search and ranks on a GPU, for training: what is asked and what is found need not leave it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from retrieval.devices import to_host
from retrieval.indexes.base import Found, Ties, check_queries

SCORES = 2**26  # in the table of one block: 256 MB


class DeviceIndex:
    """Matrix products in float32 on the embeddings' own device.

    Unlike `ExactIndex` it takes the products as they come: two images whose scores differ by
    rounding may change places, and batches of another size may round otherwise. That is near
    enough to train by; reported ranks come from `ExactIndex`.

    Args:
        embeddings: rows (N, D), float32.
        ties: "half" or "optimistic"; see `retrieval.metrics.rank_of`.

    Example:
        >>> index = DeviceIndex(torch.eye(3))
        >>> index.search(np.array([[0.1, 0.9, 0.2]], dtype=np.float32), k=2)
        array([[1, 2]])
    """

    def __init__(self, embeddings: Tensor, ties: Ties = "half"):
        if embeddings.dim() != 2:
            raise ValueError(f"expected embeddings (N, D), got {tuple(embeddings.shape)}")
        self.embeddings = embeddings
        self.ties = ties

    @property
    def size(self) -> int:
        """Number N of images."""
        return len(self.embeddings)

    @property
    def dim(self) -> int:
        """Size D of a query."""
        return self.embeddings.shape[1]

    @torch.no_grad()
    def find(self, query: Tensor, target: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The K best images with scores and the targets' ranks, without a look at any number.

        Args:
            query: (B, D), on the device.
            target: images (B,), on the device.
            k: K.

        Returns:
            Candidates (B, K), best first; their scores (B, K); ranks (B,) float32.
        """
        own = (query * self.embeddings[target]).sum(-1, keepdim=True)  # (B, 1)
        above, level = torch.zeros_like(own), torch.zeros_like(own)
        best: list[tuple[Tensor, Tensor]] = []
        width = max(k, SCORES // max(1, len(query)))
        for start in range(0, self.size, width):
            table = query @ self.embeddings[start : start + width].T  # (B, W)
            images = torch.arange(start, start + table.shape[1], device=table.device)
            table = torch.where(images == target[:, None], own, table)  # level with itself
            above += (table > own).sum(-1, keepdim=True)
            level += (table == own).sum(-1, keepdim=True)
            scores, columns = table.topk(min(k, table.shape[1]), dim=1)
            best.append((scores, columns + start))
        scores, order = torch.cat([one for one, _ in best], dim=1).topk(k, dim=1)
        candidates = torch.cat([one for _, one in best], dim=1).gather(1, order)
        rank = above if self.ties == "optimistic" else above + (level - 1) / 2
        return candidates, scores, rank[:, 0]

    def query_of(self, image: np.ndarray) -> np.ndarray:
        """The images' own embeddings (B, D), on the host."""
        rows: np.ndarray = to_host(self.embeddings[self._there(image)])
        return rows

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """The K images (B, K) that score highest, best first, on the host."""
        return self.look_up(query, np.zeros(len(query), np.int64), k).candidates

    def rank(self, query: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The targets' ranks (B,): images scored above, plus half of those tied."""
        return self.look_up(query, target, 1).rank

    def look_up(self, query: np.ndarray, target: np.ndarray, k: int = 1) -> Found:
        """Candidates (B, K) with scores, and ranks (B,), in one pass."""
        asked = self._there(check_queries(query, self.dim))
        candidates, scores, rank = self.find(asked, self._there(target), min(k, self.size))
        return Found(
            to_host(candidates),
            to_host(scores),
            to_host(rank).astype(np.float64),
        )

    def _there(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values)).to(self.embeddings.device)
