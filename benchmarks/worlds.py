"""Dialogs about galleries of any size, grown from the built-in pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from envs.dialog import Dialog
from envs.factory import make_dialog
from retrieval.gallery import Gallery
from retrieval.index import ExactIndex
from user_simulator import AttributeUser, User


def grown(gallery: Gallery, size: int, seed: int = 0) -> Gallery:
    """A gallery of `size` images: the given ones again and again, each time a little different.

    Args:
        gallery: with attributes.
        size: N.
        seed: of the noise on the features, which tells the copies apart.
    """
    rows = np.arange(size) % len(gallery)
    noise = np.random.default_rng(seed).standard_normal(
        (size, gallery.features.shape[1]), dtype=np.float32
    )
    features = gallery.features[rows] + 0.01 * noise
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    assert gallery.attributes is not None
    return replace(
        gallery,
        names=tuple(map(str, range(size))),
        features=features,
        attributes=gallery.attributes[rows],
        grids=None if gallery.grids is None else gallery.grids[rows],
        pictures=None,
    )


def grown_dialog(user: str, size: int, dialog: Dialog | None = None, max_turns: int = 5) -> Dialog:
    """Dialogs about N images.

    Args:
        user: "attribute" or "neural"; the latter is the data set's own captioner.
        size: N.
        dialog: what to grow, with that user; by default the built-in data, train split.
        max_turns: T.

    Raises:
        FileNotFoundError: the captioner was not trained yet.
    """
    small = dialog or make_dialog(user=user)
    gallery = grown(small.gallery, size)
    speaker: User = AttributeUser(gallery)
    if user == "neural":
        from user_simulator.captioner import NeuralUser

        assert isinstance(small.user, NeuralUser)
        speaker = NeuralUser(small.user.captioner, gallery)
    return Dialog(gallery, ExactIndex(gallery.features), speaker, small.vocabulary, max_turns)
