"""The baseline that does not listen."""

from torch import Tensor

from retrieval.composers.base import Composer


class ImageOnly(Composer):
    """q = r: the reference itself. Vo et al., CVPR 2019, sec. 4 ("image only")."""

    hears = False

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """The references (B, D)."""
        return reference
