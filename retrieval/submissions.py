"""The files that the CIRR test server scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from retrieval.datasets.base import ComposedSplit
from retrieval.evaluation import Case
from retrieval.files import atomic_write
from retrieval.ranking import rank_members, top_images

SUBMISSION_BYTES = 5_000_000
"""What the server takes at most."""


def cirr_submissions(
    split: ComposedSplit, queries: np.ndarray, gallery: np.ndarray
) -> dict[str, dict[str, str | list[str]]]:
    """The two dictionaries that the CIRR server scores, under "recall" and "recall_subset".

    Each maps a pair id to names, best first: 50 of the whole gallery, or 3 of the image set;
    never the reference.

    Raises:
        ValueError: not a CIRR split, vectors that do not fit it, or pictures were left out (the
            server asks for every query).
    """
    case = Case(split, queries, gallery, "cirr")
    members = case.image_sets()
    if split.skipped:
        raise ValueError(
            "a submission needs every image and every query, but some were left out "
            f"({', '.join(split.skipped)}); fetch the missing pictures"
        )
    ranked = {
        "recall": top_images(queries, gallery, 50, excluded=case.references),
        "recall_subset": rank_members(queries, gallery, members, case.references)[:, :3],
    }
    submissions: dict[str, dict[str, str | list[str]]] = {}
    for metric, top in ranked.items():
        submissions[metric] = {"version": "rc2", "metric": metric}
        for fact, rows in zip(split.facts, top, strict=True):
            names = [split.names[row] for row in rows if row >= 0]
            submissions[metric][str(fact["pairid"])] = names
    return submissions


def write_submissions(
    folder: Path, submissions: Mapping[str, dict[str, str | list[str]]]
) -> list[Path]:
    """Write `cirr_{metric}.json` for each dictionary of `cirr_submissions`.

    Raises:
        ValueError: a file would be larger than the server takes.
    """
    paths = []
    for metric, submission in submissions.items():
        text = json.dumps(submission, separators=(",", ":"))
        if len(text) > SUBMISSION_BYTES:
            raise ValueError(
                f"the {metric} submission has {len(text)} bytes, but the server takes at most "
                f"{SUBMISSION_BYTES}; submit one split at a time"
            )
        path = folder / f"cirr_{metric}.json"
        with atomic_write(path) as temporary:
            temporary.write_text(text)
        paths.append(path)
    return paths
