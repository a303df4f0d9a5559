"""A user who names only the most striking difference."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from retrieval.catalog.captions import striking_product_caption
from retrieval.catalog.gallery import KIND
from retrieval.rendering.captions import striking_captions
from user_simulator.attributes import AttributeUser, MakeSpeaker, catalog_speaker, css_speaker


class StrikingUser(AttributeUser):
    """Tells the truth, but of a pair of images always the same, the most striking difference.

    Only the wording varies: who shows an image again learns nothing new about the target.

    Args:
        gallery: as for `AttributeUser`.

    Raises:
        ValueError: as for `AttributeUser`.
    """

    speakers: Mapping[str, MakeSpeaker] = {
        "css-3d": partial(css_speaker, look="3d", say=striking_captions),
        "css-2d": partial(css_speaker, look="2d", say=striking_captions),
        KIND: partial(catalog_speaker, say=striking_product_caption),
    }
