"""StackGAN's second stage: the first stage's picture drawn anew at 128 px, and its judge."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.generation.augmentation import CODE, Code, ConditioningAugmentation
from retrieval.generation.layers import (
    Residual,
    conv,
    down_block,
    down_conv,
    initialise,
    join,
    joint_block,
    normed_conv,
    up_block,
    verdict,
)
from retrieval.generation.stage_one import WIDTH, GeneratorOne

RESIDUALS = 2  # the paper has four


class GeneratorTwo(nn.Module):
    """Reads a stage I picture, meets the condition again, and draws 128 px, values in [-1, 1].

    Zhang et al., "StackGAN", ICCV 2017, section 3.4, in the sizes of Modify-image-by-text. The
    first stage is frozen: it gives no gradient, learns nothing, and its BatchNorm keeps the
    averages it had.

    Args:
        first: a trained first stage.
        condition_dim: size F of conditions.
        width: W; the maps have 2 W, 4 W and 8 W channels on the way down.
        form: of this stage's own conditioning augmentation.
    """

    size = 128

    def __init__(
        self, first: GeneratorOne, condition_dim: int, width: int = WIDTH, form: str = "relu"
    ):
        super().__init__()
        self.augmentation = ConditioningAugmentation(condition_dim, form)
        self.encode = nn.Sequential(
            conv(3, 2 * width),
            nn.ReLU(inplace=True),
            down_conv(2 * width, 4 * width),
            down_conv(4 * width, 8 * width),
        )  # (B, 8 W, 16, 16)
        self.joint = normed_conv(8 * width + CODE, 8 * width)
        self.residuals = nn.Sequential(*(Residual(8 * width) for _ in range(RESIDUALS)))
        widths = [8 * width, 4 * width, 2 * width, width]
        self.up = nn.Sequential(*map(up_block, widths, widths[1:]))
        self.last = nn.Sequential(conv(width, 3), nn.Tanh())
        self.apply(initialise)
        self.first = first.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> GeneratorTwo:
        """Set the mode of this stage; the frozen one stays in eval mode."""
        super().train(mode)
        self.first.eval()
        return self

    def forward(self, condition: Tensor, noise: Tensor, code_noise: Tensor) -> tuple[Tensor, Code]:
        """Pictures (B, 3, 128, 128) and codes of this stage, of (B, F), (B, Z) and (B, 2 E).

        The two halves of `code_noise` are the first stage's and this one's.
        """
        of_first, of_second = code_noise.split(CODE, dim=-1)
        with torch.no_grad():
            small, _ = self.first(condition, noise, of_first)  # (B, 3, 64, 64)
        code = self.augmentation(condition, of_second)
        maps = self.joint(join(self.encode(small), code.drawn))
        return self.last(self.up(self.residuals(maps))), code


class DiscriminatorTwo(nn.Module):
    """Whether a picture of 128 px is real, and whether it fits a code: two logits.

    Args:
        width: W, channels after the first block; see `DiscriminatorOne` for the rest.
        norm: one of `retrieval.generation.layers.NORMS`.
    """

    def __init__(self, width: int = WIDTH, norm: str = "batch"):
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, 8 * width, 16 * width]
        pairs = pairwise(widths)
        self.down = nn.Sequential(
            *(down_block(inner, outer, norm, inner == 3) for inner, outer in pairs),
            joint_block(16 * width, 8 * width, norm),
        )  # (B, 8 W, 4, 4)
        self.joint = joint_block(8 * width + CODE, 8 * width, norm)
        self.conditional = verdict(8 * width, norm)
        self.unconditional = verdict(8 * width, norm)
        self.apply(initialise)

    def read(self, pictures: Tensor) -> Tensor:
        """Maps (B, 8 W, 4, 4) of pictures (B, 3, 128, 128) in [-1, 1]."""
        maps: Tensor = self.down(pictures)
        return maps

    def judge(self, maps: Tensor, mean: Tensor) -> Tensor:
        """Conditional logits (B,) of maps that `read` gave and means of codes (B, E)."""
        logits: Tensor = self.conditional(self.joint(join(maps, mean)))
        return logits.flatten()

    def judge_alone(self, maps: Tensor) -> Tensor | None:
        """Unconditional logits (B,)."""
        logits: Tensor = self.unconditional(maps)
        return logits.flatten()


def shrink(pictures: Tensor, size: int) -> Tensor:
    """Pictures (B, 3, H, W) averaged down to `size`, for readers of small pictures."""
    return pictures if pictures.shape[-1] == size else F.adaptive_avg_pool2d(pictures, size)
