"""Part of a training split set aside, to choose a model without looking at the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from retrieval.datasets.base import ComposedSplit, Sampler
from retrieval.gallery import Triplet


def hold_out(
    split: ComposedSplit, share: float, seed: int = 0
) -> tuple[ComposedSplit, ComposedSplit]:
    """A split without some of its images, and the queries that ask for those.

    Both parts keep the table of images, so the held-out targets are searched among all of them;
    but no query to train on, listed or sampled, ever shows a held-out image. Images that
    queries connect are held out together where such groups are small (CSS: a scene and its
    edits); else single images are, and queries that refer to one but ask for another are in
    neither part.

    Args:
        split: with a list of queries.
        share: of the queries to validate on, between 0 and 1, met about.
        seed: fixes the choice.

    Returns:
        What is left to train on, and what to validate on (without `sample`).

    Raises:
        ValueError: there is no list of queries, or the share leaves one part empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected a validation share between 0 and 1, got {share}")
    if not split.queries:
        raise ValueError(
            f"{split.dataset} ({split.split}) has no list of queries to hold some out of; "
            "train with --validation_share 0"
        )
    wanted = max(1, round(share * len(split.queries)))
    rng = np.random.default_rng(seed)
    groups = _groups(split.queries, len(split))
    by_group = np.bincount(groups[[query.target for query in split.queries]], minlength=len(split))
    if by_group.max() > wanted:  # everything hangs together
        groups = np.arange(len(split))
        by_group = np.bincount([query.target for query in split.queries], minlength=len(split))
    order = rng.permutation(np.flatnonzero(by_group))
    chosen = order[: np.searchsorted(np.cumsum(by_group[order]), wanted) + 1]
    is_held = np.isin(groups, chosen)  # (N,)

    kept = [row for row, query in enumerate(split.queries) if not _touches(query, is_held)]
    held = [row for row, query in enumerate(split.queries) if is_held[query.target]]
    if not kept:
        raise ValueError(
            f"holding out {share} of {len(split.queries)} queries of {split.dataset} leaves none "
            "to train on; lower --validation_share"
        )
    left = _with_queries(split, kept)
    if split.sample is not None:
        left = replace(left, sample=_without(split.sample, is_held))
    return left, replace(_with_queries(split, held), sample=None)


def fewer(split: ComposedSplit, count: int, seed: int = 0) -> ComposedSplit:
    """A split with that many of its queries, drawn at random, and no rule to draw others.

    Raises:
        ValueError: it has no list of queries, or not as many.
    """
    if not 0 < count <= len(split.queries):
        raise ValueError(
            f"expected train_queries between 1 and the {len(split.queries)} queries of "
            f"{split.dataset} ({split.split}), got {count}"
        )
    rows = np.sort(np.random.default_rng(seed).permutation(len(split.queries))[:count])
    return replace(_with_queries(split, rows.tolist()), sample=None)


def _with_queries(split: ComposedSplit, rows: Sequence[int]) -> ComposedSplit:
    queries = tuple(split.queries[row] for row in rows)
    facts = tuple(split.facts[row] for row in rows) if split.facts else ()
    return replace(split, queries=queries, facts=facts)


def _touches(query: Triplet, is_held: np.ndarray) -> bool:
    return bool(is_held[query.reference] or is_held[query.target])


def _without(sample: Sampler, is_held: np.ndarray) -> Sampler:
    """A rule that draws again until enough triplets without a held-out image are found."""

    def draw(rng: np.random.Generator, count: int) -> list[Triplet]:
        drawn: list[Triplet] = []
        while len(drawn) < count:
            drawn += [triplet for triplet in sample(rng, count) if not _touches(triplet, is_held)]
        return drawn[:count]

    return draw


def _groups(queries: Sequence[Triplet], images: int) -> np.ndarray:
    """For each image (N) the number of its group: images that queries connect share one."""
    leader = list(range(images))

    def find(image: int) -> int:
        while leader[image] != image:
            leader[image] = leader[leader[image]]
            image = leader[image]
        return image

    for query in queries:
        leader[find(query.target)] = find(query.reference)
    return np.array([find(image) for image in range(images)], dtype=np.int64)
