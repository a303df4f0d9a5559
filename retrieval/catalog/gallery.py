"""A gallery of products that knows how they are spoken of."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.catalog.language import Language
from retrieval.gallery import Gallery

KIND = "catalog"


@dataclass(frozen=True)
class CatalogGallery(Gallery):
    """Products as images; `attributes` are their codes (see `Language`).

    Args:
        language: how the codes are said and understood.

    Raises:
        ValueError: as for a gallery, or codes or language are missing.
    """

    language: Language | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language is None or self.attributes is None:
            raise ValueError("a gallery of products needs its codes and their language")

    @property
    def spoken(self) -> Language:
        """The language, which is always there."""
        assert self.language is not None
        return self.language
