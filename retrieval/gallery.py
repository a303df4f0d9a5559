"""The two data records: a gallery of images and the triplets that supervise on it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Triplet(NamedTuple):
    """One row of supervision: the caption says how the target differs from the reference."""

    reference: int
    caption: str
    target: int


@dataclass(frozen=True)
class Gallery:
    """All images that can be shown; an image is its row number.

    Args:
        names: the images' names (N).
        features: frozen backbone output, unit-norm rows (N, F), float32.
        attributes: integer codes (N, A) of what is known of each image, 0 = unknown or absent.
        grids: spatial features (N, G, C) for models with attention, or None.
        pictures: uint8 pictures (N, H, W, 3), often memory-mapped, or None.
        kind: what the attributes mean ("css-3d", "css-2d", ...), for those who speak of them.

    Raises:
        ValueError: the tables disagree on the number of images, or features are not finite.
    """

    names: tuple[str, ...]
    features: np.ndarray
    attributes: np.ndarray | None = None
    grids: np.ndarray | None = None
    pictures: np.ndarray | None = field(default=None, repr=False)
    kind: str = ""

    def __post_init__(self) -> None:
        for label in ("features", "attributes", "grids", "pictures"):
            table = getattr(self, label)
            if table is not None and len(table) != len(self.names):
                raise ValueError(
                    f"expected {label} of {len(self.names)} images, one per name, got {len(table)}"
                )
        if len(self.names) < 2:
            raise ValueError(f"a gallery needs at least 2 images, got {len(self.names)}")
        if not np.isfinite(self.features).all():
            raise ValueError("gallery features must be finite numbers; recompute them")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def content_hash(self) -> str:
        """Twelve hexadecimal digits that change with the names or the features."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        digest.update(np.ascontiguousarray(self.features).tobytes())
        return digest.hexdigest()[:12]
