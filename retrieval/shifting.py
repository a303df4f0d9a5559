"""Pictures moved by a few pixels at random, so that training sees each in many places."""

from __future__ import annotations

import numpy as np


def shifted(images: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Each picture moved up or down, left or right by up to `most` pixels, apart from the others.

    What moves in repeats the edge. (Padding and random crops of the same size, as He et al.,
    CVPR 2016, train on CIFAR, but with the edge in place of zeros.)

    Args:
        images: pictures (B, H, W, 3).
        most: pixels, 0 for none.
        rng: draws the moves, one pair for each picture.

    Returns:
        Pictures of the same shape.
    """
    if not most:
        return images
    wide = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    moves = rng.integers(0, 2 * most + 1, size=(len(images), 2))
    rows = moves[:, :1] + np.arange(images.shape[1])  # (B, H)
    columns = moves[:, 1:] + np.arange(images.shape[2])  # (B, W)
    which = np.arange(len(images))[:, None, None]
    moved: np.ndarray = wide[which, rows[:, :, None], columns[:, None]]
    return moved
