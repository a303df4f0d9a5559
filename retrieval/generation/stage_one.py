"""StackGAN's first stage: a picture of 64 px from a condition and noise, and its judge."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from retrieval.generation.augmentation import CODE, Code, ConditioningAugmentation
from retrieval.generation.layers import (
    conv,
    down_block,
    initialise,
    join,
    joint_block,
    up_block,
    verdict,
)

NOISE, WIDTH, START = 100, 96, 4
"""Size Z of the noise, channels W of the widest map (both published), side of the first map."""


class GeneratorOne(nn.Module):
    """From a 4x4 map of 16 W channels over four up-blocks to 64 px, values in [-1, 1].

    Zhang et al., "StackGAN", ICCV 2017, section 3.3, in the sizes of Modify-image-by-text.

    Args:
        condition_dim: size F of conditions.
        width: W, channels at 64 px.
        noise: Z.
        form: of the conditioning augmentation.

    Example:
        >>> generator = GeneratorOne(condition_dim=8, width=2)
        >>> generator(torch.zeros(3, 8), torch.zeros(3, 100), torch.zeros(3, 128))[0].shape
        torch.Size([3, 3, 64, 64])
    """

    size = 64

    def __init__(
        self, condition_dim: int, width: int = WIDTH, noise: int = NOISE, form: str = "relu"
    ):
        super().__init__()
        self.augmentation = ConditioningAugmentation(condition_dim, form)
        first = 16 * width
        self.first = nn.Sequential(
            nn.Linear(noise + CODE, first * START**2, bias=False),
            nn.BatchNorm1d(first * START**2),
            nn.ReLU(inplace=True),
        )
        widths = [first // 2**step for step in range(5)]  # 16 W, 8 W, 4 W, 2 W, W
        self.up = nn.Sequential(*map(up_block, widths, widths[1:]))
        self.last = nn.Sequential(conv(width, 3), nn.Tanh())
        self.apply(initialise)

    def forward(self, condition: Tensor, noise: Tensor, code_noise: Tensor) -> tuple[Tensor, Code]:
        """Pictures (B, 3, 64, 64) and codes, of (B, F), (B, Z) and (B, E)."""
        code = self.augmentation(condition, code_noise)
        maps = self.first(torch.cat([noise, code.drawn], dim=-1))  # (B, 16 W * 16)
        maps = maps.unflatten(1, (-1, START, START))  # (B, 16 W, 4, 4)
        return self.last(self.up(maps)), code


class DiscriminatorOne(nn.Module):
    """Whether a picture of 64 px is real and fits a code: one conditional logit.

    Departure: gives logits, on which the same losses are taken in a stable way; the original
    ends in a sigmoid.

    Args:
        width: W, channels after the first block.
        norm: one of `retrieval.generation.layers.NORMS`.
    """

    def __init__(self, width: int = WIDTH, norm: str = "batch"):
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, 8 * width]
        pairs = pairwise(widths)
        self.down = nn.Sequential(
            *(down_block(inner, outer, norm, inner == 3) for inner, outer in pairs)
        )  # (B, 8 W, 4, 4)
        self.joint = joint_block(8 * width + CODE, 8 * width, norm)
        self.conditional = verdict(8 * width, norm)
        self.apply(initialise)

    def read(self, pictures: Tensor) -> Tensor:
        """Maps (B, 8 W, 4, 4) of pictures (B, 3, 64, 64) in [-1, 1]."""
        maps: Tensor = self.down(pictures)
        return maps

    def judge(self, maps: Tensor, mean: Tensor) -> Tensor:
        """Logits (B,) of maps that `read` gave and means of codes (B, E)."""
        logits: Tensor = self.conditional(self.joint(join(maps, mean)))
        return logits.flatten()

    def judge_alone(self, maps: Tensor) -> Tensor | None:
        """This stage does not judge pictures without their condition."""
        return None
