"""Modifications in the files of the YouMakeup VQA baseline, published or `prepare_makeup`'s.

mod_data.json        {split: {mods [{to_str, from [index], to [index], step_gap}], ...}}
img_index2info.json  {split: {index: [video, number of video, frame, step, path]}}
train_images/, val_images/   the pictures, at those paths but with .jpg
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from retrieval.datasets.annotations import read_json, rows_of, value_of
from retrieval.datasets.base import ComposedSplit
from retrieval.gallery import Triplet

INFO, MODS = "img_index2info.json", "mod_data.json"
IMAGE_FOLDERS = {"train": "train_images", "test": "val_images"}
"""Where the baseline keeps the frames of each split."""


def read_mod_data(root: Path, mod_data: Path, split: str) -> ComposedSplit:
    """A split, without pictures, of the modifications in derived files, ours or published ones.

    Args:
        root: holds the pictures.
        mod_data: the folder of mod_data.json; img_index2info.json lies there or in `root`.
        split: "train" or "test".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file lacks the split or is not whole.
    """
    source = mod_data / INFO if (mod_data / INFO).is_file() else root / INFO
    info = value_of(read_json(source), split, source)
    folder = picture_folder(root, split)
    names = tuple(str(folder / PurePosixPath(entry[4]).with_suffix(".jpg"))
                  for entry in info.values())  # fmt: skip
    row_of_index = rows_of(list(info), source)
    found = mod_data / MODS
    queries: list[Triplet] = []
    facts: list[dict[str, Any]] = []
    for mod in value_of(value_of(read_json(found), split, found), "mods", found):
        text, before, after, gap = (
            value_of(mod, field, found) for field in ("to_str", "from", "to", "step_gap")
        )
        sources = tuple(row_of_index(str(index)) for index in before)
        targets = tuple(row_of_index(str(index)) for index in after)
        queries.append(Triplet(sources[-1], text, targets[-1]))
        video = info[str(before[-1])][0]
        facts.append({"video": video, "step_gap": gap, "sources": sources, "targets": targets})
    return ComposedSplit(
        "youmakeup",
        split,
        names,
        names,
        None,
        tuple(queries),
        texts=tuple(query.caption for query in queries) if split == "train" else (),
        galleries={"all": np.arange(len(names))},
        facts=tuple(facts),
    )


def picture_folder(root: Path, split: str) -> PurePosixPath:
    """The folder of a split's frames relative to `root`: the published one, else `frames`."""
    published = IMAGE_FOLDERS[split]
    return PurePosixPath(published if (root / published).is_dir() else "frames")
