"""Milvus for real: embedded on a file, and over gRPC against a server in its own process."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retrieval.index import ExactIndex
from retrieval.indexes.milvus import MilvusIndex, publish, ranks_in_lists
from retrieval.indexes.milvus_versions import connect, current_version, versions
from retrieval.metrics import BEYOND, rank_of

N, D, B = 240, 8, 12


@pytest.fixture
def embeddings() -> np.ndarray:
    """Small integers: arithmetic is exact in every engine, and many images tie."""
    return np.random.default_rng(0).integers(-2, 3, (N, D)).astype(np.float32)


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(1).integers(-3, 4, (B, D)).astype(np.float32)


@pytest.fixture(scope="module", params=["a file", "a server"])
def uri(request, tmp_path_factory) -> Iterator[str]:
    """Where Milvus is: both are the engine of Milvus Lite, one of them in its own process."""
    pytest.importorskip("pymilvus", reason="pymilvus is not installed: pip install '.[milvus]'")
    pytest.importorskip("milvus_lite", reason="milvus-lite is missing: pip install '.[milvus]'")
    folder = tmp_path_factory.mktemp("milvus")
    if request.param == "a file":
        yield str(folder / "gallery.db")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-c", "from milvus_lite.cmdline import main; main()",
        "server", "--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(port: int, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server ended"
        with socket.socket() as door:
            if door.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("the server does not answer")


def test_candidates_scores_and_ranks_are_exact(uri, embeddings, queries):
    publish(uri, "exact", embeddings)
    index = MilvusIndex(uri, "exact")
    whole = ExactIndex(embeddings)
    target = np.random.default_rng(2).integers(N, size=B)
    assert (index.size, index.dim) == (N, D)
    for ties in ("half", "optimistic"):
        index.ties = whole.ties = ties
        found, wanted = index.look_up(queries, target, 5), whole.look_up(queries, target, 5)
        np.testing.assert_array_equal(found.candidates, wanted.candidates)
        np.testing.assert_array_equal(found.scores, wanted.scores)
        np.testing.assert_array_equal(found.rank, wanted.rank)
        np.testing.assert_array_equal(index.rank(queries, target), wanted.rank)
    twice = np.array([7, 3, 7, 239])
    np.testing.assert_array_equal(index.query_of(twice), embeddings[twice])
    index.close()


def test_ranks_end_at_the_depth(uri, embeddings, queries):
    publish(uri, "deep", embeddings)
    index = MilvusIndex(uri, "deep", depth=20)
    target = np.arange(B) * 20
    true = ExactIndex(embeddings).rank(queries, target)
    told = index.rank(queries, target)
    known = told != BEYOND
    np.testing.assert_array_equal(told[known], true[known])
    assert (true[~known] >= index.depth).all()
    assert known.any() and not known.all()
    few = ExactIndex(embeddings).search(queries, 3)
    np.testing.assert_array_equal(index.search(queries, 3), few)  # ties at the cut too
    index.close()


def test_an_approximate_index_tells_no_rank(uri, embeddings, queries):
    publish(uri, "graph", embeddings, "HNSW", {"M": 8, "efConstruction": 64})
    index = MilvusIndex(uri, "graph")
    assert index.depth == 0
    found = index.look_up(queries, np.zeros(B, np.int64), 3)
    assert (found.rank == BEYOND).all()
    best = ExactIndex(embeddings).look_up(queries, np.zeros(B, np.int64), 1).scores
    assert (found.scores[:, :1] <= best).all() and (found.scores[:, :1] == best).mean() > 0.5
    index.close()


def test_a_reader_never_sees_half_a_version(uri):
    """Version v's row i is v times the unit vector of i: an answer betrays what it was made of."""
    count = 40
    publish(uri, "moving", np.eye(count, dtype=np.float32))
    seen, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            index = MilvusIndex(uri, "moving")
            scores = index.look_up(np.eye(count, dtype=np.float32), np.arange(count)).scores
            seen.append((index.size, set(scores[:, 0].tolist())))
            index.close()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for version in (2, 3):
            publish(uri, "moving", version * np.eye(count, dtype=np.float32))
            reads = len(seen)
            while len(seen) < reads + 2 and reader.is_alive():  # it reads on, and goes over
                time.sleep(0.01)
    finally:
        stop.set()
        reader.join()
    assert all(size == count and len(scores) == 1 for size, scores in seen), seen
    order = [scores.pop() for _, scores in seen]
    assert order == sorted(order) and order[-1] == 3


def test_a_reader_keeps_its_version_and_old_ones_go(uri, embeddings, queries):
    publish(uri, "kept", embeddings)
    before = MilvusIndex(uri, "kept")
    wanted = before.search(queries, 4)
    publish(uri, "kept", -embeddings)
    np.testing.assert_array_equal(before.search(queries, 4), wanted)
    after = MilvusIndex(uri, "kept")
    assert (before.version, after.version) == ("kept_v1", "kept_v2")
    np.testing.assert_array_equal(
        after.search(queries, 4), ExactIndex(-embeddings).search(queries, 4)
    )
    publish(uri, "kept", embeddings)  # now there are two newer ones
    client = connect(uri)
    assert versions(client, "kept") == ["kept_v2", "kept_v3"]
    with pytest.raises(OSError, match="Milvus says"):
        before.search(queries, 4)
    client.close()


def test_a_writer_that_stops_changes_nothing(uri, embeddings, queries, monkeypatch):
    publish(uri, "halted", embeddings)
    monkeypatch.setattr("retrieval.indexes.milvus_versions.BYTES_AT_ONCE", 4 * D * 50)

    def stop(rows: int) -> None:
        if rows >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(uri, "halted", -embeddings, progress=stop)
    client = connect(uri)
    assert current_version(client, "halted") == "halted_v1"
    assert versions(client, "halted") == ["halted_v1", "halted_v2"]  # half of it
    index = MilvusIndex(uri, "halted")
    np.testing.assert_array_equal(
        index.search(queries, 3), ExactIndex(embeddings).search(queries, 3)
    )
    rows: list[int] = []
    publish(uri, "halted", -embeddings, progress=rows.append)
    assert rows[-1] == N and len(rows) > 1
    assert MilvusIndex(uri, "halted").size == N
    np.testing.assert_array_equal(
        MilvusIndex(uri, "halted").search(queries, 3), ExactIndex(-embeddings).search(queries, 3)
    )
    client.close()


def test_mistakes_are_told(uri, embeddings, queries):
    with pytest.raises(ValueError, match="publish it first"):
        MilvusIndex(uri, "nothing")
    with pytest.raises(ValueError, match="letters, digits"):
        publish(uri, "rl-19", embeddings)
    with pytest.raises(ValueError, match="not finite"):
        publish(uri, "broken", embeddings * np.nan)
    with pytest.raises(ValueError, match="depth=9000"):
        MilvusIndex(uri, "nothing", depth=9000)
    publish(uri, "small", embeddings)
    index = MilvusIndex(uri, "small")
    with pytest.raises(ValueError, match=r"expected queries \(B, 8\)"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(ValueError, match="not finite"):
        index.search(queries * np.nan, 1)


def test_an_address_is_a_file_or_a_server(tmp_path: Path):
    pytest.importorskip("pymilvus", reason="pymilvus is not installed: pip install '.[milvus]'")
    with pytest.raises(ValueError, match=r"a file ending in \.db"):
        connect(str(tmp_path / "folder"))
    with pytest.raises(OSError, match="Milvus says"):
        connect("http://127.0.0.1:9")


@pytest.mark.parametrize("length", [1, 5, 12, 30])
@pytest.mark.parametrize("ties", ["half", "optimistic"])
def test_ranks_in_lists_are_true_or_beyond_half_the_list(length, ties):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, (200, 30)).astype(np.float32)
    target = rng.integers(30, size=200)
    images = np.argsort(-scores, axis=1, kind="stable")[:, :length]
    told = ranks_in_lists(images, np.take_along_axis(scores, images, axis=1), target, 30, ties)
    true = rank_of(scores, target, ties)
    known = told != BEYOND
    np.testing.assert_array_equal(told[known], true[known])
    if ties == "half":
        assert (true[~known] >= (length - 1) / 2).all()
    assert known.all() == (length == 30)
