"""Gradient augmentation: regularisers of a loss's gradient, for any model and any loss.

Explicit adversarial (against the worst small change of the reference image) and implicit
isotropic (noise in the parameters' gradient): GA, IEEE TMM vol. 25, 2023, pp. 7415-7427.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retrieval.errors import unknown

ISOTROPIC_WEIGHTS = {"faithful": 0.01, "intended": 0.01, "noise": 1e-4}
"""The modes of `isotropic_term` and the weight of each unless another is given."""


def adversarial_penalty(
    loss: Tensor,
    images: Tensor,
    weight: float = 1e-6,
    norm: float = 1.0,
    unit: Tensor | float = 1.0,
) -> Tensor:
    r"""What the worst small change of the reference images would add to the loss.

    .. math:: \lambda d^{1 - 1/q} \frac{1}{2B} \sum_i |g_i|_q,
              \quad g_i = B \, \partial L / \partial x_i

    The first-order term of max over |delta|_p <= eps of L(x + delta), with 1/p + 1/q = 1; it
    stays differentiable, so training on it takes second derivatives. As released: q = 1 (the
    dual of a bound on every pixel) and lambda = 1e-6.

    Args:
        loss: the mean over the batch that is to be robust, without auxiliary terms.
        images: the reference images (B, ...) it was computed from, with `requires_grad`.
        weight: lambda.
        norm: q, at least 1.
        unit: one unit of the published input in units of `images`. The published images are
            normalised, so images in [0, 1] have ImageNet's standard deviation (3, 1, 1) here.

    Raises:
        ValueError: the images have no gradient, or q is below 1.
    """
    if not images.requires_grad:
        raise ValueError(
            "the adversarial penalty needs images that carry a gradient; "
            "call images.requires_grad_() before the loss is computed"
        )
    if norm < 1:
        raise ValueError(f"expected a norm q of at least 1, got {norm}; the published one is 1")
    (slope,) = torch.autograd.grad(loss, images, create_graph=True, materialize_grads=True)
    slopes = (len(images) * unit * slope).flatten(1)  # (B, d); B because the loss is a mean
    size = torch.linalg.vector_norm(slopes, ord=norm, dim=1).mean()
    return weight * slopes.shape[1] ** (1 - 1 / norm) * size / 2


def isotropic_term(
    parameters: Sequence[Tensor],
    generator: torch.Generator,
    mode: str = "faithful",
    weight: float | None = None,
) -> Tensor:
    r"""A linear term whose gradient is fresh noise on the parameters.

    With :math:`\xi \sim N(0, 1)` for every element, P parameter tensors w_j of n_j elements:

    - "faithful", as released: the running sum is added inside the loop over parameters, so
      that tensor j = 1..P has the weight 0.01 (P - j + 1), and each tensor's term is
      mean(xi w) + mean(w), noise and a constant drift of 1 / n_j: much for the mixing weights
      and the scale, almost nothing for convolutions.
    - "intended": 0.01 * sum_j mean(xi w_j), what the released code seems to be meant to do.
    - "noise": weight * sum_j sum(xi w_j): noise of one standard deviation, the weight, on
      every single parameter. Its default of 1e-4 is this project's own.

    Args:
        parameters: in the order that matters to "faithful" (the released one: mixing weights,
            scale, image encoder, text encoder, composer).
        generator: draws the noise; on the CPU.
        mode: one of `ISOTROPIC_WEIGHTS`.
        weight: 0.01 in the released code; None for the mode's default.

    Raises:
        ValueError: an unknown mode, or no parameters.
    """
    if mode not in ISOTROPIC_WEIGHTS:
        raise unknown("isotropic mode", mode, ISOTROPIC_WEIGHTS)
    if not parameters:
        raise ValueError("expected parameters to put noise on, got none; unfreeze the model")
    weight = ISOTROPIC_WEIGHTS[mode] if weight is None else weight
    terms = []
    for number, parameter in enumerate(parameters):
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        if mode == "noise":
            terms.append((noise * parameter).sum())
        elif mode == "intended":
            terms.append((noise * parameter).mean())
        else:
            times = len(parameters) - number
            terms.append(times * ((noise * parameter).mean() + parameter.mean()))
    return weight * torch.stack(terms).sum()


@dataclass(frozen=True)
class GradientAugmentation:
    """Which regularisers a training uses; both may be used together.

    Args:
        explicit: the adversarial penalty on the reference images.
        implicit: a mode of `isotropic_term`, or None.
        explicit_weight: lambda of the penalty.
        explicit_norm: q of the penalty.
        implicit_weight: of the isotropic term; None for the mode's default.

    Raises:
        ValueError: an unknown mode.
    """

    explicit: bool = False
    implicit: str | None = None
    explicit_weight: float = 1e-6
    explicit_norm: float = 1.0
    implicit_weight: float | None = None

    def __post_init__(self) -> None:
        if self.implicit is not None and self.implicit not in ISOTROPIC_WEIGHTS:
            raise unknown("isotropic mode", self.implicit, ISOTROPIC_WEIGHTS)

    def terms(
        self,
        loss: Tensor,
        images: Tensor,
        parameters: Sequence[Tensor],
        generator: torch.Generator,
        unit: Tensor | float = 1.0,
    ) -> dict[str, Tensor]:
        """The named terms to add to a loss of reference images (B, ...); none when both are off.

        Args: see `adversarial_penalty` and `isotropic_term`.
        """
        found: dict[str, Tensor] = {}
        if self.explicit:
            found["adversarial"] = adversarial_penalty(
                loss, images, self.explicit_weight, self.explicit_norm, unit
            )
        if self.implicit is not None:
            found["isotropic"] = isotropic_term(
                parameters, generator, self.implicit, self.implicit_weight
            )
        return found
