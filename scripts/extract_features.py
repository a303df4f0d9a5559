"""Extract features of a gallery's pictures once: extract_features --encoder resnet18"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from scripts.common import DataArgs, catalog_root, roles_of, run


@dataclass(frozen=True)
class Args(DataArgs):
    """Vectors and spatial grids, cached beside the pictures and keyed by encoder and data."""

    encoder: str = "scene-cnn"
    """`scene-cnn` (trained on the train split first), a torchvision ResNet, or
    `efficientnet-lite0` (extra `efficientnet`). Of a catalogue also `catalog-cnn` (trained on
    its train split), and any name with `+color` after it: the picture's colours beside it."""
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

    run(lambda: extract(args))


def extract(args: Args) -> None:
    """Extract as the arguments say."""
    products = catalog_root(args, args.data_path)
    if products is not None:
        extract_products(args, products)
        return
    from retrieval.encoders.training import extract_css
    from retrieval.preparation import default_root, prepare

    root = (args.dataset_path or args.data_path or default_root()).expanduser().absolute()
    prepare(root, args.look, "scene")  # the pictures
    key = extract_css(root, args.look, args.encoder, args.weights, args.epochs)
    print(f"features in {root / 'features' / key}; use them with --encoder {key}")


def extract_products(args: Args, root: Path) -> None:
    """Say what of a catalogue could be read, and extract."""
    from envs.factory import products_encoder
    from retrieval.catalog.encoding import extract_catalogue
    from retrieval.datasets.catalog import open_catalogue, workspace

    catalogue = open_catalogue(root, roles_of(vars(args)))
    print(catalogue.summary())
    encoder = products_encoder(args.encoder)
    key = extract_catalogue(catalogue, encoder, args.weights, args.epochs)
    print(f"features in {workspace(root) / 'features' / key}; use them with --encoder {key}")


if __name__ == "__main__":
    main()
