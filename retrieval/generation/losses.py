"""What StackGAN's discriminators and generators minimise, published and mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval.errors import unknown

Verdict = Callable[[Tensor, bool], Tensor]
"""How far logits are from saying real (True) or not (False), a mean."""


def cross_entropy(logits: Tensor, is_real: bool) -> Tensor:
    """Binary cross-entropy of the probabilities behind logits, labels 1 and 0, as published."""
    labels = torch.full_like(logits, float(is_real))
    return F.binary_cross_entropy_with_logits(logits, labels)


def hinge(logits: Tensor, is_real: bool) -> Tensor:
    """Nothing is lost on logits beyond 1 (real) or -1. Lim and Ye, "Geometric GAN", 2017."""
    return F.relu(1 - logits if is_real else 1 + logits).mean()


def lowered(logits: Tensor) -> Tensor:
    """What a generator minimises against `hinge`: the negative logit."""
    return -logits.mean()


ADVERSARIAL: dict[str, tuple[Verdict, Callable[[Tensor], Tensor]]] = {
    "bce": (cross_entropy, lambda logits: cross_entropy(logits, True)),
    "hinge": (hinge, lowered),
}
"""The discriminator's and the generator's loss by name."""


def adversarial(name: str) -> tuple[Verdict, Callable[[Tensor], Tensor]]:
    """The pair of losses of a name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ADVERSARIAL:
        raise unknown("adversarial loss", name, ADVERSARIAL)
    return ADVERSARIAL[name]


def discriminator_loss(
    discriminator: Any, real: Tensor, fake: Tensor, mean: Tensor, verdict: Verdict
) -> Tensor:
    """Real pictures against drawn ones, and against real ones with another's condition.

    Stage I: real + (fake + wrong) / 2. Stage II, whose discriminator also judges pictures
    alone: (real + real alone) / 2 + (fake + wrong + fake alone) / 3. Picture i is judged with
    condition i + 1 as the wrong pair, B - 1 pairs in all. Zhang et al., ICCV 2017, section 3.3,
    with the weights of Modify-image-by-text.

    Args:
        discriminator: of either stage.
        real, fake: pictures (B, 3, H, W) in [-1, 1]; no gradient flows into `fake`.
        mean: means of the codes (B, E), without gradient either.
        verdict: `cross_entropy` or `hinge`.
    """
    fake, mean = fake.detach(), mean.detach()
    real_maps, fake_maps = discriminator.read(real), discriminator.read(fake)
    is_real = verdict(discriminator.judge(real_maps, mean).float(), True)
    is_fake = verdict(discriminator.judge(fake_maps, mean).float(), False)
    is_wrong = verdict(discriminator.judge(real_maps[:-1], mean[1:]).float(), False)
    real_alone, fake_alone = (discriminator.judge_alone(maps) for maps in (real_maps, fake_maps))
    if real_alone is None:
        return is_real + (is_fake + is_wrong) / 2
    alone = verdict(real_alone.float(), True), verdict(fake_alone.float(), False)
    return (is_real + alone[0]) / 2 + (is_fake + is_wrong + alone[1]) / 3


def generator_loss(
    discriminator: Any, fake: Tensor, mean: Tensor, verdict: Callable[[Tensor], Tensor]
) -> Tensor:
    """Drawn pictures should be judged real, in stage II also without their condition.

    Args: see `discriminator_loss`; gradients flow into `fake`, not into `mean`.
    """
    maps = discriminator.read(fake)
    loss = verdict(discriminator.judge(maps, mean.detach()).float())
    alone = discriminator.judge_alone(maps)
    return loss if alone is None else loss + verdict(alone.float())


def gradient_penalty(discriminator: Any, real: Tensor, mean: Tensor) -> Tensor:
    """R1: half the squared norm of the gradient of logits at real pictures, a mean over them.

    Mescheder et al., ICML 2018, section 4.1. With BatchNorm in the discriminator pictures of a
    batch are not independent; it is meant for the other norms.
    """
    real = real.detach().requires_grad_(True)
    maps = discriminator.read(real)
    logits = discriminator.judge(maps, mean.detach()).float().sum()
    alone = discriminator.judge_alone(maps)
    total = logits if alone is None else logits + alone.float().sum()
    (slope,) = torch.autograd.grad(total, real, create_graph=True)
    return 0.5 * slope.float().square().sum((1, 2, 3)).mean()
