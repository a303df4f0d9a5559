"""What each index costs to build and to ask, and what it finds: python -m benchmarks.engines

Vectors come in clusters, as embeddings do (on plain random vectors every approximate index looks
worse than it is). Engines whose package is not installed are left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.measuring import OUT, interleaved, median, table, write
from retrieval.index import ExactIndex, Index


@dataclass(frozen=True)
class Args:
    """What to build."""

    images: int = 20_000
    """Images (N)."""
    dim: int = 256
    """Numbers of a vector (D)."""
    queries: int = 64
    """Queries asked together."""
    repeats: int = 5
    """Interleaved repeats; the median counts."""
    out: Path = OUT
    """Receives engines.json and engines.md."""


def clustered(count: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Unit-norm rows (count, dim) around count / 50 centres."""
    centres = rng.standard_normal((max(1, count // 50), dim), dtype=np.float32)
    rows = centres[rng.integers(len(centres), size=count)]
    rows += 0.7 * rng.standard_normal((count, dim), dtype=np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def builders(folder: Path) -> dict[str, Callable[[np.ndarray], Index]]:
    """How to make each index."""
    from retrieval.indexes.faiss import RECIPES, FaissIndex
    from retrieval.indexes.milvus import MilvusIndex, publish

    def milvus(vectors: np.ndarray) -> Index:
        uri = str(folder / "bench.db")
        publish(uri, "bench", vectors)
        return MilvusIndex(uri, "bench", depth=50)

    made: dict[str, Callable[[np.ndarray], Index]] = {
        "exact, numpy": ExactIndex,
        "exact, torch": lambda vectors: ExactIndex(vectors, engine="torch"),
    }
    for kind in RECIPES:
        made[f"faiss {kind}"] = lambda vectors, kind=kind: FaissIndex(vectors, kind, counted=False)
    return {**made, "milvus lite, FLAT": milvus}


def main() -> None:
    """Measure, print and keep."""
    args = tyro.cli(Args, description=__doc__)
    rng = np.random.default_rng(0)
    vectors = clustered(args.images, args.dim, rng)
    near = vectors[rng.integers(args.images, size=args.queries)]
    asked = near + 0.02 * rng.standard_normal(near.shape, dtype=np.float32)
    indexes: dict[str, Index] = {}
    lines: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, build in builders(Path(folder)).items():
            begin = time.perf_counter()
            try:
                indexes[name] = build(vectors)
            except ImportError as error:
                print(f"{name} is left out: {error}")
                continue
            lines[name] = {"build": time.perf_counter() - begin}
        true = indexes["exact, numpy"].search(asked, 10)
        jobs = {name: partial(index.search, asked, 10) for name, index in indexes.items()}
        seconds = interleaved(jobs, args.repeats)
        for name, index in indexes.items():
            found = index.search(asked, 10)
            hits = (found[:, :, None] == true[:, None]).any(axis=1)  # (B, 10)
            lines[name] |= {
                "per_query": median(seconds[name]) / args.queries,
                "recall@10": float(hits.mean()),
            }
    rows = [
        (name, line["build"], 1e3 * line["per_query"], line["recall@10"])
        for name, line in lines.items()
    ]
    head = ("index", "build s", f"ms per query, {args.queries} at once", "of the true 10 best")
    text = f"{args.images:,} clustered vectors of {args.dim} numbers.\n\n{table(rows, head)}"
    write("engines", "Engines", {"lines": lines}, text, args.out)


if __name__ == "__main__":
    main()
