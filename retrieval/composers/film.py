"""Feature-wise linear modulation."""

import torch
from torch import Tensor, nn

from retrieval.composers.base import Composer


class FiLMBlock(nn.Module):
    """A residual block whose normalised features the caption scales and shifts."""

    def __init__(self, dim: int):
        super().__init__()
        self.first = nn.Linear(dim, dim)
        self.second = nn.Linear(dim, dim, bias=False)  # the norm would take a bias away
        self.norm = nn.BatchNorm1d(dim, affine=False)  # the caption brings scale and shift

    def forward(self, features: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """Features (B, D) under a gain and a shift, each (B, D)."""
        features = torch.relu(self.first(features))
        modulated = (1 + gain) * self.norm(self.second(features)) + shift
        return features + torch.relu(modulated)


class FiLM(Composer):
    r"""The image passes four residual blocks that the caption modulates.

    .. math:: y = \mathrm{relu}(A_l x_{l-1}), \quad
              x_l = y + \mathrm{relu}((1 + \gamma_l(c)) \odot \mathrm{BN}(B_l y) + \beta_l(c)),
              \quad x_0 = r, \quad q = W x_4

    with all gains and shifts from one Linear of the caption. Perez et al., "FiLM: Visual
    Reasoning with a General Conditioning Layer", AAAI 2018, sec. 3 (blocks as in fig. 3); a
    baseline of Vo et al., CVPR 2019, sec. 4, whose code of it was not released.
    Departures: on one vector, so that convolutions are Linears and there are no coordinate maps
    and no pooling; a last Linear instead of the classifier, since blocks end above zero.
    """

    def __init__(self, dim: int, text_dim: int | None = None, blocks: int = 4):
        super().__init__(dim, text_dim)
        self.modulation = nn.Linear(self.text_dim, blocks * 2 * dim)
        self.blocks = nn.ModuleList(FiLMBlock(dim) for _ in range(blocks))
        self.output = nn.Linear(dim, dim)

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, text_dim) to raw queries (B, D)."""
        modulation = self.modulation(caption).unflatten(-1, (len(self.blocks), 2, self.dim))
        features = reference
        for number, block in enumerate(self.blocks):
            features = block(features, modulation[:, number, 0], modulation[:, number, 1])
        query: Tensor = self.output(features)
        return query
