"""The blocks that generators and discriminators of both stages are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2  # of every LeakyReLU
NORMS = ("batch", "spectral", "none")
"""What keeps a discriminator's activations in bounds: BatchNorm (published), spectral
normalisation of its weights (Miyato et al., ICLR 2018), or nothing."""


def conv(inner: int, outer: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, without bias."""
    return nn.Conv2d(inner, outer, 3, padding=1, bias=False)


def up_block(inner: int, outer: int) -> nn.Sequential:
    """Twice the size: nearest neighbour, 3x3 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        conv(inner, outer),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    )


def normed_conv(inner: int, outer: int) -> nn.Sequential:
    """A generator's 3x3 convolution at constant size, BatchNorm, ReLU."""
    return nn.Sequential(conv(inner, outer), nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


def down_conv(inner: int, outer: int) -> nn.Sequential:
    """A generator's 4x4 convolution to half the size, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    )


def down_block(inner: int, outer: int, norm: str, is_first: bool = False) -> nn.Sequential:
    """A discriminator's 4x4 convolution to half the size and LeakyReLU, normalised between.

    Args:
        inner, outer: channels.
        norm: one of `NORMS`.
        is_first: the block that sees pixels, which has no BatchNorm.
    """
    layer = nn.Conv2d(inner, outer, 4, stride=2, padding=1, bias=False)
    return _normed(layer, outer, "none" if is_first and norm == "batch" else norm)


def joint_block(inner: int, outer: int, norm: str) -> nn.Sequential:
    """A discriminator's 3x3 convolution at constant size and LeakyReLU, normalised between."""
    return _normed(conv(inner, outer), outer, norm)


def verdict(channels: int, norm: str) -> nn.Module:
    """Maps (B, C, 4, 4) to one logit each, (B, 1, 1, 1): a 4x4 convolution with bias."""
    layer = nn.Conv2d(channels, 1, 4, stride=4)
    return spectral_norm(layer) if norm == "spectral" else layer


def _normed(layer: nn.Conv2d, outer: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = [spectral_norm(layer) if norm == "spectral" else layer]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(outer))
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE, inplace=True))


class Residual(nn.Module):
    """Two 3x3 convolutions whose result is added to what came in, then ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            conv(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) to maps of the same shape."""
        return F.relu(maps + self.body(maps))


def join(maps: Tensor, code: Tensor) -> Tensor:
    """Maps (B, C, H, W) with a code (B, E) at every place: (B, C + E, H, W)."""
    tiled = code[:, :, None, None].expand(-1, -1, *maps.shape[2:])
    return torch.cat([maps, tiled], dim=1)


def initialise(module: nn.Module) -> None:
    """The published start, for `Module.apply`: weights N(0, 0.02), BatchNorm N(1, 0.02).

    Layers without a bias have none to fill; other biases are PyTorch's own, as published.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        weights = [one for name, one in module.named_parameters() if not name.endswith("bias")]
        for weight in weights:  # one; under spectral normalisation that before it
            nn.init.normal_(weight, 0.0, 0.02)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
