"""The baseline that does not look."""

from torch import Tensor, nn

from retrieval.composers.base import Composer


class TextOnly(Composer):
    """q = c: the caption alone. Vo et al., CVPR 2019, sec. 4 ("text only").

    Captions of another size than the embeddings' pass one Linear first.
    """

    def __init__(self, dim: int, text_dim: int | None = None):
        super().__init__(dim, text_dim)
        same = self.text_dim == dim
        self.output = nn.Identity() if same else nn.Linear(self.text_dim, dim)

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """The encoded captions (B, D)."""
        query: Tensor = self.output(caption)
        return query
