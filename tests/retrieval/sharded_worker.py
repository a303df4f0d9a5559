"""One rank of a sharded gallery: python sharded_worker.py RANK RANKS FOLDER

Reads `gallery.npy`, `queries.npy` and `targets.npy` from the folder, keeps its own shard, asks its
own part of the queries, and writes the answers to `RANK.npz`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from retrieval.indexes.sharded import ShardedIndex, shard_of


def answers(index: ShardedIndex, query: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    found = index.look_up(query, target, 10)
    index.ties = "optimistic"
    optimistic = index.rank(query, target)
    index.ties = "half"
    return {
        "candidates": found.candidates,
        "scores": found.scores,
        "rank": found.rank,
        "optimistic": optimistic,
        "search": index.search(query, 3),
        "everything": index.search(query, 10_000),
        "own": index.query_of(target),
        "nobody": index.search(query[:0], 2),
    }


def main() -> None:
    rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks
    )
    gallery = np.load(folder / "gallery.npy", mmap_mode="r")
    queries, targets = np.load(folder / "queries.npy"), np.load(folder / "targets.npy")
    engine = ("numpy", "torch")[rank % 2]  # it makes no difference
    index = ShardedIndex(gallery[shard_of(len(gallery), rank, ranks)], engine=engine)
    mine = slice(0, 0) if rank == 1 else shard_of(len(queries), rank, ranks)  # rank 1 only serves
    asked = answers(index, queries[mine], targets[mine])
    np.savez(folder / f"{rank}.npz", size=index.size, first=mine.start, **asked)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
