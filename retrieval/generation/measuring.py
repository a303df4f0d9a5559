"""How much of what was asked for stands in a picture: the share of cells that are right.

A cell is right when its shape, colour and size all are; an empty cell, when it reads as empty.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from retrieval.encoders.image import SceneCNN
from retrieval.generation.data import GanData
from retrieval.generation.fid import frechet_distance
from retrieval.generation.readers import read_scenes


@dataclass(frozen=True)
class Cells:
    """Shares of cells that are right, by which cells of the wanted scene count.

    Args:
        occupied: those with an object.
        all: all nine of a scene.
        changed: those that differ between reference and target.
    """

    occupied: float
    all: float
    changed: float


def cells_right(seen: np.ndarray, wanted: np.ndarray, references: np.ndarray) -> Cells:
    """Compare scenes (Q, 9, 3) with those that were wanted, cell by cell.

    A share over no cells at all is NaN.

    Args:
        seen: what stands in the pictures.
        wanted: what should stand there.
        references: what stood in the reference pictures.

    Example:
        >>> wanted = np.zeros((1, 9, 3), dtype=np.int8)
        >>> wanted[0, 4] = 1, 2, 1
        >>> cells_right(np.zeros_like(wanted), wanted, np.zeros_like(wanted))
        Cells(occupied=0.0, all=0.8888888888888888, changed=0.0)
    """
    is_right = (seen == wanted).all(-1)  # (Q, 9)
    changed = (references != wanted).any(-1)
    occupied = (wanted != 0).any(-1)
    return Cells(*(
        float(is_right[which].mean()) if which.any() else float("nan")
        for which in (occupied, np.ones_like(occupied), changed)
    ))  # fmt: skip


def nearest_images(conditions: np.ndarray, images: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The image (Q,) most similar to each condition (Q, F), one image for each left out.

    Args:
        conditions: what the generator is told.
        images: conditions of all images (N, F).
        left_out: rows (Q,): the reference of a composed query, as the published protocol has
            it; the target itself where the condition is its own feature.
    """
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    scores = conditions @ images.T  # (Q, N)
    scores[np.arange(len(scores)), left_out] = -np.inf
    return np.asarray(scores.argmax(1))


class Judge:
    """A reader that has read a gallery, to which drawn pictures are compared.

    Args:
        reader: reads pictures.
        data: whose pictures are the gallery.
    """

    def __init__(self, reader: SceneCNN, data: GanData):
        self.reader = reader
        self.data = data
        self.scenes, self.features = read_scenes(reader, data.pictures)  # (N, 9, 3), (N, F)

    def measure(self, pictures: np.ndarray, condition: str, rows: np.ndarray) -> dict[str, float]:
        """What stands in drawn pictures.

        Besides the cells right: `nearest`, the share of cells that read as in the nearest gallery
        image, and `fid`, the Fréchet distance of the reader's features to those of the targets.

        Args:
            pictures: uint8 (Q', S, S, 3), one for each of `rows`.
            condition: "target" or "query", what the generator was told.
            rows: the queries that were drawn (Q').
        """
        seen, features = read_scenes(self.reader, pictures)
        nearest = nearest_of(self.data, condition, rows)
        return {
            **self._cells(seen, rows),
            "nearest": float((seen == self.scenes[nearest]).all(-1).mean()),
            "fid": frechet_distance(features, self.features[self.data.targets[rows]]),
        }

    def baselines(self, condition: str, rows: np.ndarray) -> dict[str, dict[str, float]]:
        """Cells right of pictures that need no generator.

        Nothing at all is right where cells are empty; the reference, unchanged, where nothing was
        to change; the nearest image is by the condition; the true target says how well the
        reader reads.
        """
        targets, references = self.data.targets[rows], self.data.references[rows]
        seen = {
            "background": np.zeros_like(self.scenes[targets]),
            "reference": self.scenes[references],
            "nearest": self.scenes[nearest_of(self.data, condition, rows)],
            "true target": self.scenes[targets],
        }
        return {name: self._cells(scenes, rows) for name, scenes in seen.items()}

    def _cells(self, seen: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        wanted = self.data.scenes[self.data.targets[rows]]
        return asdict(cells_right(seen, wanted, self.data.scenes[self.data.references[rows]]))


def nearest_of(data: GanData, condition: str, rows: np.ndarray) -> np.ndarray:
    """The nearest image of each of some queries, see `nearest_images`."""
    left_out = (data.references if condition == "query" else data.targets)[rows]
    return nearest_images(told(data, condition, rows), data.images, left_out)


def told(data: GanData, condition: str, rows: np.ndarray) -> np.ndarray:
    """The conditions (Q', F) of some queries: the target's own features, or the composed queries.

    Raises:
        ValueError: there are no composed queries.
    """
    if condition == "target":
        return data.images[data.targets[rows]]
    if data.queries is None:
        raise ValueError("composed queries need --composer, a checkpoint that train_composer wrote")
    return data.queries[rows]
