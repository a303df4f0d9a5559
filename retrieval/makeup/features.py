"""Features of the frames of make-up videos, extracted once; an interrupted run is taken up."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from retrieval.encoders.training import to_tensor
from retrieval.features import features_folder, names_path, save_features
from retrieval.files import atomic_write
from retrieval.pictures import crop

SIZE = 224
AT_ONCE = 32
CHUNK = 32 * AT_ONCE
"""Pictures between two files that an interrupted run finds again."""


@torch.inference_mode()
def extract_features(
    root: Path,
    names: Sequence[str],
    part: str,
    key: str,
    model: nn.Module,
    size: int = SIZE,
) -> np.ndarray:
    """Vectors (N, F) of pictures, saved with their names for `load_named_features`.

    Args:
        root: where the pictures lie, and the features will.
        names: the files (N), relative to `root`.
        part: what the features are filed under.
        key: the encoder's name, see `encoder_key`.
        model: pictures (B, 3, H, W) in [0, 1] to vectors (B, F) and grids, in eval mode.
        size: height and width that the pictures are brought to, the centre cut out.

    Raises:
        ValueError: a picture cannot be decoded.
    """
    folder = features_folder(root, key) / f".{part}"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(names), CHUNK)
    bar = tqdm(total=len(names), desc=f"{part} features", unit="picture", file=sys.stderr,
               mininterval=1.0)  # fmt: skip
    with bar:
        for begin in starts:
            own = names[begin : begin + CHUNK]
            path = folder / f"{begin}.npz"
            if not _holds(path, own):
                rows = [
                    model(to_tensor(_decoded(root, own[at : at + AT_ONCE], size)))[0].numpy()
                    for at in range(0, len(own), AT_ONCE)
                ]
                with atomic_write(path) as temporary:
                    np.savez(temporary, vectors=np.concatenate(rows), names=np.array(own))
            bar.update(len(own))
    chunks = [np.load(folder / f"{begin}.npz")["vectors"] for begin in starts]
    vectors = np.concatenate(chunks)
    with atomic_write(names_path(root, part, key)) as temporary:
        temporary.write_text(json.dumps(list(names)))
    save_features(root, part, key, vectors, None)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return vectors


def _holds(path: Path, names: Sequence[str]) -> bool:
    """Whether a chunk that was written before is of these pictures."""
    return path.is_file() and np.load(path)["names"].tolist() == list(names)


def _decoded(root: Path, names: Sequence[str], size: int) -> np.ndarray:
    """Pictures uint8 (B, H, W, 3)."""
    pictures = []
    for name in names:
        try:
            with Image.open(root / name) as picture:
                pictures.append(np.asarray(crop(picture.convert("RGB"), (size, size))))
        except OSError as error:
            raise ValueError(
                f"cannot decode the picture {root / name} ({error}); delete its video's note and "
                "run prepare_makeup again"
            ) from error
    return np.stack(pictures)
