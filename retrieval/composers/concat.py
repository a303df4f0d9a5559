"""The baseline that feeds both inputs to one network."""

import torch
from torch import Tensor, nn

from retrieval.composers.base import Composer


class Concat(Composer):
    """q = MLP([r, c]) with the layers of google/tirg's `concat`: BN, ReLU, 2D, BN, ReLU,
    dropout 0.1, D. Vo et al., CVPR 2019, sec. 4 ("concatenation"). With captions of another
    size, 2D is the size of both together."""

    def __init__(self, dim: int, text_dim: int | None = None):
        super().__init__(dim, text_dim)
        both = dim + self.text_dim
        self.net = nn.Sequential(
            nn.BatchNorm1d(both),
            nn.ReLU(),
            nn.Linear(both, both),
            nn.BatchNorm1d(both),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(both, dim),
        )

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, text_dim) to raw queries (B, D)."""
        mixed: Tensor = self.net(torch.cat([reference, caption], dim=-1))
        return mixed
