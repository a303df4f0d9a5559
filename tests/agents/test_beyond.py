"""Ranks beyond an index's depth, from the index to the table."""

import csv
import json

import numpy as np
import pytest

from agents.baselines import ImageOnlyAgent, RandomAgent
from agents.report import compare, format_table, plot, summarise, without_nan, write_csv
from agents.searching import gallery_name, search_with
from retrieval.index import ExactIndex, ScoreIndex
from retrieval.metrics import BEYOND

DEPTH = 50


@pytest.fixture
def tables() -> dict[str, np.ndarray]:
    """Ranks (E, T + 1): `listed` is known from turn 1 on, `known` always."""
    rng = np.random.default_rng(0)
    known = rng.integers(0, 40, (30, 3)).astype(float)
    listed = known.copy()
    listed[:6, 0] = BEYOND
    return {"known": known, "listed": listed}


def summary_of(tables):
    return summarise(tables, 100, rng=np.random.default_rng(1), bootstrap=50, depth=DEPTH)


def test_what_is_known_is_as_without_and_the_rest_is_blank(tables):
    summary = summary_of(tables)
    assert summary["depth"] == DEPTH
    assert summary["beyond"] == {"known": [0, 0, 0], "listed": [0.2, 0, 0]}
    known, listed = summary["agents"]["known"], summary["agents"]["listed"]
    assert all(np.isfinite(values).all() for values in known.values())
    for metric in ("percentile", "mrr"):
        assert np.isnan(listed[metric][0]) and listed[metric][1:] == known[metric][1:]
    assert listed["recall@5"][0] == (tables["listed"][:, 0] < 5).mean()
    assert np.isnan(summary["intervals"]["listed"]["percentile"]["low"][0])
    assert np.isfinite(summary["intervals"]["listed"]["recall@1"]["low"]).all()


def test_what_is_not_known_is_not_compared(tables):
    rows = compare(
        tables, 100, rng=np.random.default_rng(1), bootstrap=50, randomisations=50, depth=DEPTH
    )
    found = {(row["metric"], row["turn"]) for row in rows}
    assert ("percentile", 0) not in found and ("mrr", 0) not in found
    assert {("percentile", 1), ("percentile", 2), ("recall@10", 0)} <= found
    assert all(np.isfinite([row["difference"], row["p"], row["p_holm"]]).all() for row in rows)


def test_infinite_ranks_need_a_depth(tables):
    with pytest.raises(ValueError, match="must lie in"):
        summarise(tables, 100, rng=np.random.default_rng(1), bootstrap=5)


def test_the_table_shows_the_share_and_dashes(tables, tmp_path):
    summary = summary_of(tables)
    text = format_table(summary)
    lines = text.splitlines()
    assert "rank beyond 50 (share of dialogs" in text and "nan" not in text
    assert "  listed  0.200  0.000  0.000" in lines
    blocks = [line.split() for line in lines if line.startswith("  listed")]
    assert blocks[0][1] == "-" and "-" not in blocks[1]  # the percentile, and Recall@1
    plot(tmp_path / "plot.png", summary)
    write_csv(tmp_path / "table.csv", summary)
    with open(tmp_path / "table.csv") as file:
        rows = {(r["agent"], r["metric"], r["turn"]): r for r in csv.DictReader(file)}
    assert rows["listed", "percentile", "0"]["value"] == ""
    assert rows["listed", "percentile", "1"]["value"] != ""
    told = json.loads(json.dumps(without_nan(summary), allow_nan=False))
    assert told["agents"]["listed"]["percentile"][0] is None


def test_agents_that_search_get_another_index(tiny_gallery):
    pytest.importorskip("faiss", reason="Faiss is not installed: pip install '.[faiss]'")
    from retrieval.indexes.faiss import FaissIndex

    agents = {
        "image": ImageOnlyAgent(tiny_gallery),
        "random": RandomAgent(len(tiny_gallery), np.random.default_rng(0)),
    }
    depth = search_with(agents, tiny_gallery.features, "faiss", "flat", "optimistic")
    assert depth is None  # it counts
    index = agents["image"].index
    assert isinstance(index, FaissIndex) and index.ties == "optimistic"
    assert isinstance(agents["random"].index, ScoreIndex)
    query = tiny_gallery.features[:5]
    same = ExactIndex(tiny_gallery.features)
    np.testing.assert_array_equal(index.search(query, 4), same.search(query, 4))
    assert gallery_name("rl 19.best") == "dialog_rl_19_best"
