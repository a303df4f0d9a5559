"""The soft triplet loss of a batch, with a few random negatives for every anchor.

The vectors of a batch are its B queries and then its B targets: 2B anchors, each with its partner
as positive. Triplets come as a table of partners (2B, 1 + n): positives, then negatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

AT_ONCE = 2**20  # numbers gathered at once, so that they stay in the cache
FEW = 96  # vectors up to which a dense product takes less time than a sparse one


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
    partners = draw_partners(len(query), per_anchor, generator)
    loss: Tensor
    if _is_plain(query) and _is_plain(target) and not torch.is_autocast_enabled("cpu"):
        loss = PlainTriplets.apply(query, target, partners)
    else:
        both = torch.cat([query, target])  # (2B, D)
        loss = Triplets.apply(both, torch.from_numpy(partners).to(both.device))
    return 0.5 * loss + (0.5 * loss).detach() if half_gradient else loss


def draw_partners(pairs: int, per_anchor: int, generator: torch.Generator) -> np.ndarray:
    """For each of 2B anchors its positive and different negatives (2B, 1 + n).

    Every set of n of the 2B - 2 others is as likely. Floyd's way: of the first `room` others one
    is drawn, with more room each time; where it was drawn before, the last of them takes its
    place, which cannot have been. Bentley and Floyd, CACM 30(9), 1987.
    """
    others = 2 * pairs - 2
    count = min(per_anchor, others)
    luck = torch.rand(count, 2 * pairs, generator=generator, dtype=torch.float64).numpy()
    ahead = np.empty((1 + count, 2 * pairs), np.int64)  # of anchors, in a circle
    ahead[0] = pairs - 1
    drawn = ahead[1:]  # (n, 2B)
    room = np.arange(others - count + 1, others + 1)[:, None]  # (n, 1)
    np.multiply(luck, room, out=drawn, casting="unsafe")  # rounded down
    for turn in range(1, count):
        repeated = np.logical_or.reduce(drawn[:turn] == drawn[turn], axis=0)
        np.putmask(drawn[turn], repeated, room[turn] - 1)
    drawn += drawn >= pairs - 1  # past the positive
    ahead += np.arange(1, 2 * pairs + 1)
    ahead %= 2 * pairs
    return ahead.T


def _is_plain(vectors: Tensor) -> bool:
    return vectors.dtype == torch.float32 and vectors.device.type == "cpu"


class Triplets(torch.autograd.Function):
    """The loss of given triplets, whose gradient is one matrix product; on any device.

    With s the logistic function of |a - p|^2 - |a - n|^2 and M (2B, 2B) the sum over triplets of
    s / 2Bn at (a, p) and -s / 2Bn at (a, n), the gradient at the vectors V is
    2 (diag(W 1) - W) V with W = M + M^T.
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
            return outer * _open_gradient(both, partners), None
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


def _open_gradient(both: Tensor, partners: Tensor) -> Tensor:
    """The gradient (2B, D) as operations that can be differentiated."""
    loss = 2 * F.softplus(_half_lead(both, partners), beta=2).mean()
    (gradient,) = torch.autograd.grad(loss, both, create_graph=True)
    return gradient


class PlainTriplets(torch.autograd.Function):
    """`Triplets` of float32 vectors on the CPU, from the triplets' own vectors alone.

    In NumPy, since an operation on so few numbers costs PyTorch three times as much, and without
    tables (2B, 2B), of which a few numbers in each row are wanted.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, target: Tensor, partners: np.ndarray) -> Tensor:
        both = np.concatenate([query.detach().numpy(), target.detach().numpy()])  # (2B, D)
        square = np.matmul(both[:, None], both[:, :, None])[:, 0, 0]  # (2B,)
        close = 2 * _products(both, partners) - square[partners]  # (2B, 1 + n)
        lead = close[:, 1:] - close[:, :1]  # (2B, n)
        loss = np.logaddexp(0, lead)
        ctx.save_for_backward(query, target)
        ctx.plain = both, partners, lead, loss
        return torch.from_numpy(np.asarray(loss.sum() / loss.size))

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None]:
        query, target = ctx.saved_tensors
        both, partners, lead, loss = ctx.plain
        if torch.is_grad_enabled():  # to be differentiated again
            vectors = torch.cat([query, target])
            first, second = (outer * _open_gradient(vectors, torch.from_numpy(partners))).chunk(2)
            return first, second, None
        share = np.exp(lead - loss)  # the logistic function, which cannot overflow so
        pulled = _pulled(both, partners, share * (2 * outer.item() / share.size))
        first = torch.from_numpy(pulled[: len(query)])
        return first, torch.from_numpy(pulled[len(query) :]), None


def _products(both: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """The products (2B, K) of vectors (2B, D) with their partners (2B, K)."""
    found = np.empty((*partners.shape, 1), np.float32)
    step = max(1, AT_ONCE // (partners.shape[1] * both.shape[1]))
    for start in range(0, len(both), step):
        part = slice(start, start + step)
        np.matmul(both.take(partners[part], axis=0), both[part, :, None], out=found[part])
    return found[:, :, 0]


def _pulled(both: np.ndarray, partners: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The gradient (2B, D) of triplets by their shares (2B, n), which are s / Bn: see `Triplets`.

    -M is listed by anchors and partners. Its rows add up to nothing, so that W 1 is what the
    columns of M add up to.
    """
    size, width = partners.shape
    listed = np.empty(partners.shape, np.float32)  # (2B, 1 + n)
    listed[:, 1:] = share
    np.negative(np.add.reduce(share, axis=1), out=listed[:, 0])
    if size <= FEW:
        pull = np.zeros((size, size), np.float32)
        pull[np.arange(size)[:, None], partners] = listed
        across = np.add.reduce(pull, axis=0)
        pull = pull + pull.T
        pull.ravel()[:: size + 1] = -across
        return pull @ both
    anchor, partner, weight = np.arange(size), partners.ravel(), listed.ravel()
    across = np.bincount(partner, weight, minlength=size).astype(np.float32)
    each = anchor.repeat(width)
    return _sparse_product(
        np.concatenate([anchor, each, partner]),
        np.concatenate([anchor, partner, each]),
        np.concatenate([-across, weight, weight]),
        both,
    )


def _sparse_product(
    rows: np.ndarray, columns: np.ndarray, weight: np.ndarray, dense: np.ndarray
) -> np.ndarray:
    """A square matrix with weights (P,) at rows and columns (P,), times a dense one (M, D).

    As PyTorch's bags: weighted sums of the dense rows, without copies of these.
    """
    order = rows.argsort(kind="stable")
    runs = np.bincount(rows, minlength=len(dense))  # (M,)
    bags = torch.embedding_bag(
        torch.from_numpy(dense),
        torch.from_numpy(columns[order]),
        torch.from_numpy(runs.cumsum() - runs),
        mode=0,  # sums
        per_sample_weights=torch.from_numpy(weight[order]),
    )
    return bags[0].numpy()
