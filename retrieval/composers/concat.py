"""The baseline that feeds both inputs to one network."""

import torch
from torch import Tensor, nn

from retrieval.composers.base import Composer


class Concat(Composer):
    """q = MLP([r, c]) with the layers of google/tirg's `concat`: BN, ReLU, 2D, BN, ReLU,
    dropout 0.1, D. Vo et al., CVPR 2019, sec. 4 ("concatenation")."""

    def __init__(self, dim: int):
        super().__init__(dim)
        self.net = nn.Sequential(
            nn.BatchNorm1d(2 * dim),
            nn.ReLU(),
            nn.Linear(2 * dim, 2 * dim),
            nn.BatchNorm1d(2 * dim),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(2 * dim, dim),
        )

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, D) to raw queries (B, D)."""
        mixed: Tensor = self.net(torch.cat([reference, caption], dim=-1))
        return mixed
