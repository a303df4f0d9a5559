"""TREC run and relevance files, and the table as CSV."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TextIO
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from agents.report.summary import Summary
from retrieval.files import atomic_write

PathLike = str | os.PathLike[str]
ENDS: tuple[Literal["low"], Literal["high"]] = ("low", "high")


def write_run(
    path: PathLike,
    name: str,
    query_ids: Sequence[int] | np.ndarray,
    candidates: np.ndarray,
    scores: np.ndarray,
    names: Sequence[str],
) -> None:
    """Write what an agent offered as a TREC run, so that others can score it again.

    Lines read `q17#t3 Q0 image rank score agent`. Scores strictly decrease also in float32,
    which trec_eval keeps: where they do not, the order of `candidates` decides and the score
    is lowered by a hair. White space and `%` in names are percent-encoded.

    Args:
        path: Where to write; gzip when it ends with `.gz`.
        name: The agent; becomes the tag.
        query_ids: A number for each dialog (E,).
        candidates: Gallery rows (E, T + 1, K), best first.
        scores: Their scores (E, T + 1, K).
        names: Names of the gallery's images.
    """
    if candidates.shape != scores.shape or len(query_ids) != len(candidates):
        raise ValueError(
            f"expected query_ids (E,), candidates and scores (E, T + 1, K), came "
            f"({len(query_ids)},), {candidates.shape} and {scores.shape}."
        )
    falling = _strictly_decreasing(scores)
    words = [_word(image) for image in names]
    tag = _word(name)
    with _open_text(path) as file:
        for e, query in enumerate(query_ids):
            for t in range(candidates.shape[1]):
                pairs = zip(candidates[e, t].tolist(), falling[e, t].tolist(), strict=True)
                file.writelines(
                    f"{_query_id(query, t)} Q0 {words[image]} {rank} {score:.9g} {tag}\n"
                    for rank, (image, score) in enumerate(pairs, start=1)
                )


def write_qrels(
    path: PathLike,
    targets: Sequence[int] | np.ndarray,
    names: Sequence[str],
    turns: int,
    query_ids: Sequence[int] | np.ndarray | None = None,
) -> None:
    """Write the targets as TREC qrels, one line per dialog and turn, to go with `write_run`.

    Args:
        path: Where to write; gzip when it ends with `.gz`.
        targets: Gallery rows of the targets (E,).
        names: Names of the gallery's images.
        turns: T; turns 0..T are written.
        query_ids: The numbers given to `write_run`; 0..E - 1 when absent.
    """
    numbers = range(len(targets)) if query_ids is None else query_ids
    with _open_text(path) as file:
        for query, target in zip(numbers, targets, strict=True):
            word = _word(names[int(target)])
            file.writelines(f"{_query_id(query, t)} 0 {word} 1\n" for t in range(turns + 1))


def write_csv(path: PathLike, summary: Summary) -> None:
    """Write one row per agent, turn and metric: agent, turn, metric, value, low, high.

    Args:
        path: Where to write.
        summary: From `summarise`. `low` and `high` stay empty for metrics without an interval,
            and so does what is not known.
    """
    with _open_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["agent", "turn", "metric", "value", "low", "high"])
        for name, metrics in summary["agents"].items():
            for metric, values in metrics.items():
                interval = summary["intervals"][name].get(metric)
                for turn, value in enumerate(values):
                    numbers = [value]
                    numbers += [interval[end][turn] if interval else math.nan for end in ENDS]
                    writer.writerow([name, turn, metric, *map(_known, numbers)])


def _known(value: float) -> float | str:
    """A number, or nothing where there is none."""
    return value if math.isfinite(value) else ""


def _query_id(query: int, turn: int) -> str:
    return f"q{int(query)}#t{turn}"


def _word(text: str) -> str:
    """One word, as TREC's columns are separated by white space; reversed by `unquote`."""
    return re.sub(r"[\s%]", lambda match: quote(match[0]), text)


def _strictly_decreasing(scores: np.ndarray) -> NDArray[np.float32]:
    """Scores (E, T + 1, K) in float32, lowered only where they would not fall."""
    if not np.isfinite(scores).all():
        raise ValueError("scores for a run file must be finite; some are NaN or infinite.")
    falling = scores.astype(np.float32)
    for k in range(1, falling.shape[-1]):
        before = falling[..., k - 1]
        below = before - np.float32(2**-22) * np.maximum(np.abs(before), np.float32(1))
        falling[..., k] = np.where(falling[..., k] < before, falling[..., k], below)
    return falling


@contextmanager
def _open_text(path: PathLike) -> Iterator[TextIO]:
    """A text file that appears once complete; gzip by suffix, with no clock in its bytes."""
    with atomic_write(path) as temporary, temporary.open("wb") as raw:
        if temporary.suffix == ".gz":
            with (
                gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
            ):
                yield file
        else:
            with io.TextIOWrapper(raw, encoding="utf-8", newline="") as file:
                yield file
