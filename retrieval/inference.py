"""A split under a single-turn model: which pictures each side sees, and their vectors."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from retrieval.datasets.base import ComposedSplit
from retrieval.devices import CPU, place_of, put, to_host
from retrieval.models import RetrievalModel

_PIXELS = 512 * 64 * 64  # of a batch without gradients: 512 small pictures, 41 of 224 px


def gallery_images(split: ComposedSplit, from_features: bool) -> np.ndarray:
    """What the gallery side sees: pictures (N, H, W, 3), or features (N, F).

    Raises:
        ValueError: the split has none.
    """
    table = split.features if from_features else split.pictures
    if table is None:
        remedy = (
            "run extract_features first, or choose an --image_encoder that reads pictures"
            if from_features
            else "choose --image_encoder features"
        )
        kind = "features" if from_features else "pictures"
        raise ValueError(f"{split.dataset} ({split.split}) comes without {kind}; {remedy}")
    return table


def reference_images(split: ComposedSplit, from_features: bool) -> np.ndarray:
    """What the query side sees: the same, unless references look another way (CSS 2D to 3D)."""
    if split.query_pictures is not None and not from_features:
        return split.query_pictures
    return gallery_images(split, from_features)


def to_tensor(images: np.ndarray, device: torch.device = CPU) -> Tensor:
    """Pictures (B, H, W, 3), uint8, as floats (B, 3, H, W) in [0, 1]; features as they are.

    Bytes travel to the device and become floats there, channels last in memory.
    """
    if images.ndim == 2:
        return put(np.array(images, dtype=np.float32), device)
    return put(np.array(images), device).permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def encode_gallery(model: RetrievalModel, split: ComposedSplit) -> np.ndarray:
    """The vectors (N, D') of every image, in eval mode, in big batches."""
    images = gallery_images(split, reads_features(model))
    was_training, device = model.training, place_of(model)
    model.eval()
    rows = [
        to_host(model.embed(to_tensor(images[begin:end], device)))
        for begin, end in _batches(len(images), images, "gallery")
    ]
    model.train(was_training)
    return np.concatenate(rows)


@torch.inference_mode()
def encode_queries(model: RetrievalModel, split: ComposedSplit) -> np.ndarray:
    """The vectors (Q, D') of every query, in eval mode, in big batches."""
    images = reference_images(split, reads_features(model))
    was_training, device = model.training, place_of(model)
    model.eval()
    rows = []
    for begin, end in _batches(len(split.queries), images, "queries"):
        queries = split.queries[begin:end]
        seen = to_tensor(images[[query.reference for query in queries]], device)
        ids = model.token_ids([query.caption for query in queries])
        rows.append(to_host(model.compose(seen, ids)))
    model.train(was_training)
    return np.concatenate(rows)


def reads_features(model: RetrievalModel) -> bool:
    """Whether a model reads extracted features instead of pictures."""
    return bool(model.spec.image_encoder == "features")


def _batches(total: int, images: np.ndarray, label: str) -> Iterable[tuple[int, int]]:
    pixels = 64 * 64 if images.ndim == 2 else images.shape[1] * images.shape[2]
    size = max(8, min(512, _PIXELS // pixels))
    starts = range(0, total, size)
    bar = tqdm(starts, desc=label, unit="batch", file=sys.stderr, mininterval=5.0, leave=False)
    for begin in bar:
        yield begin, min(begin + size, total)
