"""How wrong a query is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval.errors import unknown
from retrieval.soft_triplet import soft_triplet

Metric = Callable[[Tensor, Tensor], Tensor]
"""A batch loss on scaled queries (B, D) and their targets (B, D)."""

METRICS = ("soft_triplet", "batch_based_classification")


def in_batch_softmax(
    query: Tensor,
    target: Tensor,
    scale: Tensor,
    target_ids: Tensor | None = None,
    negative: Tensor | None = None,
    negative_ids: Tensor | None = None,
) -> Tensor:
    """Batch-based classification: each query against all targets of the batch.

    Mean cross-entropy of `scale * query @ target.T` with the diagonal as labels. Vo et al.,
    CVPR 2019, eq. 3. Departures: with `target_ids`, an equal target elsewhere in the batch is
    no negative (dialogs draw their targets with replacement); further negatives.

    Args:
        query: unit-norm queries (B, D).
        target: unit-norm targets (B, D), row b belonging to query b.
        scale: a positive number, the inverse temperature.
        target_ids: the targets' rows in the gallery (B,).
        negative: more unit-norm negatives (M, D), for all queries.
        negative_ids: their rows in the gallery (M,); with `target_ids`, one that is a query's
            own target is no negative of it.
    """
    offered = target if negative is None else torch.cat([target, negative])  # (B + M, D)
    logits = scale * query @ offered.T  # (B, B + M)
    if target_ids is not None:
        ids = target_ids if negative_ids is None else torch.cat([target_ids, negative_ids])
        same = target_ids[:, None] == ids[None]
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


def batch_classification(query: Tensor, target: Tensor) -> Tensor:
    """Batch-based classification on scaled features: the learned scale is in them already.

    Mean cross-entropy of `query @ target.T` with the diagonal as labels, one direction only.
    Vo et al., CVPR 2019, eq. 3.

    Args:
        query: scaled queries (B, D).
        target: scaled targets (B, D), row b belonging to query b.
    """
    return in_batch_softmax(query, target, query.new_ones(()))


def matching(query: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of scaled features (B, D), over rows and dimensions.

    The similarity matching term of gradient augmentation (GA, IEEE TMM 2023), which weighs
    it by 0.001.
    """
    return F.mse_loss(query, target)


def make_metric(
    loss: str,
    generator: torch.Generator,
    half_gradient: bool = False,
    matching_weight: float = 0.0,
) -> Metric:
    """The batch loss on scaled queries and targets (B, D) that a command line names.

    Args:
        loss: one of `METRICS`.
        generator: draws what the loss draws.
        half_gradient: of the soft triplet loss only.
        matching_weight: of the matching term; GA adds it with 0.001 to either loss.

    Raises:
        ValueError: an unknown loss, or half the gradient of one that has no such variant.

    Example:
        >>> metric = make_metric("soft_triplet", torch.Generator().manual_seed(0))
        >>> round(metric(torch.zeros(4, 2), torch.zeros(4, 2)).item(), 4)  # ln 2
        0.6931
    """
    if loss not in METRICS:
        raise unknown("loss", loss, METRICS)
    if half_gradient and loss != "soft_triplet":
        raise ValueError(f"half the gradient is a variant of soft_triplet, not of {loss}; leave it")

    def metric(query: Tensor, target: Tensor) -> Tensor:
        if loss == "soft_triplet":
            value = soft_triplet(query, target, generator, half_gradient=half_gradient)
        else:
            value = batch_classification(query, target)
        if matching_weight:
            value = value + matching_weight * matching(query, target)
        return value

    return metric
