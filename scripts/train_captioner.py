"""Train the neural user: train_captioner --epochs 3"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from scripts.common import run, writable


@dataclass(frozen=True)
class Args:
    """A relative captioner on the train split's captions, judged on the test split."""

    look: str = "3d"
    """`3d` or `2d` pictures."""
    encoder: str = "scene-cnn"
    """Whose features (see `extract_features`)."""
    data_path: Path | None = None
    """A CSS folder; by default the built-in data in the cache, made when missing."""
    epochs: int = 3
    """Passes over the captions."""
    batch_size: int = 64
    """Captions per step."""
    lr: float = 3e-3
    """Peak learning rate of the one-cycle schedule."""
    hidden_size: int = 128
    """Of LSTM, tokens and attention (published: 512)."""
    seed: int = 0
    """Fixes the initial weights and the order."""
    out: Path | None = None
    """The checkpoint; by default where commands with `--user neural` look for it."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)

    def train() -> None:
        from envs.factory import captioner_path
        from user_simulator.quality import train_and_report

        path = args.out or captioner_path(args.data_path, args.look, args.encoder)
        if args.out is not None:
            writable(args.out.parent)
        train_and_report(
            args.data_path, args.look, args.encoder, path,
            args.epochs, args.batch_size, args.lr, args.hidden_size, args.seed,
        )  # fmt: skip
        print(f"captioner in {path}, its report in {path.with_suffix('.json')}")

    run(train)


if __name__ == "__main__":
    main()
