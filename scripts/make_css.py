"""Make CSS scenes in the published layout: make_css --out data/css --size 128"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from scripts.common import run


@dataclass(frozen=True)
class Args:
    """Scenes, instructions, relative captions and 3D pictures; commands take it by --data-path."""

    out: Path
    """The folder to make; it appears when all is done, and a stopped run is taken up again."""
    published: bool = False
    """Splits of the published size, 19,000 pictures and 18,000 queries each, in place of the
    scenes and edits below."""
    seed: int = 0
    """Fixes everything."""
    train_scenes: int = 1500
    """Base scenes of the train split (published: about 1000)."""
    test_scenes: int = 700
    """Base scenes of the test split."""
    edits: int = 5
    """Scenes one edit away that every base scene comes with (published: about 18)."""
    captions: int = 60_000
    """Relative captions of the train split."""
    size: int = 64
    """Pixels of a side, at least 64."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)

    def make() -> None:
        from retrieval.rendering.build import PUBLISHED, BuildSpec, build

        if args.size < 64 or min(args.train_scenes, args.test_scenes, args.edits + 1) < 1:
            raise ValueError("expected pictures of at least 64 pixels, and at least one scene")
        train, test = (args.train_scenes, args.edits), (args.test_scenes, args.edits)
        if args.published:
            train, test = PUBLISHED.train, PUBLISHED.test
        spec = BuildSpec(args.seed, train, test, args.captions, size=args.size)
        build(args.out.expanduser().absolute(), spec)
        print(f"CSS data in {args.out}; use it with --data-path {args.out}")

    run(make)


if __name__ == "__main__":
    main()
