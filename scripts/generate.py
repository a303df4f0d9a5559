"""Draw the image a query asks for: generate --reference a.png --text "make ... red" """

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from scripts.common import run
from scripts.composed import BUILT_IN
from scripts.painting import load_painter

if TYPE_CHECKING:
    import numpy as np

    from retrieval.datasets.base import ComposedSplit


@dataclass(frozen=True)
class Args:
    """A grid with a row for each query: reference, text, nearest gallery image, the pictures
    drawn by each stage, and the true target where it is known."""

    checkpoint: Path = Path("runs/gan/saveSGAN")
    """A file that `train_gan` wrote, or a run's folder; of stage 2, both stages draw."""
    reference: Path | None = None
    """A picture to start from."""
    text: tuple[str, ...] = ()
    """What should be otherwise; several texts give several rows."""
    queries: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """Without --reference: queries of the split, by number."""
    split: str = "test"
    """Whose images are the gallery, and whose queries."""
    condition: str = "query"
    """query (reference and text composed), or target (the true target's own feature)."""
    composer: Path | None = None
    """By default the one that the generator was trained with."""
    seed: int = 0
    """Of the noise."""
    side: int = 128
    """Pixels of each picture in the grid."""
    out: Path = Path("generated.png")
    """The grid."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: generate(args))


def generate(args: Args) -> None:
    """Compose, draw, save.

    Raises:
        ValueError: arguments that do not go together, or a query that is not there.
    """
    import numpy as np
    import torch
    from PIL import Image

    from retrieval.datasets import css
    from retrieval.files import atomic_write
    from retrieval.generation.grid import draw_grid
    from retrieval.generation.measuring import nearest_images
    from scripts.train_gan import root_of

    if args.condition not in ("query", "target"):
        from retrieval.errors import unknown

        raise unknown("condition", args.condition, ("query", "target"))
    if (args.reference is None) != (not args.text):
        raise ValueError("--reference and --text go together; give both, or --queries alone")
    painter, trained = load_painter(args.checkpoint, args.composer)
    split = css.load_composed(root_of(trained), args.split, BUILT_IN[trained.dataset])
    assert split.pictures is not None
    references, texts, targets, left_out = asked(args, split)

    gallery = painter.conditioner.images(split.pictures)
    if args.condition == "target":
        if (targets < 0).any():
            raise ValueError("--condition target needs queries whose target is known")
        conditions = gallery[targets]
    else:
        rows = np.arange(len(texts))
        conditions = painter.conditioner.queries(references, rows, texts)
    nearest = nearest_images(
        conditions, gallery, targets if args.condition == "target" else left_out
    )
    drawn = painter.stages(conditions, torch.Generator().manual_seed(args.seed))
    table = [
        [
            references[row],
            split.pictures[nearest[row]],
            *(pictures[row] for pictures in drawn.values()),
            split.pictures[targets[row]] if targets[row] >= 0 else None,
        ]
        for row in range(len(texts))
    ]
    titles = ["reference", "nearest", *(f"stage {stage}" for stage in drawn), "true target"]
    with atomic_write(args.out) as temporary:
        Image.fromarray(draw_grid(table, texts, titles, args.side)).save(temporary)
    print(f"{len(texts)} queries drawn in {args.out}")


def asked(args: Args, split: ComposedSplit) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Reference pictures (Q, H, W, 3), texts, targets (Q,) and the rows to leave out (Q,).

    A target that is not known is -1. A picture of one's own is scaled to the size of the
    gallery's; nothing is left out of the gallery for it.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from retrieval.pictures import squash

    assert split.pictures is not None
    if args.reference is None:
        last = len(split.queries) - 1
        for number in args.queries:
            if not 0 <= number <= last:
                raise ValueError(f"expected queries between 0 and {last}, got {number}")
        queries = [split.queries[number] for number in args.queries]
        if not queries:
            raise ValueError("expected at least one query; give --queries or --reference")
        references = np.array([query.reference for query in queries])
        targets = np.array([query.target for query in queries])
        texts = [query.caption for query in queries]
        return split.pictures[references], texts, targets, references
    try:
        with Image.open(args.reference) as picture:
            height, width = split.pictures.shape[1:3]
            pixels = np.asarray(squash(picture.convert("RGB"), (height, width)))
    except UnidentifiedImageError as error:
        raise ValueError(f"{args.reference} is not a picture; give a PNG or JPEG") from error
    nobody = np.full(len(args.text), -1, dtype=np.int64)
    return np.stack([pixels] * len(args.text)), list(args.text), nobody, nobody


if __name__ == "__main__":
    main()
