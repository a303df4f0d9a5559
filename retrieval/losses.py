"""How wrong a query is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def in_batch_softmax(
    query: Tensor, target: Tensor, scale: Tensor, target_ids: Tensor | None = None
) -> Tensor:
    """Batch-based classification: each query against all targets of the batch.

    Mean cross-entropy of `scale * query @ target.T` with the diagonal as labels. Vo et al.,
    CVPR 2019, eq. 3. Departure: with `target_ids`, an equal target elsewhere in the batch is
    no negative (dialogs draw their targets with replacement).

    Args:
        query: unit-norm queries (B, D).
        target: unit-norm targets (B, D), row b belonging to query b.
        scale: a positive number, the inverse temperature.
        target_ids: the targets' rows in the gallery (B,).
    """
    logits = scale * query @ target.T  # (B, B)
    if target_ids is not None:
        same = target_ids[:, None] == target_ids[None]
        logits = logits.masked_fill(same.fill_diagonal_(False), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(query), device=query.device))


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distance of the rows (...,)."""
    return (a - b).square().sum(-1)


def triplet_hinge(query: Tensor, target: Tensor, negative: Tensor, margin: float = 0.1) -> Tensor:
    """Mean of max(0, |query - target|^2 - |query - negative|^2 + margin).

    Guo et al., NeurIPS 2018, with one random negative per query; all (B, D).
    """
    gap = squared_distance(query, target) - squared_distance(query, negative) + margin
    return gap.clamp(min=0).mean()
