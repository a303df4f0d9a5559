"""Composition models: one query from a reference and a caption. One model per file."""

from retrieval.composers.base import Composer
from retrieval.composers.concat import Concat
from retrieval.composers.image_only import ImageOnly
from retrieval.composers.text_only import TextOnly
from retrieval.composers.tirg import TIRG

COMPOSERS: dict[str, type[Composer]] = {
    "concat": Concat,
    "image_only": ImageOnly,
    "text_only": TextOnly,
    "tirg": TIRG,
}

__all__ = ["COMPOSERS", "Composer", "Concat", "ImageOnly", "TIRG", "TextOnly"]
