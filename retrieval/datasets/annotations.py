"""What readers of published annotation files share: reading them, and joining the pictures.

A reader first makes a split of names, queries and galleries from the annotations alone, so that
they can be counted without pictures; `with_pictures` then decodes, and leaves out what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.datasets.base import ComposedSplit, renumber
from retrieval.errors import unknown
from retrieval.pictures import load_pictures

WITHOUT_PICTURES = "queries without all their pictures"
"""The reason, in `ComposedSplit.skipped`, for queries that went with a picture left out."""


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not whole JSON.
    """
    return _parsed(path, _text(path))


def read_json_lines(path: Path) -> list[Any]:
    """What a file of one JSON value per line holds; empty lines do not count."""
    return [_parsed(path, line) for line in _text(path).splitlines() if line.strip()]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped; empty ones do not count."""
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def value_of(entry: Mapping[str, Any], field: str, source: Path) -> Any:
    """One field of an annotation.

    Raises:
        ValueError: the annotation lacks it.
    """
    if not isinstance(entry, Mapping) or field not in entry:
        came = ", ".join(entry) if isinstance(entry, Mapping) else repr(entry)
        raise ValueError(
            f"expected the field {field!r} in every annotation of {source}, got one with {came}; "
            "fetch the published file"
        )
    return entry[field]


def file_split(dataset: str, split: str, files: Mapping[str, str]) -> str:
    """How a data set's files spell a split of ours.

    Raises:
        ValueError: the data set has no such split.
    """
    if split not in files:
        raise unknown(f"split of {dataset}", split, files)
    return files[split]


def rows_of(names: Sequence[str], source: Path) -> Callable[[str], int]:
    """A function from an image's name to its row.

    Args:
        names: the images' names, each once.
        source: the file that lists them, for the message.

    Raises:
        ValueError: a name is listed twice; the function raises it where a name is not listed.
    """
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) != len(names):
        raise ValueError(f"{source} lists {len(names) - len(rows)} images twice; fetch it again")

    def row_of(name: str) -> int:
        if name not in rows:
            raise ValueError(
                f"expected the image {name!r} in {source}, where it is not listed; "
                "fetch annotations of one version"
            )
        return rows[name]

    return row_of


def with_pictures(
    split: ComposedSplit,
    root: Path,
    files: Sequence[str],
    size: int,
    fit: str = "crop",
    skip_missing: bool = False,
    row_facts: Sequence[str] = (),
) -> ComposedSplit:
    """A split with its pictures, less what is missing if that was asked for.

    Args:
        split: made from annotations alone.
        root: where the files lie.
        files: the picture of each image (N), relative to `root`.
        size: height and width of the pictures.
        fit: "crop" or "squash", see `retrieval.pictures`.
        skip_missing: leave out images without a picture, and queries that need one of them.
        row_facts: the facts of a query that are images too (lists of rows).

    Raises:
        FileNotFoundError: pictures are missing, and none may be.
        ValueError: pictures cannot be decoded, or no query is left.
    """
    label = f"{split.dataset}-{split.split}"
    pictures = load_pictures(root, files, size, fit, skip_missing, label=label)
    if not pictures.skipped:
        return replace(split, pictures=pictures.table)
    return _restricted(split, pictures.kept, pictures.table, pictures.skipped, row_facts)


def _restricted(
    split: ComposedSplit,
    kept: np.ndarray,
    table: np.ndarray,
    skipped: Mapping[str, int],
    row_facts: Sequence[str],
) -> ComposedSplit:
    rows = np.full(len(split), -1, dtype=np.int64)  # (N), old row to new
    rows[kept] = np.arange(len(kept))
    queries, positions = renumber(split.queries, kept, len(split))
    facts = [_moved(split.facts[at], rows, row_facts) if split.facts else {} for at in positions]
    whole = [at for at, fact in enumerate(facts) if all(min(fact[k]) >= 0 for k in row_facts)]
    if split.queries and not whole:
        raise ValueError(
            f"none of the {len(split.queries)} queries of {split.dataset} {split.split} has all "
            "its pictures; fetch more of them"
        )
    lost = len(split.queries) - len(whole)
    galleries = {name: rows[members] for name, members in split.galleries.items()}
    return replace(
        split,
        names=tuple(split.names[row] for row in kept),
        labels=tuple(split.labels[row] for row in kept),
        pictures=table,
        queries=tuple(queries[at] for at in whole),
        facts=tuple(facts[at] for at in whole) if split.facts else (),
        galleries={name: members[members >= 0] for name, members in galleries.items()},
        skipped={**split.skipped, **skipped, **({WITHOUT_PICTURES: lost} if lost else {})},
    )


def _moved(fact: Mapping[str, Any], rows: np.ndarray, row_facts: Sequence[str]) -> dict[str, Any]:
    moved = {name: tuple(int(rows[row]) for row in fact[name]) for name in row_facts}
    return {**fact, **moved}


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the annotations {path.name} in {path.parent}, where they are missing; "
            "fetch the data set's annotation files"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); fetch it again") from error


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not whole JSON ({error}); fetch it again") from error
