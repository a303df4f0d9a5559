"""A trained generator together with what turns pictures and words into its conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from retrieval.generation.augmentation import CODE
from retrieval.generation.conditions import Conditioner
from retrieval.generation.drawing import AT_ONCE, to_pictures
from retrieval.generation.models import GanSpec, draw_noise


@dataclass(frozen=True)
class Painter:
    """Draws conditions by every stage it has.

    Args:
        spec: what the generator was built from.
        generator: of stage 1 or 2, in eval mode.
        conditioner: as in the generator's training.
    """

    spec: GanSpec
    generator: Any
    conditioner: Conditioner

    @torch.inference_mode()
    def stages(self, conditions: np.ndarray, chance: torch.Generator) -> dict[int, np.ndarray]:
        """Pictures uint8 (N, S, S, 3) of conditions (N, F), by stage.

        The second stage draws what the first one drew, from the same noise.
        """
        drawn: dict[int, list[np.ndarray]] = {stage: [] for stage in range(1, self.spec.stage + 1)}
        for begin in range(0, len(conditions), AT_ONCE):
            rows = torch.from_numpy(conditions[begin : begin + AT_ONCE])
            noise, code_noise = draw_noise(self.spec, len(rows), chance)
            if self.spec.stage == 2:
                small, _ = self.generator.first(rows, noise, code_noise[:, :CODE])
                drawn[1].append(to_pictures(small))
            pictures, _ = self.generator(rows, noise, code_noise)
            drawn[self.spec.stage].append(to_pictures(pictures))
        return {stage: np.concatenate(pictures) for stage, pictures in drawn.items()}

    def paint(self, conditions: np.ndarray, chance: torch.Generator) -> np.ndarray:
        """Pictures uint8 (N, S, S, 3) of conditions (N, F), by the last stage."""
        return self.stages(conditions, chance)[self.spec.stage]


class Imagination:
    """What a ranking believes: one picture for the best images of a gallery together.

    Args:
        painter: draws it.
        pictures: of the gallery, uint8 (N, H, W, 3).
        seed: of the noise, the same for every picture.
    """

    def __init__(self, painter: Painter, pictures: np.ndarray, seed: int = 0):
        self.painter = painter
        self.pictures = pictures
        self.seed = seed

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The picture uint8 (S, S, 3) of images (K,), best first."""
        features = self.painter.conditioner.images(np.asarray(self.pictures[images]))
        chance = torch.Generator().manual_seed(self.seed)
        return self.painter.paint(belief(features)[None], chance)[0]


def belief(features: np.ndarray) -> np.ndarray:
    """The condition (F,) that stands for images (K, F), best first: their weighted average.

    The r-th image weighs 1 / r; the average is brought to the length of the first.

    Example:
        >>> belief(np.array([[2.0, 0.0], [0.0, 2.0]])).round(2)
        array([1.79, 0.89], dtype=float32)
    """
    weights = 1 / np.arange(1, len(features) + 1)
    mean = weights @ features
    length = np.linalg.norm(features[0])
    return np.asarray(mean * length / max(np.linalg.norm(mean), 1e-12), dtype=np.float32)
