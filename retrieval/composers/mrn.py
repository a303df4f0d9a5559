"""Multimodal residual learning."""

from torch import Tensor, nn

from retrieval.composers.base import Composer


class MRNBlock(nn.Module):
    """One learning block: a linear shortcut of what was heard plus a product with what was seen."""

    def __init__(self, heard_dim: int, dim: int):
        super().__init__()
        self.shortcut = nn.Linear(heard_dim, dim)
        self.heard = nn.Sequential(nn.Linear(heard_dim, dim), nn.Tanh())
        self.seen = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim), nn.Tanh())

    def forward(self, heard: Tensor, reference: Tensor) -> Tensor:
        """What is heard next (B, D)."""
        result: Tensor = self.shortcut(heard) + self.heard(heard) * self.seen(reference)
        return result


class MRN(Composer):
    r"""The caption, corrected block by block by what the image says to it.

    .. math:: h_l = W_l h_{l-1} + \tanh(U_l h_{l-1}) \odot \tanh(V_l \tanh(V'_l r)),
              \quad h_0 = c, \quad q = h_3

    Kim et al., "Multimodal Residual Learning for Visual QA", NIPS 2016, eq. 3 to 5, three
    blocks; a baseline of Vo et al., CVPR 2019, sec. 4, whose code of it was not released.
    Departures: the last block's output is the query, where the paper classifies answers; all
    Linears have biases; no dropout.
    """

    def __init__(self, dim: int, text_dim: int | None = None, blocks: int = 3):
        super().__init__(dim, text_dim)
        sizes = [self.text_dim] + [dim] * (blocks - 1)
        self.blocks = nn.ModuleList(MRNBlock(size, dim) for size in sizes)

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, text_dim) to raw queries (B, D)."""
        heard = caption
        for block in self.blocks:
            heard = block(heard, reference)
        return heard
