"""Text-image residual gating."""

import torch
from torch import Tensor, nn

from retrieval.composers.base import Composer


class TIRG(Composer):
    r"""Gated residual composition: edit the reference instead of replacing it.

    .. math:: q = a_0 \, \sigma(g([r, c])) \odot r + a_1 \, h([r, c])

    The gate g keeps what the caption leaves alone; the residual h adds what it asks for.
    Vo et al., "Composing Text and Image for Image Retrieval", CVPR 2019, sec. 3.2; layers and
    the initial a = [1, 10, 1, 1], of which two are used, as in google/tirg. Departure:
    `Composer.forward` makes q unit-norm, so only the ratio of a matters; the learned scale
    of the original sits in the loss. With captions of another size, 2D is the size of both.
    """

    def __init__(self, dim: int, text_dim: int | None = None):
        super().__init__(dim, text_dim)
        both = dim + self.text_dim
        self.weights = nn.Parameter(torch.tensor([1.0, 10.0]))
        self.gate = nn.Sequential(nn.BatchNorm1d(both), nn.ReLU(), nn.Linear(both, dim))
        self.residual = nn.Sequential(
            nn.BatchNorm1d(both),
            nn.ReLU(),
            nn.Linear(both, both),
            nn.ReLU(),
            nn.Linear(both, dim),
        )

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, text_dim) to raw queries (B, D)."""
        both = torch.cat([reference, caption], dim=-1)  # (B, 2D)
        kept = torch.sigmoid(self.gate(both)) * reference
        added: Tensor = self.residual(both)
        return self.weights[0] * kept + self.weights[1] * added
