"""CIRR (rc2): pairs of photos out of sets of six that look alike, each with one sentence.

    captions/cap.rc2.{train,val,test1}.json       [{pairid, reference, target_hard, caption,
                                                    img_set: {id, members: [6 names], ...}}]
    image_splits/split.rc2.{train,val,test1}.json {name: path of the picture}

Liu et al., "Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models",
ICCV 2021. The soft targets are not read: they lack the hard target of some pairs.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from retrieval.datasets.annotations import (
    file_split,
    read_json,
    rows_of,
    value_of,
    with_pictures,
)
from retrieval.datasets.base import ComposedSplit
from retrieval.gallery import Triplet

SPLITS = {"train": "train", "val": "val", "test": "test1"}
FOLDERS = (".", "img_raw")
"""Where copies of the data keep the folders train, dev and test1."""


def load_composed(
    root: Path, split: str, size: int = 224, skip_missing: bool = False, fit: str = "crop"
) -> ComposedSplit:
    """A split with its pictures; see `read_annotations`.

    Args:
        root: folder with captions/ and image_splits/ (or a cirr/ that has them) and the pictures.
        split: "train", "val" or "test" (test1, whose targets are hidden).
        size: height and width of the pictures.
        skip_missing: leave out images without a picture, and queries whose image set is not whole.
        fit: "crop" or "squash", see `retrieval.pictures`.

    Raises:
        FileNotFoundError: annotations or pictures are missing.
        ValueError: an unknown split, or a file that is not whole.
    """
    annotations = read_annotations(root, split)
    files = picture_files(root, split)
    return with_pictures(annotations, root, files, size, fit, skip_missing, ("members",))


def read_annotations(root: Path, split: str) -> ComposedSplit:
    """A split without its pictures.

    The facts of a query are its `pairid`, the `image_set` and the rows of its six `members`.
    """
    source = _images_path(root, split)
    names = tuple(read_json(source))
    row_of = rows_of(names, source)
    part = file_split("cirr", split, SPLITS)
    captions_path = _annotations(root) / "captions" / f"cap.rc2.{part}.json"
    queries: list[Triplet] = []
    facts: list[dict[str, Any]] = []
    for entry in read_json(captions_path):
        reference = row_of(value_of(entry, "reference", captions_path))
        target = row_of(entry["target_hard"]) if "target_hard" in entry else -1
        queries.append(Triplet(reference, value_of(entry, "caption", captions_path), target))
        image_set = value_of(entry, "img_set", captions_path)
        members = value_of(image_set, "members", captions_path)
        facts.append(
            {
                "pairid": int(value_of(entry, "pairid", captions_path)),
                "image_set": int(value_of(image_set, "id", captions_path)),
                "members": tuple(row_of(name) for name in members),
            }
        )
    return ComposedSplit(
        "cirr",
        split,
        names,
        names,
        None,
        tuple(queries),
        texts=tuple(query.caption for query in queries) if split == "train" else (),
        galleries={"all": np.arange(len(names))},
        facts=tuple(facts),
    )


def picture_files(root: Path, split: str) -> list[str]:
    """The picture of each image, relative to `root`."""
    paths = [PurePosixPath(path) for path in read_json(_images_path(root, split)).values()]
    parts = {path.parts[0] for path in paths}
    folder = next((it for it in FOLDERS if any((root / it / part).is_dir() for part in parts)), ".")
    return [str(PurePosixPath(folder) / path) for path in paths]


def _images_path(root: Path, split: str) -> Path:
    part = file_split("cirr", split, SPLITS)
    return _annotations(root) / "image_splits" / f"split.rc2.{part}.json"


def _annotations(root: Path) -> Path:
    return root / "cirr" if (root / "cirr" / "captions").is_dir() else root
