"""Which K of the likeliest images to show together: the slate.

A rule takes a pool of M candidates, best first, with their scores (B, M) and unit-norm features
(B, M, F), and gives the columns (B, K) to show, in order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SlateRule = Callable[[np.ndarray, np.ndarray, int], np.ndarray]

POOL = 8
"""Candidates per image of a slate that a rule other than "greedy" chooses from: M = 8 K."""
RELEVANCE = 0.7
"""The weight of an image's score, against its likeness to those chosen before, in `mmr`."""
ROUNDS = 10


def greedy(scores: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """The K that score highest: often near-duplicates."""
    return np.tile(np.arange(count), (len(scores), 1))


def mmr(
    scores: np.ndarray, features: np.ndarray, count: int, relevance: float = RELEVANCE
) -> np.ndarray:
    r"""Maximal marginal relevance: likely, and unlike what is on the slate already.

    .. math:: next = \arg\max_i \; \lambda s_i - (1 - \lambda) \max_{j \in slate} \cos(f_i, f_j)

    Carbonell & Goldstein, "The use of MMR, diversity-based reranking", SIGIR 1998, with
    lambda = `relevance`. Departure: scores and cosines are first brought to [0, 1] over the
    pool, so that one lambda serves indices of any scale.
    """
    rows = np.arange(len(scores))
    likeness = _to_unit(features @ features.transpose(0, 2, 1), (1, 2))  # (B, M, M)
    value = relevance * _to_unit(scores, (1,))  # (B, M)
    taken = np.zeros(scores.shape, dtype=bool)
    nearest = np.zeros(scores.shape)
    chosen = []
    for _ in range(count):
        gain = np.where(taken, -np.inf, value - (1 - relevance) * nearest)
        chosen.append(gain.argmax(1))
        taken[rows, chosen[-1]] = True
        nearest = np.maximum(nearest, likeness[rows, chosen[-1]])
    return np.stack(chosen, axis=1)


def medoids(scores: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """One image for each of K groups of look-alikes: the medoids of the pool, best score first.

    Kaufman & Rousseeuw, "Finding Groups in Data", 1990: medoids are added one by one where they
    help most (BUILD); then groups and medoids take turns until nothing changes (Park & Jun,
    Expert Systems with Applications 2009, in place of the swaps), at most ten times. The
    distance is 1 - cosine.
    """
    distance = np.maximum(0.0, 1.0 - features @ features.transpose(0, 2, 1)).astype(np.float64)
    chosen = _build(distance, count)  # (B, K)
    for _ in range(ROUNDS):
        moved = np.sort(_recentred(distance, chosen), axis=1)
        if (moved == chosen).all():
            break
        chosen = moved
    return chosen


def _build(distance: np.ndarray, count: int) -> np.ndarray:
    """K medoids (B, K) chosen one by one from distances (B, M, M), in order of the columns."""
    rows = np.arange(len(distance))
    nearest = np.full(distance.shape[:2], np.inf)  # (B, M): to the medoids chosen so far
    taken = np.zeros(distance.shape[:2], dtype=bool)
    for _ in range(count):
        cost = np.minimum(distance, nearest[:, None]).sum(-1)  # (B, M)
        best = np.where(taken, np.inf, cost).argmin(1)
        taken[rows, best] = True
        nearest = np.minimum(nearest, distance[rows, best])
    return np.nonzero(taken)[1].reshape(len(distance), count)


def _recentred(distance: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The medoids (B, K) of the groups that gather around medoids (B, K)."""
    rows = np.arange(len(distance))[:, None]
    group = distance[rows, chosen].argmin(1)  # (B, M): whose group each image is in
    group[rows, chosen] = np.arange(chosen.shape[1])  # a medoid stays in its own, twins or not
    together = group[:, :, None] == group[:, None]
    cost = (distance * together).sum(-1)  # (B, M): to the others of its group
    own = group[:, None] == np.arange(chosen.shape[1])[:, None]  # (B, K, M)
    result: np.ndarray = np.where(own, cost[:, None], np.inf).argmin(-1)
    return result


def _to_unit(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Values brought to [0, 1] over some axes; equal ones become 0."""
    low, high = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    result: np.ndarray = (values - low) / np.where(high > low, high - low, 1.0)
    return result


SLATES: dict[str, SlateRule] = {"greedy": greedy, "mmr": mmr, "medoids": medoids}
