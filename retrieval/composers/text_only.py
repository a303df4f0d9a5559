"""The baseline that does not look."""

from torch import Tensor

from retrieval.composers.base import Composer


class TextOnly(Composer):
    """q = c: the caption alone. Vo et al., CVPR 2019, sec. 4 ("text only")."""

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """The encoded captions (B, D)."""
        return caption
