"""BatchNorm that looks at the rows of all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from retrieval.distributed import total


class GlobalBatchNorm(_BatchNorm):
    """Normalise by mean and variance of the whole batch, of which each process has a part.

    The parts may be of different sizes. In place of `torch.nn.SyncBatchNorm`, which has no CPU
    form and cannot be differentiated twice (`retrieval.regularizers.adversarial_penalty`).

    Args: see `torch.nn.BatchNorm1d`; `momentum` must be a number.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """Rows (B, C) or (B, C, ...), normalised."""
        if not self.training:
            return super().forward(rows)
        exact = rows.to(torch.promote_types(rows.dtype, torch.float32))
        others = [0, *range(2, rows.dim())]
        shape = [1, -1, *(1 for _ in others[1:])]
        here = exact.new_tensor([exact.numel() / exact.shape[1]])
        sums = total(torch.cat([exact.sum(others), here]))  # (C + 1,)
        count = sums[-1].detach()
        mean = sums[:-1] / count  # (C,)
        centred = exact - mean.view(shape)
        variance = total(centred.square().sum(others)) / count  # (C,)
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        result = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(rows.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, which evaluation uses."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)

    def _check_input_dim(self, rows: Tensor) -> None:
        """Any number of dimensions will do."""


def with_global_batch_norm(model: nn.Module) -> None:
    """Put `GlobalBatchNorm` in the place of every BatchNorm, with its weights as they are."""
    for name, module in model.named_children():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(model, name, _taken_over(module))
        else:
            with_global_batch_norm(module)


def _taken_over(norm: _BatchNorm) -> GlobalBatchNorm:
    """A new layer of the old one's parameters, buffers and settings."""
    new = GlobalBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    new._parameters, new._buffers = norm._parameters, norm._buffers
    return new.train(norm.training)
