"""Agents whose spaces are searched by another index than their own exact one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.base import Agent
from retrieval.index import ExactIndex, Index, Ties
from retrieval.indexes import open_index


def search_with(
    agents: Mapping[str, Agent],
    features: np.ndarray,
    kind: str,
    uri: str = "",
    ties: Ties = "half",
) -> int | None:
    """Give agents that search embeddings an index of another kind over the same embeddings.

    Agents that score every image themselves keep their own.

    Args:
        agents: by name; each one's vectors are a gallery of their own (in Milvus: a collection
            `dialog_<name>`).
        features: of the gallery (N, F).
        kind: a name of `retrieval.indexes.INDEXES`.
        uri: where, for Milvus; which, for Faiss.
        ties: how ranks count ties.

    Returns:
        The depth from which on ranks are not known; None where all are.

    Raises:
        ValueError, ImportError, OSError: see `retrieval.indexes.open_index`.
    """
    depths = []
    for name, agent in agents.items():
        own: Any = getattr(agent, "index", None)
        index = own(features) if callable(own) else own
        if isinstance(index, ExactIndex):
            changed = open_index(kind, index.embeddings, uri, gallery_name(name), ties)
            setattr(agent, "index", changed)  # noqa: B010  not part of the protocol
            depths.append(depth_of(changed))
    return min((depth for depth in depths if depth is not None), default=None)


def depth_of(index: Index) -> int | None:
    """The depth from which on an index's ranks are not known; None where all are."""
    depth: int | None = getattr(index, "depth", None)
    return depth


def gallery_name(agent: str) -> str:
    """The name of an agent's vectors, as Milvus takes it.

    Example:
        >>> gallery_name("rl-19")
        'dialog_rl_19'
    """
    letters = (letter if letter.isascii() and letter.isalnum() else "_" for letter in agent)
    return "dialog_" + "".join(letters)
