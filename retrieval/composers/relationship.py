"""Relational reasoning between the parts of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval.composers.base import Composer


class Relationship(Composer):
    r"""Every pair of the image's parts is looked at in the light of the caption.

    .. math:: q = f\left(\frac{1}{O^2} \sum_{i,j} g([o_i, o_j, c])\right)

    with g and f networks of two layers. Santoro et al., "A simple neural network module for
    relational reasoning", NIPS 2017, eq. 1; a baseline of Vo et al., CVPR 2019, sec. 4, whose
    code of it was not released.
    Departures: the parts of one vector are O learned projections of it instead of the places
    of a map (their number needs no tag: each has weights of its own); the mean instead of the
    sum, as in Vo et al.; two layers instead of four and three, and no dropout, since the deep
    ones learn slowly without the norms that a convolutional encoder brings.

    Args:
        dim, text_dim: see `Composer`.
        parts: number O of parts.
        part_dim: size of a part.
        width: size of the hidden layers.
    """

    def __init__(
        self,
        dim: int,
        text_dim: int | None = None,
        parts: int = 8,
        part_dim: int = 64,
        width: int = 256,
    ):
        super().__init__(dim, text_dim)
        self.shape = (parts, part_dim)
        self.parts = nn.Linear(dim, parts * part_dim)
        self.pairs = nn.Sequential(
            nn.Linear(2 * part_dim + self.text_dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        self.output = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, text_dim) to raw queries (B, D)."""
        parts = self.parts(reference).unflatten(-1, self.shape)  # (B, O, P)
        number = self.shape[0]
        first = parts[:, :, None].expand(-1, -1, number, -1)  # (B, O, O, P)
        second = parts[:, None].expand(-1, number, -1, -1)
        heard = caption[:, None, None].expand(-1, number, number, -1)
        pairs = self.pairs(torch.cat([first, second, heard], dim=-1))  # (B, O, O, width)
        query: Tensor = self.output(pairs.mean((1, 2)))
        return query
