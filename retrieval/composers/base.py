"""The base of all composition models."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Composer(nn.Module):
    """Makes one unit-norm query from a reference embedding and an encoded caption.

    Args:
        dim: size D of both inputs and of the query.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, D) to raw queries (B, D)."""
        raise NotImplementedError

    def forward(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Unit-norm queries (B, D)."""
        return F.normalize(self.compose(reference, caption), dim=-1)
