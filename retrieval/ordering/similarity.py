"""How well captions lead from one picture of a question to another, under a trained model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from retrieval.inference import reads_features, to_tensor
from retrieval.models import RetrievalModel

AT_ONCE = 512
"""Queries composed together when all are asked for."""


class Similarities:
    """Cosines of composed queries with every picture of a question.

    `similarities(image, heard, until)` is the row (M,) of `image` composed with the captions
    after number `heard`, up to and with number `until`, joined by spaces: the text that leads
    from the picture after step `heard` to the one after step `until`, as in the modification
    data. Rows are composed when first asked for.

    Args:
        model: in eval mode.
        pictures: uint8 (M, H, W, 3).
        captions: every step, in order (L).

    Raises:
        ValueError: the model reads extracted features, and a question's pictures have none.
    """

    @torch.inference_mode()
    def __init__(self, model: RetrievalModel, pictures: np.ndarray, captions: Sequence[str]):
        if reads_features(model):
            raise ValueError(
                "the model reads extracted features, which the pictures of questions do not have; "
                "train one with an --image_encoder that reads pictures"
            )
        self._model = model
        self._images = to_tensor(pictures)
        self._embeddings = _unit(model.embed(self._images).numpy())  # (M, D)
        self.captions = tuple(captions)
        self._known: dict[tuple[int, int, int], np.ndarray] = {}

    def __call__(self, image: int, heard: int, until: int) -> np.ndarray:
        """The cosines (M,) of one query; see the class."""
        asked = (image, heard, until)
        if asked not in self._known:
            self._compose([asked])
        return self._known[asked]

    def compose_all(self) -> None:
        """Compose everything that an order of all pictures can ask for, in big batches."""
        images, steps = len(self._images), len(self.captions)
        longest = steps - images + 1  # the other links need a caption each
        asked = [
            (image, heard, until)
            for image in range(images)
            for heard in range(steps - 1)
            for until in range(heard + 1, min(heard + longest, steps - 1) + 1)
            if (image, heard, until) not in self._known
        ]
        for begin in range(0, len(asked), AT_ONCE):
            self._compose(asked[begin : begin + AT_ONCE])

    @torch.inference_mode()
    def _compose(self, asked: Sequence[tuple[int, int, int]]) -> None:
        texts = [" ".join(self.captions[heard + 1 : until + 1]) for _, heard, until in asked]
        which = torch.tensor([image for image, _, _ in asked])
        query = self._model.compose(self._images, self._model.token_ids(texts), which)
        rows = _unit(query.numpy()) @ self._embeddings.T  # (B, M)
        self._known.update(zip(asked, rows, strict=True))


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows at length 1: not every model's vectors are."""
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))
