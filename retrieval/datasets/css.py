"""CSS: scenes of simple objects with modification queries, published or built in.

`load` (for dialogs) and `load_composed` (for single queries) read the published layout
(`css_toy_dataset_novel2_small.dup.npy` and `images/css_{split}_{index:06d}.png`), which
`retrieval.rendering.build` writes too.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retrieval.datasets.base import ComposedSplit, renumber
from retrieval.errors import unknown
from retrieval.features import load_features
from retrieval.files import atomic_write
from retrieval.gallery import Gallery, Triplet
from retrieval.pickles import load_pickled
from retrieval.pictures import Pictures, pictures_folder, squash
from retrieval.pictures import load_pictures as load_any_pictures
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


def load_composed(
    root: Path,
    split: str,
    look: str = "3d",
    query_look: str | None = None,
    size: int | None = None,
    skip_missing: bool = False,
    encoder: str | None = None,
) -> ComposedSplit:
    """A split's pictures, labels and queries, as Vo et al. (CVPR 2019) use them.

    Queries are every (from, to) pair of every modification, in file order, of the training
    split too. An image's label is the one in the file (equal scenes share one), else its number.
    The training split's `sample` is an `EditPairs`.

    Args:
        root: folder in the published layout.
        split: "train" or "test".
        look: how the gallery looks, "3d" (pictures on disk) or "2d" (drawn from the scenes).
        query_look: how references look, if otherwise: with "2d" and a 3D gallery the pictures
            of references are in `query_pictures`.
        size: height and width of all pictures, scaled as a whole, since scenes reach to the
            border. By default they stay as they are (2D: 64 px), as published.
        skip_missing: leave out 3D pictures that are missing or cannot be decoded, and the
            queries that need them, and count both.
        encoder: whose features a model on features reads; `extract_features` makes them.

    Raises:
        FileNotFoundError: the archive, pictures or features are missing.
        ValueError: an unknown split or look, or a file that is incomplete or contradicts itself.
    """
    for given in (look, query_look or look):
        if given not in LOOKS:
            raise unknown("look of CSS pictures", given, LOOKS)
    archive = _archive(root, split)
    count = len(archive["objects_img"])
    labels = _labels(archive, count)
    edits = _pairs(archive, count)

    gallery = _pictures(root, split, look, count, size, skip_missing)
    asked = gallery
    if query_look not in (None, look):
        asked = _pictures(root, split, str(query_look), count, size, skip_missing)
    kept = np.intersect1d(gallery.kept, asked.kept)
    edits = [renumber(pairs, kept, count)[0] for pairs in edits]
    queries = [query for pairs in edits for query in pairs]
    skipped = {**gallery.skipped, **asked.skipped}
    if lost := sum(len(mod["from"]) for mod in archive["mods"]) - len(queries):
        skipped["queries of such pictures"] = lost

    features = None
    if encoder is not None:
        features = load_features(root, f"{look}_{split}", encoder, expected=count)[0][kept]
    is_train = split == "train"
    return ComposedSplit(
        dataset=f"css{look}",
        split=split,
        names=tuple(picture_name(split, int(row)) for row in kept),
        labels=tuple(labels[row] for row in kept),
        pictures=_rows(gallery, kept),
        queries=tuple(queries),
        texts=tuple(mod["to_str"] for mod in archive["mods"]) if is_train else (),
        sample=EditPairs(edits) if is_train else None,
        galleries={"all": np.arange(len(kept))},
        skipped=skipped,
        features=features,
        query_pictures=None if asked is gallery else _rows(asked, kept),
    )


class EditPairs:
    """The published training rule: one scene, and two different modifications of it.

    Triplets come in twos with the same reference: the first is any pair of any modification,
    both drawn uniformly, the second any pair of another modification of that reference.
    Departures: a pair is drawn within one call, where the original remembers the first half in
    each loader process; a reference with a single modification is followed by a fresh draw,
    where the original never returns.

    Args:
        edits: for each modification its triplets.

    Raises:
        ValueError: there are no triplets.

    Example:
        >>> grow, paint = Triplet(0, "make ball large", 1), Triplet(0, "make ball red", 2)
        >>> sorted(EditPairs([[grow], [paint]])(np.random.default_rng(0), 2))
        [Triplet(reference=0, caption='make ball large', target=1), \
Triplet(reference=0, caption='make ball red', target=2)]
    """

    def __init__(self, edits: Sequence[Sequence[Triplet]]):
        self.edits = [list(pairs) for pairs in edits if pairs]
        if not self.edits:
            raise ValueError("expected modifications with pairs of scenes, got none")
        self._of: dict[int, dict[int, list[Triplet]]] = defaultdict(dict)
        for number, pairs in enumerate(self.edits):
            for pair in pairs:
                self._of[pair.reference].setdefault(number, []).append(pair)

    def __call__(self, rng: np.random.Generator, count: int) -> list[Triplet]:
        """Draw `count` triplets; of an odd number the last has no partner."""
        drawn: list[Triplet] = []
        while len(drawn) < count:
            number = int(rng.integers(len(self.edits)))
            first = self.edits[number][rng.integers(len(self.edits[number]))]
            drawn.append(first)
            others = [pairs for n, pairs in self._of[first.reference].items() if n != number]
            if others:
                pairs = others[rng.integers(len(others))]
                drawn.append(pairs[rng.integers(len(pairs))])
        return drawn[:count]


def load_scenes(root: Path, split: str) -> np.ndarray:
    """The scenes (N, 9, 3) of a split (see `retrieval.rendering.scenes`)."""
    return np.stack([from_objects(objects) for objects in _archive(root, split)["objects_img"]])


def load_queries(root: Path, split: str) -> list[Triplet]:
    """Every (from, to) pair of every modification, in file order."""
    archive = _archive(root, split)
    return [query for pairs in _pairs(archive, len(archive["objects_img"])) for query in pairs]


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
    path = pictures_folder(root) / f"{look}_{split}.npy"
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


def _labels(archive: Mapping[str, Any], count: int) -> list[str]:
    """The images' labels (N); without any in the file, their numbers."""
    labels = archive.get("labels")
    if labels is None or len(labels) == 0:
        return [str(row) for row in range(count)]
    if len(labels) != count:
        raise ValueError(
            f"expected CSS labels of {count} images, one per image, got {len(labels)}; "
            "fetch or make the data set again"
        )
    return [str(label) for label in labels]


def _pairs(archive: Mapping[str, Any], count: int) -> list[list[Triplet]]:
    """For each modification its triplets, in file order."""
    edits = []
    for mod in archive["mods"]:
        rows = [*mod["from"], *mod["to"]]
        if len(mod["from"]) != len(mod["to"]) or not all(0 <= row < count for row in rows):
            raise ValueError(
                f"the CSS modification {mod['to_str']!r} does not pair images of the {count} "
                "there are; fetch or make the data set again"
            )
        ends = zip(mod["from"], mod["to"], strict=True)
        edits.append([Triplet(int(source), mod["to_str"], int(target)) for source, target in ends])
    return edits


def _pictures(
    root: Path, split: str, look: str, count: int, size: int | None, skip_missing: bool
) -> Pictures:
    """A look's pictures, scaled to `size` if one is given."""
    shape = None if size is None else (size, size)
    if look == "3d" and (shape or skip_missing):
        names = [f"images/{picture_name(split, row)}" for row in range(count)]
        own = _own_size(root, names)
        if skip_missing or shape != own:
            label = f"3d_{split}"
            return load_any_pictures(
                root, names, shape or own, "squash", skip_missing, label=label
            )  # fmt: skip
    table = load_pictures(root, split, look)
    if shape not in (None, table.shape[1:3]):
        table = _scaled(pictures_folder(root) / f"{look}_{split}-{size}x{size}.npy", table, shape)
    return Pictures(table, np.arange(count), {})


def _own_size(root: Path, names: Sequence[str]) -> tuple[int, int]:
    """Height and width of the first picture that can be opened; all are of one size."""
    for name in names:
        try:
            with Image.open(root / name) as picture:
                return picture.height, picture.width
        except OSError:
            continue
    raise FileNotFoundError(
        f"none of {len(names)} pictures in {root / 'images'} is there and readable, the first "
        f"would be {names[0]}; make or fetch the data set again"
    )


def _scaled(path: Path, table: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pictures (N, *shape, 3) of a table, scaled once into a file."""
    if not path.is_file():
        with atomic_write(path) as temporary:
            scaled = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(table), *shape, 3))
            for row, picture in enumerate(table):
                scaled[row] = np.asarray(squash(Image.fromarray(picture), shape))
            scaled.flush()
    return np.load(path, mmap_mode="r")


def _rows(pictures: Pictures, kept: np.ndarray) -> np.ndarray:
    """The pictures of some of the rows; the table itself if it holds no others."""
    if len(pictures.kept) == len(kept):
        return pictures.table
    return pictures.table[np.searchsorted(pictures.kept, kept)]


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
