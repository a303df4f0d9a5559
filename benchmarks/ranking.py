"""Exact ranks and top 100 against the bare matrix product and against sorting query by query.

    OMP_NUM_THREADS=1 python -m benchmarks.ranking

The size is that of Fashion200k's test: 33,480 queries, 29,789 images, 512 numbers. The floor is
the same product in chunks of 512 queries into one array, with nothing done about it. All are
interleaved chunk by chunk in one process, and the median of the chunks' ratios counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.measuring import OUT, RESIDENT, in_child, interleaved, median, ratio, table, write
from retrieval.index import ExactIndex


@dataclass(frozen=True)
class Args:
    """What to rank."""

    queries: int = 33_480
    """Queries."""
    images: int = 29_789
    """Images (N)."""
    dim: int = 512
    """Numbers of a vector (D)."""
    top: int = 100
    """Images named per query (K)."""
    chunk: int = 512
    """Queries of one product."""
    sorted_queries: int = 8
    """Queries per chunk that are sorted one by one; sorting them all would take an hour."""
    out: Path = OUT
    """Receives ranking.json and ranking.md."""


MEMORY = (
    RESIDENT
    + """
import numpy as np
from benchmarks.ranking import unit_rows
from retrieval.index import ExactIndex
queries, images, dim, top = map(int, sys.argv[1:5])
gallery, asked = unit_rows(images, dim, 0), unit_rows(queries, dim, 1)
target = np.random.default_rng(2).integers(images, size=queries)
before = begin()
found = ExactIndex(gallery).look_up(asked, target, top)
results = sum(array.nbytes for array in found) / 2**20
print(json.dumps({"beyond_inputs_mb": peak() - before, "results_mb": results}))
"""
)


def unit_rows(count: int, dim: int, seed: int) -> np.ndarray:
    """Random unit-norm rows (count, dim), made without a second table."""
    rows = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    rows /= np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return rows


def by_sorting(gallery: np.ndarray, asked: np.ndarray, target: np.ndarray, top: int) -> Any:
    """The straightforward way: for each query, sort all images and look where the target is."""
    found = []
    for query, image in zip(asked, target, strict=True):
        order = np.argsort(-(gallery @ query))
        found.append((int(np.flatnonzero(order == image)[0]), order[:top]))
    return found


def compare(args: Args) -> dict[str, Any]:
    """Seconds of the product, of the index and of sorting, per chunk of queries."""
    gallery, asked = unit_rows(args.images, args.dim, 0), unit_rows(args.queries, args.dim, 1)
    target = np.random.default_rng(2).integers(args.images, size=args.queries)
    index = ExactIndex(gallery)
    scores = np.empty((args.chunk, args.images), np.float32)
    seconds: dict[str, list[float]] = {}
    for start in range(0, args.queries - args.chunk + 1, args.chunk):
        part = slice(start, start + args.chunk)
        few = slice(start, start + args.sorted_queries)
        jobs = {
            "product": partial(np.matmul, asked[part], gallery.T, out=scores),
            "ranks_and_top": partial(index.search_and_rank, asked[part], target[part], args.top),
            "with_scores": partial(index.look_up, asked[part], target[part], args.top),
            "ranks": partial(index.rank, asked[part], target[part]),
            "sorting": partial(by_sorting, gallery, asked[few], target[few], args.top),
        }
        for name, times in interleaved(jobs, 1, warm_up=1 if start == 0 else 0).items():
            seconds.setdefault(name, []).extend(times)
    more = args.chunk / args.sorted_queries
    seconds["sorting"] = [time * more for time in seconds["sorting"]]
    return {
        "seconds_per_chunk": {name: median(times) for name, times in seconds.items()},
        "ranks_and_top_over_product": ratio(seconds, "ranks_and_top", "product"),
        "with_scores_over_product": ratio(seconds, "with_scores", "product"),
        "ranks_over_product": ratio(seconds, "ranks", "product"),
        "sorting_over_ranks_and_top": ratio(seconds, "sorting", "ranks_and_top"),
        "gflops_of_product": 2e-9 * args.chunk * args.images * args.dim
        / median(seconds["product"]),
    }  # fmt: skip


def main() -> None:
    """Measure, print and keep."""
    args = tyro.cli(Args, description=__doc__)
    found = compare(args)
    found |= in_child(MEMORY, args.queries, args.images, args.dim, args.top)
    rows = [
        ("exact ranks and top 100 over the bare product", found["ranks_and_top_over_product"],
         "at most 1.5"),
        ("the same with the 100 scores", found["with_scores_over_product"], ""),
        ("exact ranks alone over the bare product", found["ranks_over_product"], ""),
        ("sorting query by query over ranks and top 100", found["sorting_over_ranks_and_top"],
         "at least 10"),
        ("memory beyond the inputs, MB", found["beyond_inputs_mb"], "at most 500"),
        ("of it the results, MB", found["results_mb"], ""),
        ("the product, GFLOP/s", found["gflops_of_product"], ""),
    ]  # fmt: skip
    text = (
        f"{args.queries:,} queries against {args.images:,} images of {args.dim} numbers, chunks of "
        f"{args.chunk} queries, medians over chunks.\n\n"
        + table(rows, ("what", "measured", "to reach"))
    )
    write("ranking", "Ranking", found, text, args.out)


if __name__ == "__main__":
    main()
