"""Composition by rotation in complex space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval.composers.autoencoding import AutoencodingComposer, PooledConvolution, mapping
from retrieval.composers.base import Metric

SYMMETRY_WEIGHT = 0.01
POOLED_PLACES = 16


class ComplexProjection(nn.Module):
    """An image as the length, a caption as the angle of complex numbers."""

    def __init__(self, dim: int, text_dim: int):
        super().__init__()
        self.length = nn.Sequential(
            nn.BatchNorm1d(dim),
            nn.Linear(dim, dim),
            nn.Dropout(0.5),
            nn.ReLU(),
            nn.Linear(dim, dim),
        )
        self.angle = nn.Sequential(
            nn.BatchNorm1d(text_dim), nn.Linear(text_dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )

    def forward(self, image: Tensor, caption: Tensor, sign: float) -> tuple[Tensor, ...]:
        """Length, angle, real and imaginary part, each (B, D); sign -1 conjugates."""
        length, angle = self.length(image), self.angle(caption)
        return length, angle, length * torch.cos(angle), sign * length * torch.sin(angle)


class ComposeAE(AutoencodingComposer):
    r"""The caption turns the image in complex space, and can be turned back.

    .. math:: z = x(r) \, e^{i \theta(c)}, \quad
              q = a_1 \rho(z) + a_0 \rho_{conv}(x, \theta, r, z)

    Anwaar et al., "Compositional Learning of Image-Text Query for Image Retrieval", WACV 2021,
    sec. 3; layers and the initial a = [1, 10, 1, 1] as released. Both mappings own a projection.
    Losses besides the metric one: the reconstructions (0.1 each) and rotational symmetry (0.01):
    the target turned back by the conjugate must find the reference.
    Departures: captions of any size (the release is tied to 768); the sign of the conjugate is a
    number, so any batch size works (the release holds 32 rows of it).
    """

    def __init__(self, dim: int, text_dim: int | None = None):
        super().__init__(dim, text_dim)
        self.projection = ComplexProjection(dim, self.text_dim)
        self.mapping = mapping(2 * dim, dim)
        self.convolution_projection = ComplexProjection(dim, self.text_dim)
        self.convolution = PooledConvolution(5, POOLED_PLACES, dim)

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, text_dim) to raw queries (B, D)."""
        return self.rotate(reference, caption, 1.0)

    def rotate(self, image: Tensor, caption: Tensor, sign: float) -> Tensor:
        """Raw queries (B, D): images turned by captions (sign 1) or back (sign -1)."""
        _, _, real, imaginary = self.projection(image, caption, sign)
        turned = self.mapping(torch.cat([real, imaginary], dim=-1))
        length, angle, real, imaginary = self.convolution_projection(image, caption, sign)
        rows = torch.stack([length, angle, image, real, imaginary], dim=1)  # (B, 5, D)
        mixed: Tensor = self.weights[1] * turned + self.weights[0] * self.convolution(rows)
        return mixed

    def auxiliary_losses(
        self, reference: Tensor, caption: Tensor, target: Tensor, query: Tensor, metric: Metric
    ) -> dict[str, Tensor]:
        """Reconstructions and rotational symmetry; see `Composer`."""
        losses = super().auxiliary_losses(reference, caption, target, query, metric)
        turned_back = self.rotate(target, caption, -1.0)
        losses["rotational_symmetry"] = SYMMETRY_WEIGHT * metric(turned_back, reference)
        return losses
