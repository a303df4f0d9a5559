"""The report against slow loops, pencil and paper, and ir_measures."""

import csv
import gzip
import json
import math
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R
from PIL import Image

from agents.report import (
    COMPARED_METRICS,
    MEAN_METRICS,
    METRICS,
    Comparison,
    Limit,
    compare,
    counting_bound,
    format_table,
    holm,
    indistinguishability_ceiling,
    plot,
    summarise,
    write_csv,
    write_qrels,
    write_run,
)
from retrieval.metrics import rank_of, recall_at_k, reciprocal_rank

SIZE = 40  # gallery
Rng = np.random.Generator
Tables = dict[str, np.ndarray]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def ranks(rng: Rng) -> Tables:
    return {
        "guess": rng.integers(SIZE, size=(60, 4)).astype(float),
        "learned": np.floor(rng.integers(SIZE, size=(60, 4)) / [1, 2, 4, 8]),
    }


# numbers


def test_summary_by_hand(rng: Rng) -> None:
    table = np.array([[3.0, 0.0], [0.0, 7.0], [10.0, 0.5], [5.0, 2.0]])
    summary = summarise({"a": table}, 11, rng=rng, bootstrap=10)
    found = summary["agents"]["a"]
    assert list(found) == list(METRICS)
    assert found["percentile"] == pytest.approx([1 - 4.5 / 10, 1 - 2.375 / 10])
    assert found["recall@1"] == [0.25, 0.5]
    assert found["recall@5"] == [0.5, 0.75]
    assert found["recall@10"] == [0.75, 1.0]
    assert found["success@1"] == [0.25, 0.75]
    assert found["success@5"] == [0.5, 1.0]
    assert found["mrr"][0] == pytest.approx((1 / 4 + 1 + 1 / 11 + 1 / 6) / 4)
    assert found["median_rank"] == [4.0, 1.25]
    assert found["bri"][0] == pytest.approx((math.log(4) + math.log(11) + math.log(6)) / 4)
    last = (math.log(4) / 2 + 0 + (math.log(11) + math.log(1.5)) / 2 + math.log(6 * 3) / 2) / 4
    assert found["bri"][1] == pytest.approx(last)
    assert (summary["dialogs"], summary["clusters"], summary["gallery_size"]) == (4, 4, 11)


def test_summary_is_plain_json_with_the_agreed_shape(rng: Rng, ranks: Tables) -> None:
    summary = summarise(ranks, SIZE, rng=rng, bootstrap=50)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    for name in ranks:
        assert list(summary["intervals"][name]) == list(MEAN_METRICS)
        for metric in MEAN_METRICS:
            values = summary["agents"][name][metric]
            interval = summary["intervals"][name][metric]
            assert len(values) == len(interval["low"]) == len(interval["high"]) == 4
            assert (np.array(interval["low"]) <= interval["high"]).all()
            assert all(type(value) is float for value in [*values, *interval["low"]])


def test_same_seed_same_numbers(ranks: Tables) -> None:
    first, second = (
        summarise(ranks, SIZE, rng=np.random.default_rng(5), bootstrap=50) for _ in range(2)
    )
    assert first == second


def test_interval_matches_the_normal_one_and_shrinks(rng: Rng) -> None:
    widths = []
    for dialogs in (100, 1600):
        table = rng.integers(SIZE, size=(dialogs, 1)).astype(float)
        summary = summarise({"a": table}, SIZE, rng=rng)
        interval = summary["intervals"]["a"]["percentile"]
        widths.append(interval["high"][0] - interval["low"][0])
        normal = 2 * 1.96 * np.std(table / (SIZE - 1)) / math.sqrt(dialogs)
        assert widths[-1] == pytest.approx(normal, rel=0.12)
    assert widths[1] < widths[0] / 3


def test_interval_covers_the_truth_about_as_often_as_it_says(rng: Rng) -> None:
    # each turn is a data set of its own: 300 data sets of 80 dialogs
    table = rng.integers(SIZE, size=(80, 300)).astype(float)
    interval = summarise({"a": table}, SIZE, rng=rng, bootstrap=500)["intervals"]["a"]["percentile"]
    covered = (np.array(interval["low"]) <= 0.5) & (np.array(interval["high"]) >= 0.5)
    assert 0.90 <= covered.mean() <= 0.985


def test_copies_of_a_dialog_in_one_cluster_add_no_certainty(rng: Rng) -> None:
    table = rng.integers(SIZE, size=(50, 2)).astype(float)
    shuffled = rng.permutation(200)
    pooled = np.repeat(table, 4, axis=0)[shuffled]
    clusters = np.repeat(np.arange(50) * 7, 4)[shuffled]
    alone, together, naive = (
        summarise({"a": each}, SIZE, rng=np.random.default_rng(0), clusters=labels)
        for each, labels in ((table, None), (pooled, clusters), (pooled, None))
    )
    assert together["clusters"] == 50
    for metric in MEAN_METRICS:
        for side in ("low", "high"):  # same draws, so the same intervals
            np.testing.assert_allclose(
                together["intervals"]["a"][metric][side], alone["intervals"]["a"][metric][side]
            )
    width = {
        key: np.subtract(
            summary["intervals"]["a"]["bri"]["high"], summary["intervals"]["a"]["bri"]["low"]
        )
        for key, summary in (("together", together), ("naive", naive))
    }
    assert (width["naive"] < 0.6 * width["together"]).all()


def test_clusters_of_unequal_size_weigh_dialogs_not_clusters() -> None:
    # two clusters: draws hold (2, 0), (1, 1) or (0, 2) of them
    table = np.array([[0.0], [0.0], [0.0], [10.0]])
    summary = summarise(
        {"a": table}, 11, rng=np.random.default_rng(0), clusters=np.array([4, 4, 4, 9])
    )
    assert summary["agents"]["a"]["percentile"] == [0.75]
    assert summary["intervals"]["a"]["percentile"] == {"low": [0.0], "high": [1.0]}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "no agent"),
        ({"a": np.zeros(3)}, r"shape \(3,\)"),
        ({"a": np.zeros((3, 2)), "b": np.zeros((3, 1))}, "same for all agents"),
        ({"a": np.full((3, 2), np.nan)}, r"must lie in \[0, 39\]"),
        ({"a": np.full((3, 2), 40)}, r"must lie in \[0, 39\]"),
    ],
)
def test_tables_that_make_no_sense_are_refused(bad: Tables, message: str, rng: Rng) -> None:
    with pytest.raises(ValueError, match=message):
        summarise(bad, SIZE, rng=rng)


def test_one_label_per_dialog_is_needed(ranks: Tables, rng: Rng) -> None:
    with pytest.raises(ValueError, match="one label per dialog"):
        summarise(ranks, SIZE, rng=rng, clusters=np.arange(3))


# comparisons


def test_identical_agents_do_not_differ(rng: Rng, ranks: Tables) -> None:
    twins = {"a": ranks["learned"], "b": ranks["learned"].copy()}
    rows = compare(twins, SIZE, rng=rng, bootstrap=300, randomisations=300)
    assert len(rows) == len(COMPARED_METRICS) * 4
    for row in rows:
        assert (row["difference"], row["low"], row["high"]) == (0.0, 0.0, 0.0)
        assert row["p"] == row["p_holm"] == 1.0


def test_differences_are_those_of_the_summary_for_every_pair(rng: Rng, ranks: Tables) -> None:
    three = {**ranks, "best": np.zeros((60, 4))}
    agents = summarise(three, SIZE, rng=rng, bootstrap=10)["agents"]
    rows = compare(three, SIZE, rng=rng, bootstrap=200, randomisations=200)
    assert {(row["a"], row["b"]) for row in rows} == {
        ("guess", "learned"),
        ("guess", "best"),
        ("learned", "best"),
    }
    for row in rows:
        metric, turn = row["metric"], row["turn"]
        expected = agents[row["a"]][metric][turn] - agents[row["b"]][metric][turn]
        assert row["difference"] == pytest.approx(expected)
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["p"] <= row["p_holm"] <= 1
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_p_is_close_to_that_of_all_sign_flips(rng: Rng) -> None:
    a, b = (rng.integers(size, size=(10, 1)).astype(float) for size in (SIZE, SIZE // 2))
    rows = compare({"a": a, "b": b}, SIZE, rng=rng, randomisations=20_000)
    for metric, difference in (
        ("percentile", (b - a)[:, 0] / (SIZE - 1)),
        ("recall@10", ((a < 10).astype(float) - (b < 10))[:, 0]),
    ):
        as_large = 0
        for flips in range(2**10):
            signs = [1 if flips >> dialog & 1 else -1 for dialog in range(10)]
            as_large += abs(np.dot(signs, difference)) >= abs(difference.sum()) - 1e-9
        (row,) = [row for row in rows if row["metric"] == metric]
        assert row["p"] == pytest.approx(as_large / 2**10, abs=0.015)


def test_a_clear_difference_is_found_and_clusters_make_it_less_clear(
    rng: Rng, ranks: Tables
) -> None:
    def last_turn(clusters: np.ndarray | None) -> Comparison:
        rows = compare(ranks, SIZE, [("learned", "guess")], rng=rng, clusters=clusters)
        (row,) = [row for row in rows if (row["metric"], row["turn"]) == ("percentile", 3)]
        return row

    alone, pooled = last_turn(None), last_turn(np.arange(60) // 20)
    assert alone["low"] > 0 and alone["p_holm"] < 0.01
    # three clusters have eight sign patterns, two of which are as large
    assert pooled["p"] == pytest.approx(0.25, abs=0.03)
    assert pooled["difference"] == alone["difference"]


def test_unknown_agents_are_named(rng: Rng, ranks: Tables) -> None:
    with pytest.raises(ValueError, match=r"unknown agent 'gues'\. Known: guess, learned"):
        compare(ranks, SIZE, [("gues", "learned")], rng=rng)


def test_holm_by_hand() -> None:
    # sorted 0.01 0.02 0.03 0.04 times 4 3 2 1 is 0.04 0.06 0.06 0.04, then never falling
    p = np.array([[0.04, 0.01, 0.03, 0.02], [0.5, 0.001, 0.9, 0.4]])
    expected = [[0.06, 0.04, 0.06, 0.06], [1.0, 0.004, 1.0, 1.0]]
    np.testing.assert_allclose(holm(p), expected)


# limits


def test_counting_bound_by_hand() -> None:
    assert counting_bound(10_000, 32, 3, 10) == [0.001, 0.032, 1.0, 1.0]
    assert counting_bound(10_000, 32, 3, 1) == [0.0001, 0.0032, 0.1024, 1.0]
    assert counting_bound(5, 734, 500, 10)[-1] == 1.0  # F^t is far beyond a float


def test_indistinguishability_ceiling_by_hand() -> None:
    attributes = np.array([[0, 1], [1, 1], [0, 1], [0, 0], [0, 1]])
    assert indistinguishability_ceiling(attributes) == 3 / 5


# files


def world(
    rng: Rng, levels: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Full-depth offers of 12 dialogs with 3 turns over 25 images, some with spaces."""
    shape = (12, 3, 25)
    scores = rng.normal(size=shape) if levels is None else rng.integers(levels, size=shape) / 8
    candidates = np.argsort(-scores, axis=-1, kind="stable")
    names = [f"shoe {n:02d}.jpg" if n % 2 else f"100%_shoe_{n}" for n in range(25)]
    return scores, candidates, np.take_along_axis(scores, candidates, -1), names


@pytest.mark.parametrize("suffix", [".run", ".run.gz"])
def test_run_files_score_the_same_in_ir_measures(suffix: str, rng: Rng, tmp_path: Path) -> None:
    scores, candidates, candidate_scores, names = world(rng)
    target = rng.integers(25, size=12)
    query_ids = np.arange(12) * 3 + 5
    run, qrels = tmp_path / f"agent{suffix}", tmp_path / "targets.qrels"
    write_run(run, "my agent", query_ids, candidates, candidate_scores, names)
    write_qrels(qrels, target, names, 2, query_ids)

    found = {
        (result.query_id, str(result.measure)): result.value
        for result in ir_measures.iter_calc(
            [R @ 1, R @ 5, R @ 10, RR],
            list(ir_measures.read_trec_qrels(str(qrels))),
            list(ir_measures.read_trec_run(str(run))),
        )
    }
    assert len(found) == 12 * 3 * 4
    for t in range(3):
        rank = rank_of(scores[:, t], target)
        for name, ours in (
            *((f"R@{k}", recall_at_k(rank, k)) for k in (1, 5, 10)),
            ("RR", reciprocal_rank(rank)),
        ):
            theirs = [found[f"q{query}#t{t}", name] for query in query_ids]
            np.testing.assert_allclose(theirs, ours, err_msg=f"{name} at turn {t}")


def test_ties_in_a_run_file_follow_the_order_offered(rng: Rng, tmp_path: Path) -> None:
    _, candidates, candidate_scores, names = world(rng, levels=3)
    candidate_scores[0, 0] = 0.0
    path = tmp_path / "ties.run"
    write_run(path, "a", range(12), candidates, candidate_scores, names)
    places: dict[str, list[tuple[str, int, float]]] = {}
    for line in path.read_text().splitlines():
        query, _, image, rank, score, tag = line.split()
        assert tag == "a"
        places.setdefault(query, []).append((image, int(rank), float(score)))
    assert len(places) == 36
    for rows in places.values():
        assert [rank for _, rank, _ in rows] == list(range(1, 26))
        falling = np.array([score for *_, score in rows], dtype=np.float32)
        assert (np.diff(falling) < 0).all()

    # a tied target is found where it was offered
    target = candidates[:, 0, 7]
    write_qrels(tmp_path / "qrels", target, names, 0)
    results = ir_measures.calc_aggregate(
        [RR],
        list(ir_measures.read_trec_qrels(str(tmp_path / "qrels"))),
        [each for each in ir_measures.read_trec_run(str(path)) if each.query_id.endswith("#t0")],
    )
    assert results[RR] == pytest.approx(1 / 8)


def test_the_same_run_is_the_same_bytes(rng: Rng, tmp_path: Path) -> None:
    _, candidates, candidate_scores, names = world(rng)
    for name in ("one.gz", "two.gz"):
        write_run(tmp_path / name, "a", range(12), candidates, candidate_scores, names)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    first = gzip.decompress((tmp_path / "one.gz").read_bytes()).decode().splitlines()[0]
    assert first.startswith("q0#t0 Q0 ") and "%20" not in first.split()[0]


def test_runs_that_make_no_sense_are_refused_and_leave_nothing(rng: Rng, tmp_path: Path) -> None:
    _, candidates, candidate_scores, names = world(rng)
    with pytest.raises(ValueError, match=r"came \(11,\)"):
        write_run(tmp_path / "a", "a", range(11), candidates, candidate_scores, names)
    candidate_scores[3, 1, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        write_run(tmp_path / "a", "a", range(12), candidates, candidate_scores, names)
    assert list(tmp_path.iterdir()) == []


def test_csv_holds_every_number(rng: Rng, ranks: Tables, tmp_path: Path) -> None:
    summary = summarise(ranks, SIZE, rng=rng, bootstrap=50)
    write_csv(tmp_path / "summary.csv", summary)
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * len(METRICS)
    for row in rows:
        name, metric, turn = row["agent"], row["metric"], int(row["turn"])
        assert float(row["value"]) == summary["agents"][name][metric][turn]
        if metric == "median_rank":
            assert row["low"] == row["high"] == ""
        else:
            assert float(row["low"]) == summary["intervals"][name][metric]["low"][turn]
            assert float(row["high"]) == summary["intervals"][name][metric]["high"][turn]


def test_table_shows_every_agent_in_every_block(rng: Rng, ranks: Tables) -> None:
    summary = summarise(ranks, SIZE, rng=rng, bootstrap=50)
    blocks = format_table(summary, metrics=("recall@10", "median_rank", "bri")).split("\n\n")
    assert blocks[0] == "60 dialogs, gallery of 40 images"
    assert [block.split()[0] for block in blocks[1:]] == ["recall@10", "median_rank", "bri"]
    assert "higher is better" in blocks[1] and "lower is better" in blocks[3]
    _, header, *rows = blocks[1].splitlines()
    assert header.split() == ["turn", "0", "1", "2", "3"]
    assert [row.split()[0] for row in rows] == ["guess", "learned"]
    shown = [float(cell) for cell in rows[1].split()[1:]]
    assert shown == pytest.approx(summary["agents"]["learned"]["recall@10"], abs=5e-4)


def test_plot_draws_a_picture_that_limits_change(rng: Rng, ranks: Tables, tmp_path: Path) -> None:
    summary = summarise(ranks, SIZE, rng=rng, bootstrap=50)
    limits = [
        Limit("counting bound", f"recall@{k}", counting_bound(SIZE, 3, 3, k)) for k in (1, 10)
    ]
    plot(tmp_path / "plain.png", summary)
    plot(tmp_path / "limits.png", summary, limits)
    plain, limited = (
        np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("plain.png", "limits.png")
    )
    assert min(plain.shape) > 1000 and plain.std() > 5
    assert plain.shape != limited.shape or (plain != limited).any()
