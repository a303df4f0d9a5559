"""Shards on the ranks of real process groups, against the exact index over the whole gallery."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval.index import ExactIndex
from retrieval.indexes.sharded import ShardedIndex, shard_of

WORKER = Path(__file__).with_name("sharded_worker.py")
ROOT = Path(__file__).parents[2]
N, B, D = 331, 24, 48


def make_gallery() -> np.ndarray:
    """Plain rows, and rows that tie across shards: copies, zeros and one-hot scenes."""
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(N, D))
    gallery[200:260] = gallery[20:80]
    gallery[[5, 100, 330]] = 0
    gallery[80:140] = gallery[260:320] = rng.integers(0, 2, (60, D)) / 3
    return gallery.astype(np.float32)


def play(folder: Path, ranks: int) -> list[dict[str, np.ndarray]]:
    """What every rank answered."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(ranks), str(folder)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        for process in processes:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_answer_bit_for_bit_as_one_index(tmp_path, ranks):
    gallery = make_gallery()
    rng = np.random.default_rng(1)
    targets = rng.integers(N, size=B)
    targets[:6] = [210, 30, 5, 85, 265, 330]
    queries = gallery[rng.integers(N, size=B)]
    queries[::2] += rng.normal(size=queries[::2].shape).astype(np.float32)
    for name, array in (("gallery", gallery), ("queries", queries), ("targets", targets)):
        np.save(tmp_path / f"{name}.npy", array)

    whole = ExactIndex(gallery)
    asked = 0
    for rank, answer in enumerate(play(tmp_path, ranks)):
        mine = slice(0, 0) if rank == 1 else shard_of(B, rank, ranks)
        query, target = queries[mine], targets[mine]
        found = whole.look_up(query, target, 10)
        np.testing.assert_array_equal(answer["candidates"], found.candidates)
        assert answer["scores"].tobytes() == found.scores.tobytes()
        assert answer["rank"].tobytes() == found.rank.tobytes()
        optimistic = ExactIndex(gallery, "optimistic").rank(query, target)
        np.testing.assert_array_equal(answer["optimistic"], optimistic)
        np.testing.assert_array_equal(answer["search"], found.candidates[:, :3])
        np.testing.assert_array_equal(answer["everything"], whole.search(query, N))
        np.testing.assert_array_equal(answer["own"], gallery[target])
        assert answer["nobody"].shape == (0, 2) and answer["size"] == N
        assert len(answer["rank"]) == len(target)
        asked += len(target)
    assert asked >= B / 2  # the others' ranks were asked while one only served


@pytest.mark.parametrize(("size", "ranks"), [(7, 3), (2, 4), (100, 1), (0, 2)])
def test_shards_are_runs_that_cover_the_gallery(size, ranks):
    shards = [range(size)[shard_of(size, rank, ranks)] for rank in range(ranks)]
    assert [image for shard in shards for image in shard] == list(range(size))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_without_a_process_group_the_remedy_is_told():
    with pytest.raises(RuntimeError, match="init_process_group"):
        ShardedIndex(np.eye(3, dtype=np.float32))
