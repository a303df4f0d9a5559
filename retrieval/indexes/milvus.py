"""A gallery in Milvus: a file on this machine, a server, or a cluster, by the same code."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval.indexes.base import Found, Ties, check_queries
from retrieval.indexes.milvus_versions import (
    BYTES_AT_ONCE,
    EMBEDDING,
    IMAGE,
    connect,
    current_version,
    publish,
    rows_at_once,
    told,
)
from retrieval.metrics import BEYOND

__all__ = ["MilvusIndex", "publish", "ranks_in_lists"]

DEPTH = 500
MOST = 16_384  # hits that Milvus gives to one query


class MilvusIndex:
    """Candidates and ranks from Milvus, as far down as it lists them.

    One request brings the 2 `depth` + 1 best images. A target among them has its rank there: the
    images above its own score, and half of those level with it, by Milvus's scores. Of any other
    target it is known only that its rank is beyond the depth, and so it is given as infinite (see
    `retrieval.metrics.BEYOND`); so is that of a target in a group of ties that reaches the end of
    the list, for the middle of such a group lies beyond half the list.
    A list proves nothing where the engine's index is approximate: there every rank is beyond 0.

    A reader holds on to the version of the vectors that was current when it was made, whatever
    is published meanwhile; `publish` says how long that version stays.

    Args:
        uri: a file ending in ".db" (Milvus Lite, inside this process), or the address of a server
            or cluster, `http://host:19530`.
        name: of the gallery, as given to `publish`.
        ties: as for `ExactIndex`.
        depth: how far down ranks are told, up to 8,191.
        token: for a cluster that asks for one.

    Raises:
        ImportError: pymilvus is not installed.
        ValueError: no such gallery there, or a depth that Milvus does not give.
        OSError: no connection.
    """

    def __init__(
        self, uri: str, name: str, ties: Ties = "half", depth: int = DEPTH, token: str = ""
    ):
        if not 1 <= depth <= (MOST - 1) // 2:
            raise ValueError(f"expected a depth of 1 to {(MOST - 1) // 2}, got depth={depth}")
        self.ties = ties
        self._client = connect(uri, token)
        with told():
            self._collection = current_version(self._client, name)
            if self._collection is None:
                raise ValueError(f"there is no gallery {name!r} at {uri}; publish it first")
            self._client.load_collection(self._collection)
            rows = self._client.get_collection_stats(self._collection)["row_count"]
            fields = self._client.describe_collection(self._collection)["fields"]
            kind = self._client.describe_index(self._collection, EMBEDDING)["index_type"]
        self.size = int(rows)
        self.dim = int(next(f["params"]["dim"] for f in fields if f["name"] == EMBEDDING))
        self.depth = depth if kind == "FLAT" else 0
        self._listed = min(2 * depth + 1, self.size) if kind == "FLAT" else 0

    @property
    def version(self) -> str:
        """The collection that is read."""
        return str(self._collection)

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def query_of(self, image: np.ndarray) -> np.ndarray:
        """The images' own embeddings (B, D)."""
        image = np.asarray(image, np.int64)
        different = np.unique(image)
        vectors = np.empty((len(different), self.dim), np.float32)
        step = rows_at_once(self.dim)
        for start in range(0, len(different), step):
            ids = different[start : start + step]
            with told():
                rows = self._client.get(
                    self._collection, ids=ids.tolist(), output_fields=[IMAGE, EMBEDDING]
                )
            if len(rows) < len(ids):
                raise ValueError(f"{self._collection} lacks {len(ids) - len(rows)} images asked of")
            for row in rows:
                vectors[np.searchsorted(different, row[IMAGE])] = row[EMBEDDING]
        return vectors[np.searchsorted(different, image)]

    def search(self, query: np.ndarray, k: int) -> np.ndarray:
        """The K images (B, K) that score highest, best first."""
        return self._list(query, max(k, self._listed))[0][:, :k]  # as in `look_up`, ties and all

    def rank(self, query: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The targets' ranks (B,); infinite beyond the depth."""
        return self.look_up(query, target, 1).rank

    def look_up(self, query: np.ndarray, target: np.ndarray, k: int = 1) -> Found:
        """Candidates (B, K) with scores, and ranks (B,), from one list."""
        images, scores = self._list(query, max(k, self._listed))
        rank = ranks_in_lists(
            images[:, : self._listed], scores[:, : self._listed], target, self.size, self.ties
        )
        return Found(images[:, :k], scores[:, :k], rank)

    def _list(self, query: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The best images of each query, and Milvus's scores: (B, length).

        Raises:
            ValueError: more than Milvus lists, queries of another size, or not finite.
        """
        query = check_queries(query, self.dim)
        if not np.isfinite(query).all():
            raise ValueError("the queries are not finite; look for NaN or infinity in them")
        length = min(length, self.size)
        if length > MOST:
            raise ValueError(f"Milvus lists at most {MOST} images, got k={length}")
        images = np.empty((len(query), length), np.int64)
        scores = np.empty((len(query), length), np.float32)
        step = max(1, min(rows_at_once(self.dim), BYTES_AT_ONCE // (16 * max(1, length))))
        for start in range(0, len(query), step):
            with told():
                lists = self._client.search(
                    self._collection,
                    data=list(query[start : start + step]),
                    anns_field=EMBEDDING,
                    limit=length,
                    output_fields=[IMAGE],
                    search_params={"metric_type": "IP"},
                    consistency_level="Strong",
                )
            for row, hits in enumerate(lists, start=start):
                images[row], scores[row] = _in_order(hits, length)
        return images, scores


def ranks_in_lists(
    images: np.ndarray, scores: np.ndarray, target: np.ndarray, size: int, ties: Ties
) -> np.ndarray:
    """Ranks (B,) as far as lists of the best images tell them; infinite otherwise.

    Args:
        images: (B, L), the L best.
        scores: (B, L), falling.
        target: (B,).
        size: number N of images; a list of all of them cuts no ties.
        ties: "half" or "optimistic".

    Example:
        >>> ranks_in_lists(np.array([[3, 1]]), np.array([[0.9, 0.5]]), np.array([3]), 4, "half")
        array([0.])
    """
    listed = images == np.asarray(target)[:, None]  # (B, L)
    rank = np.full(len(images), BEYOND)
    if not images.shape[1]:
        return rank
    rows = np.flatnonzero(listed.any(axis=1))
    own = scores[rows, listed[rows].argmax(axis=1)][:, None]  # (R, 1)
    above = (scores[rows] > own).sum(axis=1)
    if ties == "optimistic":
        rank[rows] = above
        return rank
    level = (scores[rows] == own).sum(axis=1)  # as far as the list goes
    whole = (scores[rows, -1:] < own)[:, 0] | (images.shape[1] == size)
    rank[rows] = np.where(whole, above + (level - 1) / 2, BEYOND)
    return rank


def _in_order(hits: Any, length: int) -> tuple[np.ndarray, np.ndarray]:
    """A query's images and scores, best first and equal scores in the order of the gallery."""
    images = np.array([hit[IMAGE] for hit in hits], np.int64)
    scores = np.array([hit["distance"] for hit in hits], np.float32)
    if len(images) < length:
        raise ValueError(
            f"Milvus found {len(images)} of {length} images; an approximate index needs a wider "
            "search, or a smaller k"
        )
    order = np.lexsort((images, -scores))
    return images[order], scores[order]
