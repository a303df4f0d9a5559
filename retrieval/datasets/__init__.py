"""Readers of data sets: each module's `load(root, split)` gives (Gallery, [Triplet])."""

from retrieval.datasets import css

DATASETS = {"css": css.load}

__all__ = ["DATASETS", "css"]
