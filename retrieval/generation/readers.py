"""Networks that read what stands in each cell of a picture: for the loss, and for judging.

A generator that learns from a frozen reader may learn to please that one reader. So what it
draws is judged by a second one, which began with other weights, saw the pictures in another
order, and never met the generator.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retrieval.datasets import css
from retrieval.encoders.image import SceneCNN
from retrieval.encoders.training import to_tensor, train_scene_cnn
from retrieval.files import atomic_write
from retrieval.generation.conditions import load_scene_encoder
from retrieval.generation.stage_two import shrink

SIZE = 64
"""Pixels of a side that readers see; larger pictures are averaged down."""
LOSS_SEED, JUDGE_SEED = 0, 1
AT_ONCE = 256  # pictures read together


def load_reader(folder: Path, root: Path, look: str, seed: int, epochs: int = 5) -> SceneCNN:
    """The reader of a data set and seed, frozen; trained now, on the train split, when missing.

    Where the data's own scene encoder was trained on pictures of 64 px, it is the reader of
    seed 0.

    Args:
        folder: where trained readers are kept.
        root: a CSS folder.
        look: "3d" or "2d".
        seed: of the reader.
        epochs: of its training.
    """
    own_size = css.load_pictures(root, "train", look).shape[1]
    if seed == LOSS_SEED and own_size == SIZE:
        return load_scene_encoder(root, look)
    path = folder / f"{root.name}-{look}-seed{seed}.pt"
    model = SceneCNN()
    if path.is_file():
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    else:
        split = css.load_composed(root, "train", look, size=SIZE)
        assert split.pictures is not None
        scenes = css.load_scenes(root, "train")
        codes = scenes.reshape(len(scenes), -1)
        # A pretrained start in common would make two readers alike, so each starts anew.
        model = train_scene_cnn(split.pictures, codes, epochs, seed=seed, label=f"reader {seed}")
        with atomic_write(path) as temporary:
            torch.save(model.state_dict(), temporary)
    return model.eval().requires_grad_(False)


def attribute_loss(reader: SceneCNN, pictures: Tensor, attributes: Tensor) -> Tensor:
    """How far a frozen reader is from reading what should be there, per reading and attribute.

    Args:
        reader: in eval mode; gradients flow through it into the pictures.
        pictures: (B, 3, H, W) in [-1, 1].
        attributes: codes (B, 27).
    """
    loss, _ = reader.loss((shrink(pictures, SIZE) + 1) / 2, attributes)
    return loss / (2 * len(reader.sizes))  # two readings: by the vector and by places


@torch.inference_mode()
def read_scenes(reader: SceneCNN, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a reader sees in pictures uint8 (N, H, W, 3): scenes (N, 9, 3) and vectors (N, F)."""
    scenes, vectors = [], []
    for begin in range(0, len(pictures), AT_ONCE):
        seen = shrink(to_tensor(pictures[begin : begin + AT_ONCE]), SIZE)
        vector, _ = reader(seen)
        scores = reader.read_vector(vector).unflatten(1, (9, sum(reader.sizes)))
        codes = [part.argmax(-1) for part in scores.split(reader.sizes, dim=-1)]
        scenes.append(torch.stack(codes, dim=-1).numpy().astype(np.int8))
        vectors.append(vector.numpy())
    return np.concatenate(scenes), np.concatenate(vectors)
