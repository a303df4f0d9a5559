"""The queries of a CSS split as a generator sees them: conditions, target pictures, scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.datasets import css
from retrieval.datasets.base import ComposedSplit
from retrieval.encoders.training import SCENE_CNN
from retrieval.features import has_features, load_features
from retrieval.generation.conditions import Conditioner

CONDITIONS = ("target", "query", "mix")
"""Whose feature a generator is told: the target's own (published), the composed query, or for
each picture one of the two at random."""


@dataclass(frozen=True)
class GanData:
    """Q queries with what a generator is told and what it should draw.

    Args:
        split: pictures in their own size, and the queries.
        pictures: what should be drawn, uint8 (N, S, S, 3) in the size of the stage.
        references, targets: rows into the pictures, (Q,).
        images: conditions of all images (N, F).
        queries: composed conditions (Q, F), or None.
        scenes: what stands in each cell of each image, (N, 9, 3).
    """

    split: ComposedSplit
    pictures: np.ndarray
    references: np.ndarray
    targets: np.ndarray
    images: np.ndarray
    queries: np.ndarray | None
    scenes: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


def load_data(
    root: Path,
    split: str,
    look: str,
    size: int,
    conditioner: Conditioner,
    larger: Path | None = None,
) -> GanData:
    """The queries of a split with their conditions, each computed once.

    Published: the features of one random pass over the training queries, used again in every
    epoch. Pictures of another shape than a square are squashed.

    Args:
        root: a CSS folder, whose pictures the conditions are read from.
        split: "train" or "test".
        look: "3d" or "2d".
        size: S, of what should be drawn.
        conditioner: of the data set.
        larger: a folder with the same scenes drawn larger, to take what should be drawn from;
            by default it comes from `root`.

    Raises:
        FileNotFoundError: data are missing.
        ValueError: files that are incomplete, or `larger` holds other scenes.
    """
    own = css.load_composed(root, split, look)
    scenes = css.load_scenes(root, split)
    pictures = _drawn(root if larger is None else larger, split, look, size)
    if larger is not None and not np.array_equal(scenes, css.load_scenes(larger, split)):
        raise ValueError(
            f"{larger} holds other scenes than {root}; make it with the same seed and numbers"
        )
    assert own.pictures is not None
    features = None
    if has_features(root, part := f"{look}_{split}", SCENE_CNN):
        features, _ = load_features(root, part, SCENE_CNN, expected=len(scenes))
    references = np.array([query.reference for query in own.queries], dtype=np.int64)
    captions = [query.caption for query in own.queries]
    composed = None
    if conditioner.composer is not None:
        composed = conditioner.queries(own.pictures, references, captions, features)
    return GanData(
        own,
        pictures,
        references,
        np.array([query.target for query in own.queries], dtype=np.int64),
        conditioner.images(own.pictures, features),
        composed,
        scenes,
    )


def _drawn(root: Path, split: str, look: str, size: int) -> np.ndarray:
    """A split's pictures (N, size, size, 3): as they are, or scaled where that must be."""
    pictures = css.load_pictures(root, split, look)
    if pictures.shape[1:3] != (size, size):
        scaled = css.load_composed(root, split, look, size=size).pictures
        assert scaled is not None
        return scaled
    return pictures
