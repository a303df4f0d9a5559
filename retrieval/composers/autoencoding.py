"""What the two autoencoding composers share: their mappings, decoders and two losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.composers.base import Composer, Metric

RECONSTRUCTION_WEIGHT = 0.1


def mapping(inner: int, dim: int) -> nn.Sequential:
    """BatchNorm, ReLU, Linear, ReLU, Linear: (B, inner) to (B, D)."""
    return nn.Sequential(
        nn.BatchNorm1d(inner), nn.ReLU(), nn.Linear(inner, dim), nn.ReLU(), nn.Linear(dim, dim)
    )


class PooledConvolution(nn.Module):
    """A convolution along rows of channels (B, channels, length), max-pooled and mapped."""

    def __init__(self, channels: int, places: int, dim: int):
        super().__init__()
        self.convolution = nn.Conv1d(channels, 64, 3, padding=1)
        self.pool = nn.AdaptiveMaxPool1d(places)
        self.mapping = mapping(64 * places, dim)

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors (B, D)."""
        result: Tensor = self.mapping(self.pool(self.convolution(rows)).flatten(1))
        return result


class AutoencodingComposer(Composer):
    """A composer from whose query both inputs can be told.

    Two decoders read image and caption back from the raw query; their squared errors, weighted
    0.1 each, are auxiliary losses. Gradients reach the inputs too, as published. A dialog agent
    that trains by its queries alone leaves these losses and the decoders out of account.
    """

    def __init__(self, dim: int, text_dim: int | None = None):
        super().__init__(dim, text_dim)
        # All four numbers as published, though two are used; see `TIRGLastConv`.
        self.weights = nn.Parameter(torch.tensor([1.0, 10.0, 1.0, 1.0]))
        self.image_decoder = mapping(dim, dim)
        self.text_decoder = mapping(dim, self.text_dim)
        # As published, the inner layer of a decoder has the size of what it decodes.

    def auxiliary_losses(
        self, reference: Tensor, caption: Tensor, target: Tensor, query: Tensor, metric: Metric
    ) -> dict[str, Tensor]:
        """The two reconstruction losses; see `Composer`."""
        image_error = F.mse_loss(self.image_decoder(query), reference)
        text_error = F.mse_loss(self.text_decoder(query), caption)
        return {
            "image_reconstruction": RECONSTRUCTION_WEIGHT * image_error,
            "text_reconstruction": RECONSTRUCTION_WEIGHT * text_error,
        }
