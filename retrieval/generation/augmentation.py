"""Conditioning augmentation: a condition becomes a distribution of short codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from retrieval.errors import unknown

CODE = 128
"""Size E of the codes."""
FORMS = ("relu", "linear")


class Code(NamedTuple):
    """Codes drawn for B conditions, and the distributions they come from; each (B, E)."""

    drawn: Tensor
    mean: Tensor
    log_variance: Tensor


class ConditioningAugmentation(nn.Module):
    r"""Draw a code from a Gaussian that a condition sets, which smooths the space of conditions.

    .. math:: c = \mu(f) + \exp(\log\sigma^2(f) / 2) \odot \epsilon, \quad \epsilon \sim N(0, I)

    Zhang et al., "StackGAN", ICCV 2017, section 3.2. As released, a ReLU follows the Linear, so
    that no mean is negative and no variance below one ("relu"). Without it ("linear") codes can
    say more, since noise can be turned down: the paper's own equation.

    Args:
        condition_dim: size F of conditions.
        form: "relu" or "linear".

    Raises:
        ValueError: an unknown form.
    """

    def __init__(self, condition_dim: int, form: str = "relu"):
        super().__init__()
        if form not in FORMS:
            raise unknown("form of conditioning augmentation", form, FORMS)
        self.form = form
        self.linear = nn.Linear(condition_dim, 2 * CODE)

    def forward(self, condition: Tensor, noise: Tensor) -> Code:
        """Codes of conditions (B, F) and standard normal noise (B, E)."""
        both = self.linear(condition)  # (B, 2E)
        if self.form == "relu":
            both = torch.relu(both)
        mean, log_variance = both.float().chunk(2, dim=-1)
        return Code(mean + torch.exp(log_variance / 2) * noise, mean, log_variance)


def divergence(code: Code) -> Tensor:
    """KL divergence of the codes' distributions from N(0, I), mean over elements.

    Zhang et al. sum over the E elements; the mean is what the released code takes.
    """
    _, mean, log_variance = code
    return -0.5 * torch.mean(1 + log_variance - mean**2 - log_variance.exp())
