"""Train the scene encoder, and run any encoder over a data set."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from retrieval.datasets import css
from retrieval.encoders.image import EfficientNetLiteEncoder, ResNetEncoder, SceneCNN
from retrieval.features import features_folder, has_features, save_features
from retrieval.files import atomic_write

SCENE_CNN = "scene-cnn"


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 pictures (B, H, W, 3) as floats (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255


def train_scene_cnn(
    pictures: np.ndarray,
    attributes: np.ndarray,
    epochs: int = 5,
    batch_size: int = 128,
    seed: int = 0,
    label: str = "scene encoder",
) -> SceneCNN:
    """Fit the scene encoder to the attributes of train pictures (attribute supervision).

    Args:
        pictures: uint8 (N, H, W, 3).
        attributes: codes (N, 27) of what stands in each cell.
        epochs: passes over the pictures, AdamW with a one-cycle schedule.
        batch_size: pictures per step.
        seed: fixes the initial weights and the order.
        label: what the progress bar says.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SceneCNN()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    steps = epochs * max(1, len(pictures) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    labels = torch.from_numpy(attributes.astype(np.int64))
    model.train()
    bar = tqdm(total=steps, desc=label, unit="step", file=sys.stderr, mininterval=1.0)
    with bar:
        for _ in range(epochs):
            order = rng.permutation(len(pictures))
            for step in range(max(1, len(pictures) // batch_size)):
                rows = np.sort(order[step * batch_size : (step + 1) * batch_size])
                loss, accuracy = model.loss(to_tensor(pictures[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
                bar.set_postfix(
                    loss=f"{loss.item():.3f}", read=f"{accuracy.item():.3f}", refresh=False
                )
    return model.eval()


@torch.inference_mode()
def encode(
    model: nn.Module, pictures: np.ndarray, batch_size: int = 256, label: str = "features"
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, F) and grids (N, G, C, float16) of uint8 pictures (N, H, W, 3)."""
    vectors, grids = [], []
    starts = range(0, len(pictures), batch_size)
    for start in tqdm(starts, desc=label, unit="batch", file=sys.stderr, mininterval=1.0):
        vector, grid = model(to_tensor(pictures[start : start + batch_size]))
        vectors.append(vector.numpy())
        grids.append(grid.half().numpy())
    return np.concatenate(vectors), np.concatenate(grids)


def make_encoder(name: str, weights: str = "none") -> nn.Module:
    """A pretrained backbone by name: "efficientnet-lite0" or a torchvision ResNet.

    Raises:
        ValueError: an unknown name.
    """
    if name == "efficientnet-lite0":
        return EfficientNetLiteEncoder().eval()
    return ResNetEncoder(name, weights).eval()


def encoder_key(name: str, weights: str = "none") -> str:
    """The folder name that tells one encoder's features from another's."""
    if name == SCENE_CNN or weights == "none":
        return name
    content = Path(weights).read_bytes() if Path(weights).is_file() else weights.encode()
    return f"{name}-{hashlib.sha256(content).hexdigest()[:8]}"


def extract_css(
    root: Path, look: str = "3d", encoder: str = SCENE_CNN, weights: str = "none", epochs: int = 5
) -> str:
    """Extract and cache the features of both splits of a CSS folder; returns their key.

    The scene encoder is trained first, on the train split alone, and kept beside the features.
    What is there already is not made again.
    """
    key = encoder_key(encoder, weights)
    if all(has_features(root, f"{look}_{split}", key) for split in ("train", "test")):
        return key
    model = (
        _scene_cnn(root, look, epochs) if encoder == SCENE_CNN else make_encoder(encoder, weights)
    )
    for split in ("train", "test"):
        pictures = css.load_pictures(root, split, look)
        vectors, grids = encode(model, pictures, label=f"{look} {split} features")
        save_features(root, f"{look}_{split}", key, vectors, grids)
    return key


def _scene_cnn(root: Path, look: str, epochs: int) -> SceneCNN:
    """The scene encoder of a CSS folder and look, trained now unless it was before."""
    path = features_folder(root, SCENE_CNN) / f"{look}_encoder.pt"
    model = SceneCNN()
    if path.is_file():
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return model.eval()
    scenes = css.load_scenes(root, "train")
    pictures = css.load_pictures(root, "train", look)
    model = train_scene_cnn(
        pictures, scenes.reshape(len(scenes), -1), epochs, label=f"{look} scene encoder"
    )
    held_out = css.load_scenes(root, "test")
    with torch.inference_mode():
        sample = slice(0, 2000)
        labels = torch.from_numpy(held_out.reshape(len(held_out), -1)[sample].astype(np.int64))
        seen = to_tensor(css.load_pictures(root, "test", look)[sample])
        _, accuracy = model.loss(seen, labels)
    print(f"{look} scene encoder: {accuracy:.4f} of held-out attributes read", file=sys.stderr)
    with atomic_write(path) as temporary:
        torch.save(model.state_dict(), temporary)
    return model
