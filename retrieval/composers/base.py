"""The base of all composition models."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

Form = Literal["vector", "map", "levels"]
"""What is read of an image: one embedding, the encoder's last map, or three of its levels."""

Metric = Callable[[Tensor, Tensor], Tensor]
"""The loss of queries (B, D) against their targets (B, D), both raw: any scaling is inside."""


class Composer(nn.Module):
    """Makes one unit-norm query from a reference embedding and an encoded caption.

    Args:
        dim: size D of references and of the query.
        text_dim: size of encoded captions; D when absent.
    """

    form: ClassVar[Form] = "vector"
    hears: ClassVar[bool] = True
    """Whether the caption takes part at all."""

    def __init__(self, dim: int, text_dim: int | None = None):
        super().__init__()
        self.dim = dim
        self.text_dim = dim if text_dim is None else text_dim

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, text_dim) to raw queries (B, D)."""
        raise NotImplementedError

    def auxiliary_losses(
        self, reference: Tensor, caption: Tensor, target: Tensor, query: Tensor, metric: Metric
    ) -> dict[str, Tensor]:
        """Weighted losses by name that a model brings besides the metric one; most bring none.

        Args:
            reference, caption: what `compose` read.
            target: embeddings (B, D) of the targets.
            query: what `compose` answered (B, D).
            metric: the loss that queries are trained with.
        """
        return {}

    def forward(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Unit-norm queries (B, D)."""
        return F.normalize(self.compose(reference, caption), dim=-1)
