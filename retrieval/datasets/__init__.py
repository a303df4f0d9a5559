"""Readers of data sets, by name.

`DATASETS[name](root, split)` gives (Gallery, [Triplet]), for dialogs;
`COMPOSED[name](root, split)` gives a `ComposedSplit`, for single queries.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from retrieval.datasets import (
    catalog,
    cirr,
    css,
    fashion200k,
    fashion_iq,
    mit_states,
    shoes,
    youmakeup,
)
from retrieval.datasets.base import ComposedSplit

DATASETS: dict[str, Callable[..., Any]] = {"css": css.load, "catalog": catalog.load}

COMPOSED: dict[str, Callable[..., ComposedSplit]] = {
    "css3d": css.load_composed,
    "css2d": partial(css.load_composed, look="2d"),
    "mitstates": mit_states.load_composed,
    "fashion200k": fashion200k.load_composed,
    "fashion_iq": fashion_iq.load_composed,
    "fashionIQ": fashion_iq.load_composed,
    "cirr": cirr.load_composed,
    "shoes": shoes.load_composed,
    "youmakeup": youmakeup.load_composed,
    "catalog": catalog.load_composed,
}

__all__ = [
    "COMPOSED",
    "DATASETS",
    "catalog",
    "cirr",
    "css",
    "fashion200k",
    "fashion_iq",
    "mit_states",
    "shoes",
    "youmakeup",
]
