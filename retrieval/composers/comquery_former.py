"""Cross-modal transformer fusion, on vectors and on three levels of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.composers.base import Composer, Form
from retrieval.composers.cross_modal import CrossModalBlock, initialise

TEXT, IMAGE = 0, 1  # rows of the token-type table
INITIAL_SCALE = 4.0


class ComqueryFormer(Composer):
    """ComqueryFormer's fusion on vectors: image and caption are one token each.

    Xu et al., "Multi-modal Transformer with Global-Local Alignment for Composed Query Image
    Retrieval", IEEE TMM 2023: Linears, token types, four post-norm cross-modal layers per
    stream, a Linear of the image stream. `LevelFusion` is the whole system.
    Departures: a single token leaves attention nothing to choose, so the attentions' query and
    key weights rest and what is left is gated by norms and feed-forward layers; no regions; no
    tanh after the pooler, since the embeddings that are searched pass none; D instead of 768.

    Args:
        dim, text_dim: see `Composer`.
        layers: of the cross-modal block.
        heads: of attention, at most; the largest number that divides D.
        dropout: share of what is dropped.
    """

    def __init__(
        self,
        dim: int,
        text_dim: int | None = None,
        layers: int = 4,
        heads: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__(dim, text_dim)
        self.image = nn.Linear(dim, dim)
        self.text = nn.Linear(self.text_dim, dim)
        self.types = nn.Embedding(2, dim)
        heads = max(number for number in range(1, heads + 1) if dim % number == 0)
        self.block = CrossModalBlock(dim, heads, layers, dropout)
        self.pooler = nn.Linear(dim, dim)
        self.apply(initialise)

    def compose(self, reference: Tensor, caption: Tensor) -> Tensor:
        """Map references (B, D) and encoded captions (B, text_dim) to raw queries (B, D)."""
        image = (self.image(reference) + self.types.weight[IMAGE])[:, None]  # (B, 1, D)
        text = (self.text(caption) + self.types.weight[TEXT])[:, None]
        query: Tensor = self.pooler(self.block(image, text)[:, 0])
        return query


class RegionLearner(nn.Module):
    """Vectors of R learned regions of a map, each at a learned norm.

    A 3x3 convolution draws R masks (no activation); a region is the map under its mask,
    averaged over all places.
    """

    def __init__(self, width: int, regions: int = 8):
        super().__init__()
        self.masks = nn.Conv2d(width, regions, 3, padding=1)
        self.scale = nn.Parameter(torch.tensor(INITIAL_SCALE))

    def forward(self, maps: Tensor) -> Tensor:
        """Local features (B, W * R), channel by channel, of maps (B, W, h, w)."""
        masks = self.masks(maps).flatten(2)  # (B, R, hw)
        regions = maps.flatten(2) @ masks.transpose(1, 2) / masks.shape[-1]  # (B, W, R)
        return (self.scale * F.normalize(regions, dim=1)).flatten(1)


class LevelFusion(nn.Module):
    """ComqueryFormer on levels of an image encoder: global and local features of each.

    Xu et al., IEEE TMM 2023, layer by layer as released. Query side: tokens of image and text,
    one Linear a level each, plus token types, pass one cross-modal block that all levels
    share; target side: the image's Linear only. A global feature is the mean of the tokens
    through one pooler (Linear, tanh), scaled by the model's s; local ones come of region
    learners, one for each side and level.
    Departure: the published text pooler and the last text layer, which reach no output, are not
    built.

    Args:
        image_sizes: channels of each level's map.
        text_sizes: sizes of each level's text tokens.
        width: size W of tokens.
        layers, heads, dropout, mlp_ratio: of the cross-modal block.
        regions: number R of a region learner's regions.
    """

    form: ClassVar[Form] = "levels"

    def __init__(
        self,
        image_sizes: Sequence[int] = (384, 768, 768),
        text_sizes: Sequence[int] = (768, 768, 768),
        width: int = 768,
        layers: int = 4,
        heads: int = 8,
        regions: int = 8,
        dropout: float = 0.1,
        mlp_ratio: int = 4,
    ):
        super().__init__()
        levels = range(len(image_sizes))
        self.image = nn.ModuleList(nn.Linear(size, width) for size in image_sizes)
        self.text = nn.ModuleList(nn.Linear(size, width) for size in text_sizes)
        self.types = nn.Embedding(2, width)
        self.block = CrossModalBlock(width, heads, layers, dropout, mlp_ratio)
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.query_regions = nn.ModuleList(RegionLearner(width, regions) for _ in levels)
        self.target_regions = nn.ModuleList(RegionLearner(width, regions) for _ in levels)
        self.apply(initialise)

    def query_features(
        self, maps: Sequence[Tensor], texts: Sequence[Tensor], padding: Tensor, scale: Tensor
    ) -> list[Tensor]:
        """Scaled features of queries: global (B, W) and local (B, W * R) of each level.

        Args:
            maps: each level's map of the references (B, C, h, w).
            texts: each level's text tokens (B, L, text size).
            padding: True at the text's padding (B, L).
            scale: the norm s of global features.
        """
        features = []
        for level, (raw, words) in enumerate(zip(maps, texts, strict=True)):
            image = self._tokens(raw, level) + self.types.weight[IMAGE]  # (B, hw, W)
            text = self.text[level](words) + self.types.weight[TEXT]  # (B, L, W)
            image = self.block(image, text, padding)
            features += self._features(image, raw, self.query_regions[level], scale)
        return features

    def target_features(self, maps: Sequence[Tensor], scale: Tensor) -> list[Tensor]:
        """Scaled features of images as targets, in the order of `query_features`."""
        features = []
        for level, raw in enumerate(maps):
            image = self._tokens(raw, level)
            features += self._features(image, raw, self.target_regions[level], scale)
        return features

    def _tokens(self, maps: Tensor, level: int) -> Tensor:
        """Places of maps (B, C, h, w) as tokens (B, hw, W)."""
        tokens: Tensor = self.image[level](maps.flatten(2).transpose(1, 2))
        return tokens

    def _features(
        self, tokens: Tensor, maps: Tensor, regions: nn.Module, scale: Tensor
    ) -> list[Tensor]:
        """The global and the local feature of tokens (B, hw, W) with the sides of their maps."""
        whole = scale * F.normalize(self.pooler(tokens.mean(1)), dim=-1)  # (B, W)
        return [whole, regions(tokens.transpose(1, 2).unflatten(-1, maps.shape[-2:]))]
