"""`benchmark --index`: the same dialogs through another engine."""

import json
from pathlib import Path

import pytest

from tests.command_line import do, refused

PLAY = (
    "--user", "attribute", "--pairs", 12, "--turns", 2, "--bootstrap", 20,
    "--agents", "image-only", "random",
)  # fmt: skip


def played(root: Path, out: Path, *more: object) -> tuple[dict, str]:
    outcome = do("benchmark", "--data-path", root, *PLAY, "--out", out, *more)
    return json.loads((out / "benchmark.json").read_text()), outcome.out


@pytest.mark.parametrize("engine", ["faiss", "milvus"])
def test_another_engine_plays_the_same_dialogs(tiny_root, tmp_path, engine):
    package = {"faiss": "faiss", "milvus": "milvus_lite"}[engine]
    pytest.importorskip(package, reason=f"{engine} is not installed: pip install '.[{engine}]'")
    uri = str(tmp_path / "gallery.db") if engine == "milvus" else "hnsw"
    exact, _ = played(tiny_root, tmp_path / "exact")
    other, table = played(tiny_root, tmp_path / "other", "--index", engine, "--index-uri", uri)
    assert other["agents"] == exact["agents"]  # 32 images: the list goes down to the last
    assert other["protocol"]["index"] == f"{engine} {uri}"
    assert ("rank beyond 500" in table) == (engine == "milvus")
    if engine == "milvus":
        assert other["beyond"]["image-only"] == [0, 0, 0]


def test_wrong_engines_are_told_before_anything_is_played(tiny_root, tmp_path):
    arguments = ("benchmark", "--data-path", tiny_root, *PLAY, "--out", tmp_path / "out")
    assert "Did you mean 'faiss'" in refused(*arguments, "--index", "fais")
    assert "needs an address" in refused(*arguments, "--index", "milvus")
    assert "Known: flat, hnsw, ivf, pq" in refused(
        *arguments, "--index", "faiss", "--index-uri", "tree"
    )
    assert not (tmp_path / "out" / "benchmark.json").exists()
