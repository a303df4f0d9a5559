"""Shoes: women's shoes with one sentence on how the target differs from the reference.

    relative_captions_shoes.json            [{ImageName (target), ReferenceImageName,
                                              RelativeCaption}]
    train_im_names.txt, eval_im_names.txt   one file name per line
    pictures                                {name} in a womens_{class} folder, anywhere below

Guo et al., "Dialog-based Interactive Image Retrieval", NeurIPS 2018; the pictures are those of
the Attribute Discovery data set (Berg et al., ECCV 2010).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.datasets.annotations import (
    file_split,
    read_json,
    read_lines,
    rows_of,
    value_of,
    with_pictures,
)
from retrieval.datasets.base import ComposedSplit
from retrieval.gallery import Triplet

SPLITS = {"train": "train_im_names.txt", "test": "eval_im_names.txt"}
SAME_IMAGE = "training pairs of an image with itself"


def load_composed(
    root: Path, split: str, size: int = 224, skip_missing: bool = False, fit: str = "crop"
) -> ComposedSplit:
    """A split with its pictures; see `read_annotations`.

    Args:
        root: folder in the published layout.
        split: "train" or "test" (the published eval names).
        size: height and width of the pictures.
        skip_missing: leave out images without a picture, and their queries.
        fit: "crop" or "squash", see `retrieval.pictures`.

    Raises:
        FileNotFoundError: annotations or pictures are missing.
        ValueError: an unknown split, or a file that is not whole.
    """
    annotations = read_annotations(root, split)
    return with_pictures(
        annotations, root, picture_files(root, annotations), size, fit, skip_missing
    )


def read_annotations(root: Path, split: str) -> ComposedSplit:
    """A split without its pictures: the pairs that lie in it as a whole.

    Some pairs show an image and itself. They teach nothing: training leaves them out and counts
    them in `skipped`; the test keeps them, so that its denominator is the published one.
    """
    source = root / file_split("shoes", split, SPLITS)
    names = tuple(read_lines(source))
    row_of = rows_of(names, source)
    members = set(names)
    captions_path = root / "relative_captions_shoes.json"
    pairs = []
    for entry in read_json(captions_path):
        reference, caption, target = (
            value_of(entry, field, captions_path)
            for field in ("ReferenceImageName", "RelativeCaption", "ImageName")
        )
        if {reference, target} <= members:
            pairs.append(Triplet(row_of(reference), caption, row_of(target)))
    queries = [pair for pair in pairs if split != "train" or pair.reference != pair.target]
    lost = len(pairs) - len(queries)
    return ComposedSplit(
        "shoes",
        split,
        names,
        names,
        None,
        tuple(queries),
        texts=tuple(query.caption for query in queries) if split == "train" else (),
        galleries={"all": np.arange(len(names))},
        skipped={SAME_IMAGE: lost} if lost else {},
    )


def shoe_class(name: str) -> str:
    """The class in an image's name.

    Example:
        >>> shoe_class("img_womens_high_heels_848.jpg")
        'high_heels'
    """
    return name.removeprefix("img_womens_").rpartition("_")[0]


def picture_files(root: Path, split: ComposedSplit) -> list[str]:
    """The picture of each image, relative to `root`; a guess where it is nowhere."""
    found = {
        path.name: path.relative_to(root).as_posix()
        for pattern in ("*.jpg", "womens_*/**/*.jpg", "*/womens_*/**/*.jpg")
        for path in root.glob(pattern)
    }
    return [found.get(name, f"womens_{shoe_class(name)}/{name}") for name in split.names]
