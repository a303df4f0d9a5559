"""ComposeAE's ablation without complex numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval.composers.autoencoding import AutoencodingComposer, PooledConvolution, mapping

POOLED_PLACES = 20


class RealSpaceConcatAE(AutoencodingComposer):
    r"""q = a_1 rho([r, c]) + a_0 rho_conv([r, c]), with ComposeAE's reconstruction losses.

    Anwaar et al., WACV 2021, sec. 4 ("concatenation in real space"); as released, the two
    inputs one after the other are one row for the convolution, pooled to 20 places. There is
    no rotation and so no symmetry loss. Departure: captions of any size.
    """

    def __init__(self, dim: int, text_dim: int | None = None):
        super().__init__(dim, text_dim)
        self.mapping = mapping(dim + self.text_dim, dim)
        self.convolution = PooledConvolution(1, POOLED_PLACES, dim)

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, text_dim) to raw queries (B, D)."""
        both = torch.cat([reference, caption], dim=-1)  # (B, D + text_dim)
        mixed: Tensor = self.weights[1] * self.mapping(both)
        return mixed + self.weights[0] * self.convolution(both[:, None])
