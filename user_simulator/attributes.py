"""A user who knows the attributes and never errs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from retrieval.catalog import gallery as catalog
from retrieval.catalog.captions import product_caption
from retrieval.catalog.language import Language
from retrieval.gallery import Gallery
from retrieval.rendering.batch_captions import relative_captions
from retrieval.rendering.captions import DRAWS
from retrieval.rendering.scenes import CELLS
from user_simulator.base import Draws
from user_simulator.judging import AttributeJudge

Speaker = Callable[[np.ndarray, np.ndarray, np.ndarray], list[str]]
"""Says how rows of codes (B, A) that are meant differ from rows on show, by rows of draws."""
MakeSpeaker = Callable[[Gallery], Speaker]


def _speak_css(
    reference: np.ndarray,
    target: np.ndarray,
    draws: np.ndarray,
    look: str,
    say: Callable[[np.ndarray, np.ndarray, np.ndarray, str], list[str]],
) -> list[str]:
    return say(reference.reshape(-1, CELLS, 3), target.reshape(-1, CELLS, 3), draws, look)


def css_speaker(
    gallery: Gallery, look: str, say: Callable[..., list[str]] = relative_captions
) -> Speaker:
    """Who says of rows of codes what `say` says of scenes (B, 9, 3)."""
    return partial(_speak_css, look=look, say=say)  # partial, not a closure: a user must pickle


def _speak_catalog(
    reference: np.ndarray,
    target: np.ndarray,
    draws: np.ndarray,
    language: Language,
    say: Callable[[Language, np.ndarray, np.ndarray, np.ndarray], str],
) -> list[str]:
    return list(map(partial(say, language), reference, target, draws))


def catalog_speaker(gallery: Gallery, say: Callable[..., str] = product_caption) -> Speaker:
    """Who says of each two rows of codes what `say` says in the catalogue's language.

    Raises:
        ValueError: the gallery has none.
    """
    if not isinstance(gallery, catalog.CatalogGallery):
        raise ValueError("a gallery of kind 'catalog' must know its language; use `catalog.load`")
    return partial(_speak_catalog, language=gallery.spoken, say=say)


SPEAKERS: Mapping[str, MakeSpeaker] = {
    "css-3d": partial(css_speaker, look="3d"),
    "css-2d": partial(css_speaker, look="2d"),
    catalog.KIND: catalog_speaker,
}
"""For each kind of gallery, what makes a speaker: rows of attributes and draws to captions."""


class AttributeUser:
    """Speaks from the true attribute differences, as the built-in annotators do.

    Args:
        gallery: what is shown; it must carry attributes of a kind that has a speaker.

    Raises:
        ValueError: the gallery has no attributes, or nobody knows how to speak of them.
    """

    speakers: Mapping[str, MakeSpeaker] = SPEAKERS

    def __init__(self, gallery: Gallery):
        if gallery.attributes is None or gallery.kind not in self.speakers:
            raise ValueError(
                f"the attribute user cannot speak of a gallery of kind {gallery.kind!r} "
                f"{'without' if gallery.attributes is None else 'with'} attributes; "
                f"known kinds: {', '.join(self.speakers)}"
            )
        self._attributes = gallery.attributes
        self._speak = self.speakers[gallery.kind](gallery)
        self._judge = AttributeJudge(gallery)

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Draws) -> list[str]:
        """One true caption per pair of images; see `User.describe`."""
        draws = rng.random((len(target), DRAWS))  # (B, DRAWS)
        shown, meant = self._attributes[reference], self._attributes[target]  # (B, A)
        return self._speak(shown, meant, draws)

    def distance(self, offered: np.ndarray, target: np.ndarray) -> np.ndarray:
        """How far images (B, K) are from the targets (B,), by attributes; see `judging`."""
        return self._judge.distance(offered, target)
