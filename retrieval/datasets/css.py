"""CSS: scenes of simple objects with modification queries, published or built in.

`load` reads the published layout (`css_toy_dataset_novel2_small.dup.npy` and
`images/css_{split}_{index:06d}.png`), which `retrieval.rendering.build` writes too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retrieval.features import load_features
from retrieval.files import atomic_write
from retrieval.gallery import Gallery, Triplet
from retrieval.pickles import load_pickled
from retrieval.rendering.build import ARCHIVE, captions_name, picture_name
from retrieval.rendering.pictures_2d import render_2d, to_uint8
from retrieval.rendering.scenes import from_objects

LOOKS = ("3d", "2d")


def load(
    root: Path, split: str, look: str = "3d", encoder: str = "scene-cnn", captions: str = "relative"
) -> tuple[Gallery, list[Triplet]]:
    """A split's gallery, with cached features, and its triplets.

    Args:
        root: folder in the published layout.
        split: "train" or "test".
        look: "3d" (pictures on disk) or "2d" (drawn from the scenes).
        encoder: whose features; `extract_features` makes them. "scene" needs no pictures:
            the scenes themselves, one-hot, for quick trials without a vision model.
        captions: "relative" (built-in data only) or "instructions", the CSS queries.

    Raises:
        FileNotFoundError: the archive, pictures or features are missing; the message says what
            to run.
        ValueError: an unknown split or look, or a file that is incomplete.
    """
    scenes = load_scenes(root, split)
    names = tuple(picture_name(split, index) for index in range(len(scenes)))
    grids = None
    if encoder == "scene":
        features = one_hot(scenes)
    else:
        features, grids = load_features(root, f"{look}_{split}", encoder, expected=len(scenes))
    pictures = load_pictures(root, split, look)
    attributes = scenes.reshape(len(scenes), -1)
    gallery = Gallery(names, features, attributes, grids, pictures, kind=f"css-{look}")
    if captions == "relative":
        return gallery, load_captions(root, split, look)
    return gallery, load_queries(root, split)


def load_scenes(root: Path, split: str) -> np.ndarray:
    """The scenes (N, 9, 3) of a split (see `retrieval.rendering.scenes`)."""
    return np.stack([from_objects(objects) for objects in _archive(root, split)["objects_img"]])


def load_queries(root: Path, split: str) -> list[Triplet]:
    """Every (from, to) pair of every modification, in file order."""
    return [
        Triplet(int(source), mod["to_str"], int(target))
        for mod in _archive(root, split)["mods"]
        for source, target in zip(mod["from"], mod["to"], strict=True)
    ]


def load_captions(root: Path, split: str, look: str = "3d") -> list[Triplet]:
    """The relative captions that the built-in data comes with (none in the published data)."""
    path = root / captions_name(look, split)
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is incomplete ({error}); make the data set again") from error
    return [
        Triplet(_index(row["ReferenceImageName"]), row["RelativeCaption"], _index(row["ImageName"]))
        for row in rows
    ]


def load_pictures(root: Path, split: str, look: str = "3d") -> np.ndarray:
    """All pictures of a split, uint8 (N, H, W, 3), decoded once into a memory-mapped cache.

    Raises:
        FileNotFoundError: pictures are missing; they are counted and the first is named.
        ValueError: a picture cannot be decoded, or the sizes differ.
    """
    if look not in LOOKS:
        raise ValueError(f"unknown look {look!r} of CSS pictures; known: {', '.join(LOOKS)}")
    path = root / "pictures" / f"{look}_{split}.npy"
    if not path.is_file():
        with atomic_write(path) as temporary:
            np.save(temporary, _decode(root, split, look))
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is incomplete ({error}); delete it and try again") from error


def one_hot(scenes: np.ndarray) -> np.ndarray:
    """Scenes (N, 9, 3) as unit-norm vectors (N, 144): per cell 4 + 9 + 3 indicators."""
    parts = [np.eye(size, dtype=np.float32)[scenes[:, :, at]] for at, size in enumerate((4, 9, 3))]
    flat = np.concatenate(parts, axis=-1).reshape(len(scenes), -1)
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), dtype=np.float32)


def _archive(root: Path, split: str) -> dict[str, Any]:
    path = root / ARCHIVE
    if not path.is_file():
        raise FileNotFoundError(f"expected CSS data in {root}, but {ARCHIVE} is missing there")
    data = load_pickled(path)
    data = data.item() if isinstance(data, np.ndarray) else data
    if split not in data:
        raise ValueError(f"unknown split {split!r} of {path}; known: {', '.join(data)}")
    return dict(data[split])


def _decode(root: Path, split: str, look: str) -> np.ndarray:
    objects = _archive(root, split)["objects_img"]
    if look == "2d":
        return np.stack([to_uint8(render_2d(scene)) for scene in objects])
    paths = [root / "images" / picture_name(split, index) for index in range(len(objects))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} pictures are missing in {root / 'images'}, "
            f"the first is {missing[0]}; make or fetch the data set again"
        )
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
        except OSError as error:
            raise ValueError(f"cannot decode the picture {path} ({error}); replace it") from error
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"the pictures in {root / 'images'} differ in size; expected one size")
    return np.stack(pictures)


def _index(name: str) -> int:
    return int(name.rsplit("_", 1)[1].split(".")[0])
