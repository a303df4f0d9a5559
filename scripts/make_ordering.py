"""Make ordering questions of CSS scenes: make_ordering --out data/ordering --growing"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from scripts.common import run
from scripts.switches import spelled_out


@dataclass(frozen=True)
class Args:
    """Questions in the layout of YouMakeup's: five 3D pictures out of order, the instructions that
    led from one to the next, four candidate orders."""

    out: Path = Path("ordering")
    """Receives `image_ordering_test.json` and `images`."""
    dataset_path: Path | None = None
    """CSS data whose test scenes the sequences begin with; by default the built-in data."""
    questions: int = 1000
    """How many."""
    steps: int = 5
    """Instructions of each (L); with more than five the pictures are of five of the steps."""
    growing: bool = False
    """Nothing is ever removed, so that later scenes tend to hold more, as in make-up."""
    image_size: int = 64
    """Height and width of the pictures, which should be those that the composer learned from."""
    seed: int = 0
    """Fixes sequences, pictures and candidates."""


def main() -> None:
    run(lambda: make(read(sys.argv[1:])))


def read(typed: list[str]) -> Args:
    """The arguments as typed."""
    how: dict[str, Any] = {"args": spelled_out(typed, Args), "description": __doc__,
                           "config": (tyro.conf.FlagConversionOff,)}  # fmt: skip
    args: Args = tyro.cli(Args, **how)
    return args


def make(args: Args) -> None:
    """Make the questions, unless they are there; scenes of the training split do not occur."""
    from retrieval.datasets.css import load_scenes
    from retrieval.datasets.css_sequences import write_questions
    from scripts.composed import DataArgs, folder_of

    root = folder_of(DataArgs(dataset_path=args.dataset_path))
    taken = {scene.tobytes() for scene in load_scenes(root, "train")}
    write_questions(
        args.out, load_scenes(root, "test"), args.questions, args.steps, args.seed, taken,
        args.growing, args.image_size,
    )  # fmt: skip
    print(f"{args.questions} questions in {args.out}")


if __name__ == "__main__":
    main()
