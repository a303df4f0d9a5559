"""Train the neural user: train_captioner --epochs 3, or another one with --share 0.5"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from scripts.common import DataArgs, catalog_root, roles_of, run, writable


@dataclass(frozen=True)
class Args(DataArgs):
    """A relative captioner on the train split's captions, judged on the test split."""

    look: str = "3d"
    """`3d` or `2d` pictures."""
    encoder: str = "scene-cnn"
    """Whose features (see `extract_features`); a catalogue's own by default."""
    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache, made when missing."""
    epochs: int = 3
    """Passes over the captions."""
    batch_size: int = 64
    """Captions per step, in each of the processes that `torchrun` started."""
    lr: float = 3e-3
    """Peak learning rate of the one-cycle schedule."""
    hidden_size: int = 128
    """Of LSTM, tokens and attention (published: 512)."""
    seed: int = 0
    """Fixes the initial weights and the order."""
    share: float = 1.0
    """Of the train captions to learn from: `--share 0.5` makes another user for the same data."""
    device: str = "cpu"
    """Where it is trained: `cpu`, or `cuda` for this process's GPU."""
    out: Path | None = None
    """The checkpoint; by default where commands with `--user neural` look for it, or, of a part of
    the captions, beside that: pass the file to them as `--captioner`."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)

    run(lambda: train(args), together=True)


def train(args: Args) -> None:
    """Train, save and report as the arguments say."""
    from envs.factory import captioner_path, products_captioner_path, products_encoder
    from retrieval.devices import device_of
    from retrieval.distributed import processes
    from user_simulator.quality import train_and_report, train_and_report_catalog

    if args.out is not None:
        writable(args.out.parent)
    batch_size = args.batch_size * processes()
    device = device_of(args.device)
    how = (args.epochs, batch_size, args.lr, args.hidden_size, args.seed, args.share, device)
    products = catalog_root(args, args.data_path)
    if products is not None:
        encoder = products_encoder(args.encoder)
        path = args.out or of_share(products_captioner_path(products, encoder), args.share)
        train_and_report_catalog(products, encoder, roles_of(vars(args)), path, *how)
    else:
        root = args.dataset_path or args.data_path
        path = args.out or of_share(captioner_path(root, args.look, args.encoder), args.share)
        train_and_report(root, args.look, args.encoder, path, *how)
    print(f"captioner in {path}, its report in {path.with_suffix('.json')}")


def of_share(path: Path, share: float) -> Path:
    """Where the captioner of a part of the data lies: beside that of the whole."""
    return path if share == 1 else path.with_name(f"{path.stem}-share{share:g}{path.suffix}")


if __name__ == "__main__":
    main()
