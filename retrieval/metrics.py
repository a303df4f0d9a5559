"""How well a dialog went, told from the target's rank at every turn.

Ranks are 0-based mid-ranks: the images scored above the target plus half of those tied with
it, so 0 is best and a collapsed embedding lands in the middle, not at the top.

An engine that lists the best images cannot rank a target that it does not list. Such a rank is
`BEYOND` (infinite): all that is known is that it is at least the engine's `depth`. What follows
from that is told, such as that Recall@K is 0 for K up to the depth; what does not is NaN.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BEYOND = np.inf
"""The rank of a target of which it is known only that it lies beyond an index's depth."""


def rank_of(
    scores: np.ndarray, target: np.ndarray, ties: Literal["half", "optimistic"] = "half"
) -> Floats:
    r"""Count the images standing between each dialog and its target.

    .. math:: rank = \#\{n : s_n > s_{target}\} + w \, \#\{n \ne target : s_n = s_{target}\}

    with w = 1/2 for "half" and w = 0 for "optimistic".

    Args:
        scores: Scores (B, N), larger is closer.
        target: Gallery rows of the targets (B,).
        ties: "half" is this project's rank; "optimistic" is the published count of the 2018
            dialog-retrieval code, under which a constant embedding looks perfect.

    Returns:
        Ranks (B,), 0 is best.

    Raises:
        ValueError: A score is not finite, or `ties` is unknown.

    Example:
        >>> rank_of(np.array([[0.9, 0.5, 0.5, 0.1]]), np.array([1]))
        array([1.5])
    """
    if ties not in ("half", "optimistic"):
        raise ValueError(f"unknown ties {ties!r}. Known: half, optimistic.")
    if not np.isfinite(scores).all():
        count = int((~np.isfinite(scores)).sum())
        raise ValueError(
            f"{count} of {scores.size} scores are not finite, so no rank can be trusted: "
            "look for NaN or infinity in the embeddings or the query."
        )
    own = np.take_along_axis(scores, np.asarray(target)[:, None], axis=1)  # (B, 1)
    above: Floats = (scores > own).sum(axis=1).astype(np.float64)  # (B,)
    if ties == "optimistic":
        return above
    others_tied: Floats = (scores == own).sum(axis=1) - 1.0  # the target always ties with itself
    return above + others_tied / 2


def rank_percentile(rank: np.ndarray, gallery_size: int) -> Floats:
    """Place ranks on a scale from 0 (last) to 1 (first): `1 - rank / (N - 1)`; 0.5 is chance.

    Args:
        rank: Ranks of any shape; NaN comes of those that are `BEYOND`.
        gallery_size: N, at least 2.
    """
    if gallery_size < 2:
        raise ValueError(
            f"a rank percentile needs a gallery of at least 2 images, not {gallery_size}."
        )
    return 1.0 - _known(rank) / (gallery_size - 1)


def recall_at_k(rank: np.ndarray, k: int, depth: int = 0) -> Floats:
    """Tell for each dialog whether the target is in the top K now: `1 if rank < K else 0`.

    Its mean over dialogs is Recall@K at that turn. With mid-ranks, tied images are judged by
    the middle of their group: up to 2K images tied for the first place all count as found.

    Args:
        rank: Ranks of any shape.
        k: K.
        depth: Of the index, where ranks may be `BEYOND` it: 0 for K up to the depth, else NaN.
    """
    rank = np.asarray(rank, dtype=np.float64)
    found: Floats = (rank < k).astype(np.float64)
    return found if k <= depth else np.where(rank == BEYOND, np.nan, found)


def reciprocal_rank(rank: np.ndarray) -> Floats:
    """Reward the first places most: `1 / (1 + rank)`; its mean over dialogs is the MRR.

    NaN comes of ranks that are `BEYOND`.
    """
    return 1.0 / (1.0 + _known(rank))


def success_by_turn(ranks: np.ndarray, k: int, depth: int = 0) -> Floats:
    """Tell whether the target was in the top K at any turn up to t: `min(rank_0..t) < K`.

    Known elsewhere as cumulative Hits@K. It never falls, and is never below Recall@K.

    Args:
        ranks: Ranks (E, T + 1).
        k: Candidates looked at in each turn.
        depth: Of the index, where ranks may be `BEYOND` it: what that leaves open is NaN.

    Returns:
        0 or 1 for each dialog and turn (E, T + 1).
    """
    found = np.minimum.accumulate(ranks, axis=1) < k
    if k <= depth:
        return found.astype(np.float64)
    unknown = np.logical_or.accumulate(np.asarray(ranks) == BEYOND, axis=1)
    return np.where(unknown & ~found, np.nan, found)


def best_log_rank_integral(ranks: np.ndarray) -> Floats:
    r"""Measure how fast the best rank so far comes down; lower is better, 0 is perfect.

    With :math:`b_t = \ln(1 + \min_{s \le t} rank_s)`,

    .. math:: BRI_0 = b_0, \quad BRI_t = \frac{1}{t} \sum_{s=1}^{t} \frac{b_{s-1} + b_s}{2}

    the trapezoid area under the log of the best 1-based rank over turns 0..t, divided by t.
    Lee et al., "Interactive Text-to-Image Retrieval with Large Language Models: A
    Plug-and-Play Approach", ACL 2024. Departures: mid-ranks, and a value at every turn.

    Args:
        ranks: Ranks (E, T + 1). Where some are `BEYOND` a depth, known ranks below that depth are
            the better ones; NaN comes of a turn whose best rank is not known, and stays.

    Returns:
        The integral up to each turn (E, T + 1).
    """
    best = np.log1p(_known(np.minimum.accumulate(ranks, axis=1)))  # (E, T + 1)
    areas = np.cumsum((best[:, :-1] + best[:, 1:]) / 2, axis=1)  # (E, T)
    return np.concatenate([best[:, :1], areas / np.arange(1, best.shape[1])], axis=1)


def _known(rank: np.ndarray) -> Floats:
    """Ranks with NaN in place of those that are not known."""
    rank = np.asarray(rank, dtype=np.float64)
    return np.where(rank == BEYOND, np.nan, rank)
