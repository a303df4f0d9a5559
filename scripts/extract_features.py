"""Extract features of a gallery's pictures once: extract_features --encoder resnet18"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from scripts.common import run


@dataclass(frozen=True)
class Args:
    """Vectors and spatial grids, cached beside the pictures and keyed by encoder and data."""

    encoder: str = "scene-cnn"
    """`scene-cnn` (trained on the train split first), a torchvision ResNet, or
    `efficientnet-lite0` (extra `efficientnet`)."""
    weights: str = "none"
    """Of a ResNet: `none`, a torchvision weights name such as DEFAULT, or a path."""
    look: str = "3d"
    """`3d` or `2d` pictures."""
    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache, made when missing."""
    epochs: int = 5
    """Training of the scene encoder, if it was not trained yet."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)

    def extract() -> None:
        from retrieval.encoders.training import extract_css
        from retrieval.preparation import default_root, prepare

        root = (args.data_path or default_root()).expanduser().absolute()
        prepare(root, args.look, "scene")  # the pictures
        key = extract_css(root, args.look, args.encoder, args.weights, args.epochs)
        print(f"features in {root / 'features' / key}; use them with --encoder {key}")

    run(extract)


if __name__ == "__main__":
    main()
