"""The soft triplet loss of a batch, with a few random negatives for every anchor.

The vectors of a batch are its B queries and then its B targets: 2B anchors, each with its partner
as positive. Triplets come as a table of partners (2B, 1 + n): positives, then negatives.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

AT_ONCE = 2**20  # numbers gathered at once, so that they stay in the cache
LISTED = 2**18  # numbers up to which all sets of negatives are listed: three of 38 pairs
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
    if (
        query.dtype == target.dtype == torch.float32
        and query.is_cpu
        and target.is_cpu
        and not torch.is_autocast_enabled("cpu")
    ):
        loss = PlainTriplets.apply(query, target, partners)
    else:
        both = torch.cat([query, target])  # (2B, D)
        loss = Triplets.apply(both, torch.from_numpy(partners).to(both.device))
    return 0.5 * loss + (0.5 * loss).detach() if half_gradient else loss


def draw_partners(pairs: int, per_anchor: int, generator: torch.Generator) -> np.ndarray:
    """For each of 2B anchors its positive and different negatives (2B, 1 + n).

    Every set of n of the 2B - 2 others is as likely: one out of a list of all of them where that
    is short (one number to draw in place of n), else by `_floyd`.
    """
    size = 2 * pairs
    count = min(per_anchor, size - 2)
    listed = _every_set(pairs, count)
    if listed is None:
        ahead = _floyd(pairs, count, generator)
    else:
        chosen = torch.randint(len(listed), (size,), generator=generator)
        ahead = listed.take(chosen.numpy(), axis=0)
    ahead += _numbers(size)
    ahead %= size
    return ahead


@lru_cache(maxsize=4)
def _every_set(pairs: int, count: int) -> np.ndarray | None:
    """How far ahead of an anchor its positive and each set of negatives are, in a circle of 2B.

    All C sets (C, 1 + n), made once and only read, or None: these were more than `LISTED` numbers.
    """
    sets = comb(2 * pairs - 2, count)
    if sets * (1 + count) > LISTED:
        return None
    steps = [step for step in range(1, 2 * pairs) if step != pairs]
    ahead = np.empty((sets, 1 + count), np.int64)
    ahead[:, 0] = pairs
    ahead[:, 1:] = list(combinations(steps, count))
    ahead.flags.writeable = False
    return ahead


def _floyd(pairs: int, count: int, generator: torch.Generator) -> np.ndarray:
    """A row of `_every_set` for each of 2B anchors (2B, 1 + n), without the list.

    Of the first `room` others one is drawn, with more room each time; where it was drawn before,
    the last of them takes its place, which cannot have been. Bentley and Floyd, CACM 30(9), 1987.
    """
    others = 2 * pairs - 2
    luck = torch.rand(count, 2 * pairs, generator=generator, dtype=torch.float64).numpy()
    ahead = np.empty((1 + count, 2 * pairs), np.int64)
    ahead[0] = pairs
    drawn = ahead[1:]  # (n, 2B)
    room = np.arange(others - count + 1, others + 1)[:, None]  # (n, 1)
    np.multiply(luck, room, out=drawn, casting="unsafe")  # rounded down
    for turn in range(1, count):
        repeated = np.logical_or.reduce(drawn[:turn] == drawn[turn], axis=0)
        np.putmask(drawn[turn], repeated, room[turn] - 1)
    drawn += 1 + (drawn >= pairs - 1)  # past the anchor and the positive
    return ahead.T


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
        both = torch.cat((query, target)).numpy()  # (2B, D)
        square = np.matmul(both[:, None], both[:, :, None]).ravel()  # (2B,)
        close = _products(both, partners)  # (2B, 1 + n)
        close += close
        close -= square.take(partners)
        lead = close[:, 1:] - close[:, :1]  # (2B, n)
        loss = np.logaddexp(0, lead)
        ctx.save_for_backward(query, target)
        ctx.plain = both, partners, lead, loss
        return torch.from_numpy(np.asarray(np.add.reduce(loss, axis=None) / loss.size))

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None]:
        both, partners, lead, loss = ctx.plain
        if torch.is_grad_enabled():  # to be differentiated again
            vectors = torch.cat(ctx.saved_tensors)
            first, second = (outer * _open_gradient(vectors, torch.from_numpy(partners))).chunk(2)
            return first, second, None
        share = np.exp(lead - loss)  # the logistic function, which cannot overflow so
        share *= 2 * outer.item() / share.size
        pulled = _pulled(both, partners, share)
        pairs = len(both) // 2
        return torch.from_numpy(pulled[:pairs]), torch.from_numpy(pulled[pairs:]), None


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
    if size <= FEW:
        pull = np.zeros((size, size), np.float32)
        pull[_numbers(size), partners] = share @ _with_sum(width - 1)
        across = np.add.reduce(pull, axis=0)
        pull = pull + pull.T
        np.negative(across, out=pull.ravel()[:: size + 1])
        return pull @ both
    listed = np.empty(partners.shape, np.float32)  # (2B, 1 + n)
    listed[:, 1:] = share
    np.negative(np.add.reduce(share, axis=1), out=listed[:, 0])
    anchor, partner, weight = np.arange(size), partners.ravel(), listed.ravel()
    across = np.bincount(partner, weight, minlength=size).astype(np.float32)
    each = anchor.repeat(width)
    return _sparse_product(
        np.concatenate([anchor, each, partner]),
        np.concatenate([anchor, partner, each]),
        np.concatenate([-across, weight, weight]),
        both,
    )


@lru_cache(maxsize=8)
def _numbers(size: int) -> np.ndarray:
    """The numbers below a size (2B, 1), made once and only read."""
    column = np.arange(size)[:, None]
    column.flags.writeable = False
    return column


@lru_cache(maxsize=8)
def _with_sum(count: int) -> np.ndarray:
    """[-1 | I] (n, 1 + n), made once and only read: numbers times it are led by minus their sum."""
    table = np.eye(count, 1 + count, 1, np.float32)
    table[:, 0] = -1
    table.flags.writeable = False
    return table


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
