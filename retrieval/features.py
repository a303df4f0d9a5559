"""Features of a gallery's pictures on disk: read with NumPy alone, keyed by encoder and data.

    {root}/features/{encoder}/{part}_vectors.npy   float32 (N, F), unit-norm rows
    {root}/features/{encoder}/{part}_grids.npy     float16 (N, G, C), unless the encoder has none

`part` is, for CSS, "{look}_{split}". `scripts.extract_features` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.files import atomic_write


def features_folder(root: Path, encoder: str) -> Path:
    """Where one encoder's features of one data set lie."""
    return root / "features" / encoder


def has_features(root: Path, part: str, encoder: str) -> bool:
    """Whether the vectors of a part of the data were extracted (they are written last)."""
    return (features_folder(root, encoder) / f"{part}_vectors.npy").is_file()


def load_features(
    root: Path, part: str, encoder: str, expected: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Vectors (N, F) and grids (N, G, C) or None, grids memory-mapped.

    Raises:
        FileNotFoundError: there are none yet.
        ValueError: they are of another number of images than `expected`, or cut short.
    """
    folder = features_folder(root, encoder)
    vectors_path, grids_path = folder / f"{part}_vectors.npy", folder / f"{part}_grids.npy"
    if not vectors_path.is_file():
        raise FileNotFoundError(
            f"no {encoder} features of {part} in {root}; run `extract_features --encoder {encoder} "
            f"--data-path {root}` first"
        )
    try:
        vectors = np.load(vectors_path)
        grids = np.load(grids_path, mmap_mode="r") if grids_path.is_file() else None
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"the features in {folder} are incomplete ({error}); extract them again"
        ) from error
    if len(vectors) != expected:
        raise ValueError(
            f"expected features of {expected} images in {folder}, got {len(vectors)}; "
            "the data has changed: extract them again"
        )
    return vectors, grids


def save_features(
    root: Path, part: str, encoder: str, vectors: np.ndarray, grids: np.ndarray | None
) -> None:
    """Write features so that a reader finds all of them or none."""
    folder = features_folder(root, encoder)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    if grids is not None:
        with atomic_write(folder / f"{part}_grids.npy") as temporary:
            np.save(temporary, grids.astype(np.float16))
    with atomic_write(folder / f"{part}_vectors.npy") as temporary:
        np.save(temporary, (vectors / np.maximum(norm, 1e-12)).astype(np.float32))


def names_path(root: Path, part: str, encoder: str) -> Path:
    """Where it stands which images a part's features are of, for data whose order may vary."""
    return features_folder(root, encoder) / f"{part}_names.json"


def load_named_features(root: Path, part: str, encoder: str, names: Sequence[str]) -> np.ndarray:
    """Vectors (N, F) of images by name, from features that were saved with their names.

    Raises:
        FileNotFoundError: there are none yet.
        ValueError: they are cut short, or lack some of the images.
    """
    path = names_path(root, part, encoder)
    if not path.is_file():
        raise FileNotFoundError(
            f"no {encoder} features of {part} in {root}; run prepare_makeup --features {encoder}"
        )
    known = {name: row for row, name in enumerate(json.loads(path.read_text()))}
    vectors, _ = load_features(root, part, encoder, expected=len(known))
    lost = [name for name in names if name not in known]
    if lost:
        raise ValueError(
            f"{len(lost)} of {len(names)} images of {part} have no {encoder} features, the first "
            f"is {lost[0]}; extract them again"
        )
    return np.asarray(vectors[[known[name] for name in names]])
