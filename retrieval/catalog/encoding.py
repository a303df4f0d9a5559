"""Features of a catalogue's pictures, extracted once into the cache."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from retrieval.catalog.colors import color_layout
from retrieval.catalog.own_cnn import train_catalog_cnn
from retrieval.datasets.catalog import (
    COLOR,
    OWN_CNN,
    SPLITS,
    Catalogue,
    features_part,
    is_extracted,
    workspace,
)
from retrieval.encoders.training import encoder_key, make_encoder, to_tensor
from retrieval.features import save_features

VECTOR_SIZE, GRID_SIZE = 256, 96
COLOR_SIZE = 48
"""Of the 256 numbers of a vector, for encoders with colours."""
COLOR_SHARE = 0.7
"""Length of the colours' part of a vector beside the backbone's, on average."""
_FIT_ON = 1500
_AT_ONCE = 50


class Reduction(NamedTuple):
    """A linear map onto the main axes of some rows: (x - mean) @ axes, scaled to length 1."""

    mean: np.ndarray  # (C,)
    axes: np.ndarray  # (C, c)

    @classmethod
    def fit(cls, rows: np.ndarray, size: int) -> Reduction:
        """The `size` axes along which rows (n, C) vary most, or as many as there are."""
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        _, values, axes = np.linalg.svd(np.cov(rows.T, bias=True).reshape(len(mean), -1))
        size = max(1, min(size, int((values > 1e-10 * values[0]).sum())))
        length = np.sqrt(max(values[:size].sum(), 1e-12))
        return cls(mean.astype(np.float32), (axes[:size].T / length).astype(np.float32))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows (..., C) as (..., c)."""
        return np.asarray((rows.astype(np.float32) - self.mean) @ self.axes)


def extract_catalogue(
    catalogue: Catalogue, encoder: str, weights: str = "none", epochs: int = 8, seed: int = 0
) -> str:
    """Extract and cache the features of both splits; returns their key.

    Vectors are reduced to 256 numbers by the main axes of train pictures, grids to 96 channels.
    An encoder named "...+color" gives the last 48 numbers of a vector and 4 channels of a grid
    to the picture's colours: ImageNet's backbones, trained to name things whatever their colour,
    hardly tell a red shirt from a blue one. What is there already is not made again.

    Args:
        catalogue: whose pictures.
        encoder: "efficientnet-lite0", a torchvision ResNet, or "catalog-cnn" (a small network
            trained on the train split, no download), each with or without "+color".
        weights: of a ResNet; see `ResNetEncoder`.
        epochs, seed: of the small network's training.

    Raises:
        ValueError: an unknown encoder.
        ImportError: the encoder's package is not installed.
    """
    name = encoder.removesuffix(COLOR)
    colored = encoder.endswith(COLOR)
    key = encoder_key(name, weights) if name != OWN_CNN else name
    key += COLOR if colored else ""
    if is_extracted(catalogue, key):
        return key
    if name == OWN_CNN:
        part = catalogue.part("train")
        model: nn.Module = train_catalog_cnn(
            catalogue.pictures[part], catalogue.codes[part], catalogue.language, epochs, seed=seed
        )
    else:
        model = make_encoder(name, weights)
    vectors, grids = _encode(model, catalogue.pictures, catalogue.train_size, colored)
    for split in SPLITS:
        part = catalogue.part(split)
        where = features_part(catalogue, split)
        save_features(workspace(catalogue.root), where, key, vectors[part], grids[part])
    return key


def _encode(
    model: nn.Module, pictures: np.ndarray, train_size: int, colored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Reduced vectors (N, F) and grids (N, G, C) of pictures, the train ones first."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    batches = _batches(model, pictures)
    for batch in batches:
        seen.append(batch)
        if sum(len(vector) for vector, _ in seen) >= min(train_size, _FIT_ON):
            break
    first = np.concatenate([vector for vector, _ in seen])[:train_size]
    places = np.concatenate([grid for _, grid in seen])[:train_size]
    side = round(places.shape[1] ** 0.5)
    reduce_vector = Reduction.fit(first, VECTOR_SIZE - COLOR_SIZE * colored)
    few = places[:: max(1, len(places) // 300)].reshape(-1, places.shape[2])
    reduce_grid = Reduction.fit(few, GRID_SIZE - 4 * colored)

    vectors, grids = [], []
    for vector, grid in (*seen, *batches):
        vectors.append(reduce_vector(vector))
        grids.append(reduce_grid(grid).astype(np.float16))
    vector, grid = np.concatenate(vectors), np.concatenate(grids)
    if not colored:
        return vector, grid
    colors, layout = color_layout(pictures, side)
    reduce_color = Reduction.fit(colors[:train_size], COLOR_SIZE)
    vector = np.concatenate([vector, COLOR_SHARE * reduce_color(colors)], axis=1)
    return vector, np.concatenate([grid, layout.astype(np.float16)], axis=2)


@torch.inference_mode()
def _batches(model: nn.Module, pictures: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vectors (b, F) and grids (b, G, C) of a few pictures at a time, with progress."""
    starts = range(0, len(pictures), _AT_ONCE)
    with tqdm(total=len(pictures), desc="features", file=sys.stderr, mininterval=1.0) as bar:
        for start in starts:
            vector, grid = model(to_tensor(pictures[start : start + _AT_ONCE]))
            bar.update(len(vector))
            yield vector.numpy(), grid.half().numpy()
