"""Lines no agent can cross, from the number of replies and of images that look alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Limit(NamedTuple):
    """A line no agent can cross, or one it should be measured against."""

    label: str
    metric: str
    values: list[float]  # over turns 0..T


def counting_bound(gallery_size: int, replies: int, turns: int, k: int) -> list[float]:
    """Bound Recall@K by what t replies can tell apart: `min(1, K F^t / N)` at t = 0..T.

    It bounds the expected recall of agents whose scores do not tie; see `recall_at_k` on ties.

    Args:
        gallery_size: N.
        replies: F, how many different replies the user can give, heard so far or not.
        turns: T.
        k: K.
    """
    return [min(gallery_size, k * replies**t) / gallery_size for t in range(turns + 1)]


def indistinguishability_ceiling(attributes: np.ndarray) -> float:
    """Bound the expected Recall@1, whatever the turns: `U / N`.

    U of the N rows differ; a user who speaks of attributes cannot tell equal rows apart. Holds
    when equal rows do not tie: two images tied for the first place both count as found.

    Args:
        attributes: Attribute values (N, A).
    """
    return len(np.unique(attributes, axis=0)) / len(attributes)
