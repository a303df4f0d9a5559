"""Text-image residual gating on the last map of the image encoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from retrieval.composers.base import Composer, Form


class TIRGLastConv(Composer):
    r"""TIRG place by place: the caption edits the map before it is pooled.

    .. math:: m' = a_0 \, \sigma(g([m, c])) \odot m + a_1 \, h([m, c])

    with the caption repeated at every place and g, h of one shape: BatchNorm2d, 3x3 convolution,
    ReLU, 3x3 convolution. Vo et al., CVPR 2019, sec. 3.2; layers as in google/tirg, where (unlike
    the vector form) no ReLU stands between the norm and the first convolution. The edited map
    passes the pooling and the Linear of plain images, which the model applies. All four numbers
    of the published a are kept, though two are used: gradient augmentation divides its noise
    by their number.

    Args:
        dim: channels C of the map.
        text_dim: size of encoded captions; C when absent.
    """

    form: ClassVar[Form] = "map"

    def __init__(self, dim: int, text_dim: int | None = None):
        super().__init__(dim, text_dim)
        self.weights = nn.Parameter(torch.tensor([1.0, 10.0, 1.0, 1.0]))
        self.gate, self.residual = (self._stack(dim, dim + self.text_dim) for _ in range(2))

    @staticmethod
    def _stack(dim: int, both: int) -> nn.Sequential:
        """The layers of one branch."""
        return nn.Sequential(
            nn.BatchNorm2d(both),
            nn.Conv2d(both, both, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(both, dim, 3, padding=1),
        )

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references' maps (B, C, H, W) and captions (B, text_dim) to maps (B, C, H, W)."""
        heard = caption[:, :, None, None].expand(-1, -1, *reference.shape[-2:])
        both = torch.cat([reference, heard], dim=1)  # (B, C + text_dim, H, W)
        kept = torch.sigmoid(self.gate(both)) * reference
        added: Tensor = self.residual(both)
        return self.weights[0] * kept + self.weights[1] * added

    def forward(self, reference: Tensor, caption: Tensor) -> Tensor:
        """The edited maps (B, C, H, W); queries come of the encoder's head."""
        return self.compose(reference, caption)
