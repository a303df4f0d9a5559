"""A stage's networks by their specification."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import unknown
from retrieval.generation.augmentation import CODE, FORMS
from retrieval.generation.layers import NORMS
from retrieval.generation.stage_one import NOISE, WIDTH, DiscriminatorOne, GeneratorOne
from retrieval.generation.stage_two import DiscriminatorTwo, GeneratorTwo

SIZES = {1: GeneratorOne.size, 2: GeneratorTwo.size}
"""Pixels of a side by stage."""


@dataclass(frozen=True)
class GanSpec:
    """What a stage's networks were built from; the defaults are published.

    Args:
        stage: 1 (64 px) or 2 (128 px).
        condition_dim: size F of conditions.
        width: W, channels of the widest map.
        noise: Z.
        form: of the conditioning augmentation.
        norm: of the discriminator.
        first_width, first_form: of the frozen first stage in stage 2.

    Raises:
        ValueError: an unknown name, or a size that cannot be.
    """

    stage: int = 1
    condition_dim: int = 512
    width: int = WIDTH
    noise: int = NOISE
    form: str = "relu"
    norm: str = "batch"
    first_width: int = WIDTH
    first_form: str = "relu"

    def __post_init__(self) -> None:
        if self.stage not in SIZES:
            raise ValueError(f"expected stage 1 or 2, got {self.stage}")
        for name in ("condition_dim", "width", "noise", "first_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.norm not in NORMS:
            raise unknown("norm of a discriminator", self.norm, NORMS)
        for form in (self.form, self.first_form):
            if form not in FORMS:
                raise unknown("form of conditioning augmentation", form, FORMS)

    @property
    def size(self) -> int:
        """Pixels of a side of what this stage draws."""
        return SIZES[self.stage]

    @property
    def code_noise(self) -> int:
        """How many random numbers the conditioning augmentations of all stages take."""
        return self.stage * CODE


def build_generator(spec: GanSpec) -> GeneratorOne | GeneratorTwo:
    """The generator of a stage; a stage 2 with a first stage that is still to be filled."""
    if spec.stage == 1:
        return GeneratorOne(spec.condition_dim, spec.width, spec.noise, spec.form)
    first = GeneratorOne(spec.condition_dim, spec.first_width, spec.noise, spec.first_form)
    return GeneratorTwo(first, spec.condition_dim, spec.width, spec.form)


def build_discriminator(spec: GanSpec) -> DiscriminatorOne | DiscriminatorTwo:
    """The discriminator of a stage."""
    if spec.stage == 1:
        return DiscriminatorOne(spec.width, spec.norm)
    return DiscriminatorTwo(spec.width, spec.norm)


def draw_noise(spec: GanSpec, count: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Standard normal noise (B, Z) and noise of the codes (B, E), in stage 2 (B, 2 E)."""
    return (
        torch.randn(count, spec.noise, generator=chance),
        torch.randn(count, spec.code_noise, generator=chance),
    )


class Average:
    """An exponential moving average of a generator's weights, which draws steadier pictures.

    Yazici et al., "The Unusual Effectiveness of Averaging in GAN Training", ICLR 2019.
    BatchNorm's averages are taken over as they are.

    Args:
        generator: whose weights; the average starts there.
        decay: share of the old average that each step keeps, at most; in its first steps the
            average is a plain mean, so that the random start is soon forgotten.
    """

    def __init__(self, generator: nn.Module, decay: float):
        self.model: Any = copy.deepcopy(generator).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def follow(self, generator: nn.Module, step: int) -> None:
        """Move towards the generator's weights after `step` steps, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = zip(self.model.parameters(), generator.parameters(), strict=True)
        for mine, new in pairs:
            mine.lerp_(new, 1 - decay)
        for old, now in zip(self.model.buffers(), generator.buffers(), strict=True):
            old.copy_(now)
