"""The soft triplet loss as a loop over triplets, for comparison."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Triplets = list[tuple[int, int, int]]  # anchor, positive, negative: rows of the 2B vectors


def draw_triplets(pairs: int, per_anchor: int, rng: np.random.Generator) -> Triplets:
    """A few random triplets of every anchor, out of a list of all of them.

    As in google/tirg: for each of the 2B vectors all triplets are listed, shuffled and cut.
    """
    size = 2 * pairs
    chosen: Triplets = []
    for anchor in range(size):
        positive = (anchor + pairs) % size
        every = [
            (anchor, positive, negative)
            for negative in range(size)
            if negative not in (anchor, positive)
        ]
        rng.shuffle(every)
        chosen += [tuple(map(int, triplet)) for triplet in every[:per_anchor]]  # type: ignore[misc]
    return chosen


def soft_triplet_in_loop(query: Tensor, target: Tensor, triplets: Triplets) -> Tensor:
    """Mean of ln(1 + exp(|a - p|^2 - |a - n|^2)) over triplets of the 2B vectors (B, D) each."""
    vectors = [*query, *target]
    losses = []
    for anchor, positive, negative in triplets:
        near = (vectors[anchor] - vectors[positive]).square().sum()
        far = (vectors[anchor] - vectors[negative]).square().sum()
        losses.append(torch.log1p(torch.exp(near - far)))
    return torch.stack(losses).mean()
