"""A picture's colours as numbers: what a backbone trained to tell things apart forgets."""

from __future__ import annotations

import numpy as np

from retrieval.catalog.looks import to_lab

HUES = 12
_AT_ONCE = 64


def color_layout(pictures: np.ndarray, side: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Where which colours are, of uint8 pictures (N, H, W, 3).

    Source of the idea: the colour layout and colour structure descriptors of MPEG-7 (Manjunath
    et al., IEEE TCSVT 2001), here in CIE Lab and without their transforms.

    Args:
        pictures: of any size of at least `side` pixels.
        side: cells of the grid per side, so that G = side * side.

    Returns:
        Vectors (N, 12 + 4 G): shares of 12 hues, pale pixels counting less, then the grid; and
        the grid (N, G, 4): mean L, a, b and chroma of each cell, divided by 100.
    """
    parts = [
        _layout(np.asarray(pictures[start : start + _AT_ONCE]), side)
        for start in range(0, len(pictures), _AT_ONCE)
    ]
    vectors, grids = zip(*parts, strict=True)
    return np.concatenate(vectors), np.concatenate(grids)


def _layout(pictures: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    lab = to_lab(pictures)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    hue = np.degrees(np.arctan2(lab[..., 2], lab[..., 1])) % 360
    vivid = np.clip((chroma - 8) / 20, 0, 1)  # (B, H, W)
    at = (hue * HUES / 360).astype(np.int64) % HUES
    shares = np.stack([(vivid * (at == one)).mean((1, 2)) for one in range(HUES)], axis=1)
    channels = np.concatenate([lab, chroma[..., None]], axis=-1) / 100  # (B, H, W, 4)
    rows = [part.mean(1) for part in np.array_split(channels, side, axis=1)]  # (B, W, 4) each
    cells = [
        part.mean(1) for row in rows for part in np.array_split(row, side, axis=1)
    ]  # (B, 4) each
    grid = np.stack(cells, axis=1).astype(np.float32)  # (B, G, 4)
    return np.concatenate([shares, grid.reshape(len(grid), -1)], axis=1).astype(np.float32), grid
