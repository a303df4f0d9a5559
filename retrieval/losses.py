"""How wrong a query is."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval.errors import unknown

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


def soft_triplet(
    query: Tensor,
    target: Tensor,
    generator: torch.Generator,
    per_anchor: int = 3,
    half_gradient: bool = False,
) -> Tensor:
    r"""Soft triplet loss on scaled features, a few random negatives for every anchor.

    .. math:: mean \; \ln(1 + \exp(|a - p|^2 - |a - n|^2))

    over all 2B vectors as anchor a, its partner as positive p, and `per_anchor` different
    vectors of other pairs, queries and targets alike, as negative n (all 2(B - 1) of them where
    there are fewer). Vo et al., CVPR 2019, eq. 4, sampled as in google/tirg. Departures: the
    triplets are drawn for all anchors at once, so B has no limit (the original: 333), and the
    gradient is the true one unless `half_gradient` is set.

    Args:
        query: scaled queries (B, D).
        target: scaled targets (B, D), row b belonging to query b.
        generator: draws the negatives; on the CPU.
        per_anchor: negatives of each anchor.
        half_gradient: half the gradient at the same value, as the original's own backward has.

    Raises:
        ValueError: a single pair, which has no negatives, or none wanted.
    """
    if per_anchor < 1:
        raise ValueError(f"expected at least 1 negative of each anchor, got {per_anchor}")
    if len(query) < 2:
        raise ValueError(
            f"the soft triplet loss needs a batch of 2 pairs or more, got {len(query)}; "
            "raise the batch size"
        )
    both = torch.cat([query, target])  # (2B, D)
    partners = _draw_partners(len(query), per_anchor, generator).to(both.device)
    loss: Tensor = _SoftTriplet.apply(both, partners)
    return 0.5 * loss + (0.5 * loss).detach() if half_gradient else loss


class _SoftTriplet(torch.autograd.Function):
    """The loss of given triplets, whose gradient is one matrix product.

    With s the logistic function of |a - p|^2 - |a - n|^2 and M (2B, 2B) the sum over triplets of
    s / 2Bn at (a, p) and -s / 2Bn at (a, n), the gradient at the vectors V is
    2 (diag(W 1) - W) V with W = M + M^T. Partners (2B, 1 + n) are positives, then negatives.
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor, partners: Tensor) -> Tensor:
        half_lead = _half_lead(both, partners)  # (2B, n)
        ctx.save_for_backward(both, partners, half_lead)
        return 2 * F.softplus(half_lead, beta=2).mean()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        both, partners, half_lead = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            loss = 2 * F.softplus(_half_lead(both, partners), beta=2).mean()
            (gradient,) = torch.autograd.grad(loss, both, create_graph=True)
            return outer * gradient, None
        share = torch.sigmoid(2 * half_lead) * (2 / half_lead.numel() * outer)  # (2B, n)
        weight = torch.cat([share.sum(1, keepdim=True), -share], dim=1)
        pull = both.new_zeros(len(both), len(both)).scatter_(1, partners, weight)
        pull = pull + pull.T
        pull.diagonal().sub_(pull.sum(1))
        return -(pull @ both), None


def _half_lead(both: Tensor, partners: Tensor) -> Tensor:
    """Half of |a - p|^2 - |a - n|^2 (2B, n) of triplets of vectors (2B, D).

    |a - x|^2 = |a|^2 - 2 (a x - |x|^2 / 2), and |a|^2 is the same for p and n: one product in
    place of the differences of all triplets.
    """
    gram = both @ both.T  # (2B, 2B)
    close = (gram - 0.5 * gram.diagonal()).gather(1, partners)
    return close[:, 1:] - close[:, :1]


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


def _draw_partners(pairs: int, per_anchor: int, generator: torch.Generator) -> Tensor:
    """For each of 2B anchors its positive and different negatives (2B, 1 + n)."""
    positive, barred = _no_negatives(pairs)
    luck = (torch.rand(barred.shape, generator=generator) + barred).numpy()
    count = min(per_anchor, 2 * pairs - 2)
    negative = np.argpartition(luck, -count, axis=1)[:, -count:]  # half the time of topk
    return torch.from_numpy(np.concatenate([positive, negative], axis=1))


@lru_cache(maxsize=8)
def _no_negatives(pairs: int) -> tuple[np.ndarray, Tensor]:
    """The positive of each of 2B anchors (2B, 1), and -2 at what is no negative (2B, 2B)."""
    anchor = torch.arange(2 * pairs)
    positive = (anchor + pairs) % (2 * pairs)
    barred = torch.zeros(2 * pairs, 2 * pairs)
    barred[anchor, anchor] = barred[anchor, positive] = -2.0
    return positive[:, None].numpy(), barred
