"""Indexes by name, for commands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retrieval.errors import unknown
from retrieval.indexes.base import Index, Ties
from retrieval.indexes.exact import ExactIndex


def open_index(
    kind: str, embeddings: np.ndarray, uri: str = "", name: str = "gallery", ties: Ties = "half"
) -> Index:
    """An index of embeddings (N, D).

    Args:
        kind: a name of `INDEXES`.
        embeddings: what is searched.
        uri: for "milvus", where; for "faiss", the kind ("flat" by default).
        name: of the gallery in Milvus; a new version of it is published.
        ties: as for `ExactIndex`.

    Raises:
        ValueError: an unknown index, or an address that does not fit it.
        ImportError: the index's package is not installed.
        OSError: no connection.
    """
    if kind not in INDEXES:
        raise unknown("index", kind, INDEXES)
    return INDEXES[kind](embeddings, uri, name, ties)


def _exact(embeddings: np.ndarray, uri: str, name: str, ties: Ties) -> Index:
    if uri:
        raise ValueError(f"the exact index lies in memory and has no address, got {uri!r}")
    return ExactIndex(embeddings, ties)


def _faiss(embeddings: np.ndarray, uri: str, name: str, ties: Ties) -> Index:
    from retrieval.indexes.faiss import RECIPES, FaissIndex

    kind = uri or "flat"
    if kind not in RECIPES:
        raise unknown("kind of Faiss index", kind, RECIPES)
    return FaissIndex(embeddings, kind, ties)  # type: ignore[arg-type]


def _milvus(embeddings: np.ndarray, uri: str, name: str, ties: Ties) -> Index:
    from retrieval.indexes.milvus import MilvusIndex, publish

    if not uri:
        raise ValueError("Milvus needs an address: a file ending in .db, or http://host:19530")
    publish(uri, name, embeddings)
    return MilvusIndex(uri, name, ties)


INDEXES: dict[str, Callable[[np.ndarray, str, str, Ties], Index]] = {
    "exact": _exact,
    "faiss": _faiss,
    "milvus": _milvus,
}
