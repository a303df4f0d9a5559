"""A user who knows the attributes and never errs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from retrieval.catalog import gallery as catalog
from retrieval.catalog.captions import product_caption
from retrieval.gallery import Gallery
from retrieval.rendering.captions import DRAWS, relative_caption
from user_simulator.base import Draws

Speaker = Callable[[np.ndarray, np.ndarray, np.ndarray], str]


def _speak_css(reference: np.ndarray, target: np.ndarray, draws: np.ndarray, look: str) -> str:
    return relative_caption(reference.reshape(9, 3), target.reshape(9, 3), draws, look)


def _css_speaker(gallery: Gallery, look: str) -> Speaker:
    return partial(_speak_css, look=look)  # partial, not a closure: a user must pickle


def _catalog_speaker(gallery: Gallery) -> Speaker:
    if not isinstance(gallery, catalog.CatalogGallery):
        raise ValueError("a gallery of kind 'catalog' must know its language; use `catalog.load`")
    return partial(product_caption, gallery.spoken)


SPEAKERS: dict[str, Callable[[Gallery], Speaker]] = {
    "css-3d": partial(_css_speaker, look="3d"),
    "css-2d": partial(_css_speaker, look="2d"),
    catalog.KIND: _catalog_speaker,
}
"""For each kind of gallery, what makes a speaker: rows of attributes and draws to a caption."""


class AttributeUser:
    """Speaks from the true attribute differences, as the built-in annotators do.

    Args:
        gallery: what is shown; it must carry attributes of a kind that has a speaker.

    Raises:
        ValueError: the gallery has no attributes, or nobody knows how to speak of them.
    """

    def __init__(self, gallery: Gallery):
        if gallery.attributes is None or gallery.kind not in SPEAKERS:
            raise ValueError(
                f"the attribute user cannot speak of a gallery of kind {gallery.kind!r} "
                f"{'without' if gallery.attributes is None else 'with'} attributes; "
                f"known kinds: {', '.join(SPEAKERS)}"
            )
        self._attributes = gallery.attributes
        self._speak = SPEAKERS[gallery.kind](gallery)

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Draws) -> list[str]:
        """One true caption per pair of images; see `User.describe`."""
        draws = rng.random((len(target), DRAWS))  # (B, DRAWS)
        return [
            self._speak(self._attributes[shown], self._attributes[meant], row)
            for shown, meant, row in zip(reference, target, draws, strict=True)
        ]
