"""Single-turn protocols against slow loops over sorted lists, and hand-worked cases."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import retrieval.ranking as ranking
from retrieval.datasets import COMPOSED, youmakeup
from retrieval.datasets.base import ComposedSplit
from retrieval.datasets.fashion_iq import CATEGORIES, JOININGS, rejoin
from retrieval.evaluation import EVALUATED_SPLIT, PROTOCOLS, evaluate, sample_queries
from retrieval.gallery import Triplet
from retrieval.ranking import rank_members, take_rows, top_images
from retrieval.reports import flat, table, weighted_harmonic_mean, whm, whm_table
from retrieval.submissions import cirr_submissions, write_submissions

SIZE = 3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def vectors(rng: np.random.Generator, count: int) -> np.ndarray:
    """Few different values, so that dot products are exact and ties are many."""
    return rng.integers(-1, 2, size=(count, SIZE)).astype(np.float32)


def slow_order(query: np.ndarray, gallery: np.ndarray, members, left_out: int = -1) -> list[int]:
    """Rows by similarity, then by place in the gallery."""
    places = [at for at, row in enumerate(members) if row != left_out]
    places.sort(key=lambda at: (-float(query @ gallery[members[at]]), at))
    return [int(members[at]) for at in places]


def slow_recall(split, queries, gallery, asked, members, cut, excluded, same) -> float:
    found = []
    for at in asked:
        query = split.queries[at]
        order = slow_order(
            queries[at], gallery, members, query.reference if excluded else -1
        )  # fmt: skip
        found.append(any(same(row, query.target) for row in order[:cut]))
    return sum(found) / len(found)


def plain_split(rng: np.random.Generator, dataset: str, images: int = 40, queries: int = 30):
    names = tuple(f"image{row}" for row in range(images))
    labels = tuple(
        f"{rng.choice(['old', 'new', 'wet'])} {rng.choice(['cat', 'car'])}" for _ in names
    )
    drawn = rng.integers(images, size=(queries, 2))
    triplets = tuple(Triplet(int(a), f"caption {a}", int(b)) for a, b in drawn)
    galleries = {"all": np.arange(images)}
    return ComposedSplit(dataset, "test", names, labels, None, triplets, galleries=galleries)


def exact(split: ComposedSplit) -> ComposedSplit:
    return replace(split, labels=split.names)


def row_named(report, name: str):
    return next(row for row in report["rows"] if row["name"] == name)


# ---- ranking


@pytest.mark.parametrize("block", [1, 300, 2**26])
@pytest.mark.parametrize("k", [1, 7, 200])
def test_the_best_images_are_those_of_a_slow_sort(rng, monkeypatch, block, k):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", block)
    queries, gallery = vectors(rng, 17), vectors(rng, 50)
    members = rng.permutation(50)[:31]
    members = np.append(members, members[:3])  # rows that are there twice
    excluded = np.append(rng.integers(50, size=16), -1)
    top = top_images(queries, gallery, k, members, excluded)
    for query, left_out, found in zip(queries, excluded, top, strict=True):
        order = slow_order(query, gallery, members, left_out)[:k]
        assert found.tolist() == order + [-1] * (min(k, len(members)) - len(order))


def test_float_types_agree_and_inputs_are_left_alone(rng):
    queries, gallery = vectors(rng, 9), vectors(rng, 20)
    for table_ in (queries, gallery):
        table_.setflags(write=False)
    expected = top_images(queries, gallery, 5)
    for dtype in (np.float16, np.float64, np.int64):
        assert np.array_equal(top_images(queries.astype(dtype), gallery.astype(dtype), 5), expected)


def test_memory_stays_small_on_a_gallery_of_the_published_size(rng):
    queries = rng.normal(size=(3000, 8)).astype(np.float32)
    gallery = rng.normal(size=(29_789, 8)).astype(np.float32)
    tracemalloc.start()
    top = top_images(queries, gallery, 100, excluded=np.arange(3000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6  # the whole table of similarities alone has 357 MB
    assert np.array_equal(top[:, 0], [_slow_best(q, gallery, at) for at, q in enumerate(queries)])


def _slow_best(query: np.ndarray, gallery: np.ndarray, left_out: int) -> int:
    scores = gallery @ query
    scores[left_out] = -np.inf
    return int(scores.argmax())


@pytest.mark.parametrize("block", [1, 2**26])
def test_image_sets_are_ranked_like_a_slow_sort(rng, monkeypatch, block):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", block)
    queries, gallery = vectors(rng, 25), vectors(rng, 30)
    members = np.array([rng.permutation(30)[:6] for _ in queries])
    excluded = members[np.arange(25), rng.integers(6, size=25)]
    ordered = rank_members(queries, gallery, members, excluded)
    for query, own, left_out, found in zip(queries, members, excluded, ordered, strict=True):
        assert found.tolist() == slow_order(query, gallery, sorted(own), left_out)


def test_an_image_set_without_its_reference_is_refused(rng):
    with pytest.raises(ValueError, match="once in its image set"):
        rank_members(vectors(rng, 1), vectors(rng, 9), np.array([[1, 2, 3]]), np.array([4]))


def test_rows_in_a_line_are_not_copied(rng):
    gallery = vectors(rng, 10)
    assert np.shares_memory(take_rows(gallery, np.arange(3, 8)), gallery)
    for rows in ([4, 3], [1, 3], [], [2, 2]):
        taken = take_rows(gallery, np.array(rows, dtype=np.int64))
        assert np.array_equal(taken, gallery[np.array(rows, dtype=np.int64)])


# ---- TIRG


@pytest.mark.parametrize("dataset", ["css3d", "fashion200k", "mitstates", "catalog"])
def test_tirg_protocol(rng, dataset):
    split = plain_split(rng, dataset, images=130, queries=60)
    queries, gallery = vectors(rng, 60), vectors(rng, 130)
    report = evaluate(split, queries, gallery)
    kinds = {"target": slice(0, 2)}
    if dataset == "mitstates":
        kinds |= {"adjective": slice(0, 1), "noun": slice(1, 2)}
    assert [row["name"] for row in report["rows"]] == list(kinds)
    for name, words in kinds.items():
        row = row_named(report, name)
        assert list(row["recall"]) == ["R@1", "R@5", "R@10", "R@50", "R@100"]
        for cut in (1, 5, 10, 50, 100):
            expected = slow_recall(
                split, queries, gallery, range(60), range(130), cut, True,
                lambda a, b, w=words: split.labels[a].split()[w] == split.labels[b].split()[w],
            )  # fmt: skip
            assert row["recall"][f"R@{cut}"] == pytest.approx(expected)
    assert report["score"] == report["rows"][0]["recall"]["R@1"]


def test_the_reference_is_no_hit_but_another_image_of_its_label_is():
    split = ComposedSplit(
        "css3d", "test", ("a", "b", "c"), ("red", "blue", "red"), None, (Triplet(0, "same", 0),)
    )
    queries, gallery = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.5, 0.0], [0.1, 0.0]])
    recall = evaluate(split, queries, gallery)["rows"][0]["recall"]
    assert recall["R@1"] == 0.0  # blue comes first once the reference is gone
    assert recall["R@5"] == 1.0
    alone = replace(split, labels=("red", "blue", "green"))
    assert evaluate(alone, queries, gallery)["rows"][0]["recall"]["R@100"] == 0.0


def test_a_training_sample_is_searched_among_its_own_targets(rng):
    split = plain_split(rng, "fashion200k")

    def sample(rng: np.random.Generator, count: int) -> list[Triplet]:
        return [Triplet(int(a), "drawn", int(b)) for a, b in rng.integers(40, size=(count, 2))]

    drawn = sample_queries(replace(split, queries=(), sample=sample), rng, 25)
    queries, gallery = vectors(rng, 25), vectors(rng, 40)
    report = evaluate(drawn, queries, gallery)
    members = [query.target for query in drawn.queries]
    assert len(set(members)) < len(members) == report["rows"][0]["images"]
    for cut in (1, 5, 10):
        expected = slow_recall(
            drawn, queries, gallery, range(25), members, cut, False,
            lambda a, b: split.labels[a] == split.labels[b],
        )  # fmt: skip
        assert report["rows"][0]["recall"][f"R@{cut}"] == pytest.approx(expected)


def test_a_sample_of_a_split_with_queries_takes_each_at_most_once(rng):
    split = plain_split(rng, "shoes")
    drawn = sample_queries(split, rng, 1000)
    assert sorted(drawn.queries) == sorted(split.queries)
    few = sample_queries(split, rng, 7)
    assert len(few.queries) == 7 == len(few.galleries["sampled"])
    assert evaluate(few, vectors(rng, 7), vectors(rng, 40))["protocol"] == "tirg"
    with pytest.raises(ValueError, match="no queries and no rule"):
        sample_queries(replace(split, queries=()), rng)


# ---- FashionIQ


def fashion_split(rng: np.random.Generator, joining: str) -> ComposedSplit:
    """Three categories of 60 images each; shirts and tops share ten."""
    lists = {
        "dress": np.arange(60),
        "shirt": np.arange(60, 120),
        "toptee": np.append(np.arange(110, 120), np.arange(120, 170))[rng.permutation(60)],
    }
    queries, facts, galleries = [], [], {"all": np.arange(170)}
    for category, listed in lists.items():
        pairs = rng.permutation(listed)[:20].reshape(10, 2)
        for reference, target in pairs:
            fact = {"category": category, "captions": ("is red", "has dots"), "order": 0}
            facts.append({**fact, "joining": "clip4cir", "pair": len(facts)})
            queries.append(Triplet(int(reference), "Is red and has dots", int(target)))
        galleries[f"original/{category}"] = listed
        galleries[f"val/{category}"] = np.unique(pairs)
    names = tuple(f"B{row}" for row in range(170))
    split = ComposedSplit(
        "fashion_iq", "val", names, names, None, tuple(queries),
        galleries=galleries, facts=tuple(facts),
    )  # fmt: skip
    return rejoin(split, joining)


@pytest.mark.parametrize("joining", JOININGS)
def test_fashion_iq_per_category_with_both_galleries(rng, joining):
    split = fashion_split(rng, joining)
    both_orders = joining == "comqueryformer"
    count = len(split.queries)
    assert count == (60 if both_orders else 30)
    queries, gallery = vectors(rng, count), vectors(rng, 170)
    report = evaluate(split, queries, gallery)
    assert any(joining in note for note in report["notes"])
    for name in ("original", "val"):
        for category in CATEGORIES:
            asked = [at for at, fact in enumerate(split.facts) if fact["category"] == category]
            row = row_named(report, f"{category}, {name} gallery")
            members = split.galleries[f"{name}/{category}"]
            assert (row["queries"], row["images"]) == (len(asked), len(members))
            assert row["reference"] == ("left out" if both_orders else "kept")
            for cut in (10, 50):
                expected = slow_recall(
                    split, queries, gallery, asked, members, cut, both_orders,
                    lambda a, b: a == b,
                )  # fmt: skip
                assert row["recall"][f"R@{cut}"] == pytest.approx(expected)
    six = [
        row_named(report, f"{category}, original gallery")["recall"][cut]
        for category in CATEGORIES
        for cut in ("R@10", "R@50")
    ]
    assert report["score"] == pytest.approx(sum(six) / 6)


def test_the_merged_gallery_is_composeae_s_concatenation_less_repeats(rng):
    split = fashion_split(rng, "composeAE")
    queries, gallery = vectors(rng, 30), vectors(rng, 170)
    concatenated = [
        row for category in CATEGORIES for row in split.galleries[f"original/{category}"]
    ]
    report = evaluate(split, queries, gallery, "composeAE")
    whole = evaluate(split, queries, gallery)
    for category in CATEGORIES:
        asked = [at for at, fact in enumerate(split.facts) if fact["category"] == category]
        positions = []
        for at in asked:
            # repeats come out after ranking; ties stand in the order of the rows, as ours do
            ranked = sorted(concatenated, key=lambda row: (-float(queries[at] @ gallery[row]), row))
            positions.append(list(dict.fromkeys(ranked[:150])).index(split.queries[at].target)
                             if split.queries[at].target in ranked[:150] else 999)  # fmt: skip
        row = row_named(report, f"{category}, merged gallery")
        assert row["images"] == 170
        assert row == row_named(whole, f"{category}, merged gallery")
        for cut in (1, 5, 10, 50):
            expected = np.mean([position < cut for position in positions])
            assert row["recall"][f"R@{cut}"] == pytest.approx(expected)


def test_one_category_alone_has_no_merged_gallery(rng):
    split = fashion_split(rng, "clip4cir")
    asked = [at for at, fact in enumerate(split.facts) if fact["category"] == "shirt"]
    own = replace(
        split,
        queries=tuple(split.queries[at] for at in asked),
        facts=tuple(split.facts[at] for at in asked),
    )
    rows = evaluate(own, vectors(rng, 10), vectors(rng, 170))["rows"]
    assert [row["name"] for row in rows] == ["shirt, original gallery", "shirt, val gallery"]


# ---- CIRR


def cirr_split(rng: np.random.Generator, hidden: bool = False) -> ComposedSplit:
    names = tuple(f"dev-{row}-img0" for row in range(70))
    queries, facts = [], []
    for pair in range(25):
        members = rng.permutation(70)[:6]
        queries.append(Triplet(int(members[3]), "change it", -1 if hidden else int(members[1])))
        facts.append({"pairid": 900 + pair, "image_set": 1, "members": tuple(map(int, members))})
    return ComposedSplit(
        "cirr", "val", names, names, None, tuple(queries),
        galleries={"all": np.arange(70)}, facts=tuple(facts),
    )  # fmt: skip


def test_cirr_recall_and_recall_within_the_image_set(rng):
    split = cirr_split(rng)
    queries, gallery = vectors(rng, 25), vectors(rng, 70)
    report = evaluate(split, queries, gallery)
    whole, subset = report["rows"]
    for cut in (1, 5, 10, 50):
        expected = slow_recall(
            split, queries, gallery, range(25), range(70), cut, True, lambda a, b: a == b
        )
        assert whole["recall"][f"R@{cut}"] == pytest.approx(expected)
    for cut in (1, 2, 3):
        found = [
            query.target
            in slow_order(vector, gallery, sorted(fact["members"]), query.reference)[:cut]
            for query, vector, fact in zip(split.queries, queries, split.facts, strict=True)
        ]
        assert subset["recall"][f"Rs@{cut}"] == pytest.approx(sum(found) / 25)
    assert report["score"] == pytest.approx((whole["recall"]["R@5"] + subset["recall"]["Rs@1"]) / 2)


def test_cirr_submissions_have_the_servers_form(rng, tmp_path: Path):
    split = cirr_split(rng, hidden=True)
    queries, gallery = vectors(rng, 25), vectors(rng, 70)
    submissions = cirr_submissions(split, queries, gallery)
    paths = write_submissions(tmp_path, submissions)
    assert [path.name for path in paths] == ["cirr_recall.json", "cirr_recall_subset.json"]
    for path, metric, length in zip(paths, ("recall", "recall_subset"), (50, 3), strict=True):
        written = json.loads(path.read_text())
        assert (written.pop("version"), written.pop("metric")) == ("rc2", metric)
        assert list(written) == [str(900 + pair) for pair in range(25)]
        for at, (query, fact) in enumerate(zip(split.queries, split.facts, strict=True)):
            names = written[str(fact["pairid"])]
            members = range(70) if metric == "recall" else sorted(fact["members"])
            order = slow_order(queries[at], gallery, members, query.reference)[:length]
            assert names == [split.names[row] for row in order]
            assert len(names) == length


def test_cirr_submissions_of_part_of_the_data_are_refused(rng):
    split = replace(cirr_split(rng, hidden=True), skipped={"pictures missing": 2})
    with pytest.raises(ValueError, match="needs every image.*pictures missing"):
        cirr_submissions(split, vectors(rng, 25), vectors(rng, 70))


def test_a_submission_that_is_too_large_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="at most 5000000"):
        write_submissions(tmp_path, {"recall": {"1": ["name"] * 1_000_000}})
    assert not list(tmp_path.iterdir())


def test_hidden_targets_cannot_be_scored(rng):
    with pytest.raises(ValueError, match="targets of 25 queries of cirr val are not published"):
        evaluate(cirr_split(rng, hidden=True), vectors(rng, 25), vectors(rng, 70))


# ---- Shoes, YouMakeup


def test_shoes_with_and_without_the_reference(rng):
    split = exact(plain_split(rng, "shoes", images=90))
    split = replace(split, queries=(*split.queries[:-1], Triplet(4, "the same", 4)))
    queries, gallery = vectors(rng, 30), vectors(rng, 90)
    report = evaluate(split, queries, gallery)
    for name, excluded in (("target", True), ("target, reference kept", False)):
        for cut in (1, 10, 50):
            expected = slow_recall(
                split, queries, gallery, range(30), range(90), cut, excluded, lambda a, b: a == b
            )
            assert row_named(report, name)["recall"][f"R@{cut}"] == pytest.approx(expected)
    same = sum(query.reference == query.target for query in split.queries)
    assert report["notes"][0].startswith(f"{same} queries ask for their own reference")


def test_youmakeup_averages_videos_and_drops_short_ones(rng):
    steps = {
        video: tuple(youmakeup.Step(at, at + 1, ("face",), f"step {at}") for at in range(count))
        for video, count in (("long", 9), ("six", 6), ("five", 5), ("short", 3), ("one", 1))
    }
    frames = {
        video: [[f"frames/{video}_{at}_{k}.jpg" for k in range(10)] for at in range(len(own))]
        for video, own in steps.items()
    }
    split = youmakeup.assemble("test", steps, frames, rng)
    queries = rng.normal(size=(len(split.queries), 8)).astype(np.float32)
    gallery = rng.normal(size=(len(split), 8)).astype(np.float32)
    report = evaluate(split, queries, gallery)

    videos: dict[str, list[int]] = {}
    for at, fact in enumerate(split.facts):
        videos.setdefault(fact["video"], []).append(at)
    recalls = []
    for asked in videos.values():
        members = sorted({split.queries[at].target for at in asked})
        if len(members) >= 5:  # the first step is nobody's target: fewer than six steps are out
            recalls.append(
                [
                    slow_recall(
                        split, queries, gallery, asked, members, cut, True, lambda a, b: a == b
                    )
                    for cut in (1, 2, 3, 5)
                ]
            )
    assert len(recalls) == 2
    assert list(report["rows"][0]["recall"].values()) == pytest.approx(np.mean(recalls, axis=0))
    assert report["notes"] == ["2 of 4 videos have five distinct targets and count"]

    short = youmakeup.assemble("test", {"short": steps["short"]}, frames, rng)
    with pytest.raises(ValueError, match="none of the 1 videos"):
        evaluate(short, np.ones((len(short.queries), 2)), np.ones((len(short), 2)))


# ---- WHM


def test_weighted_harmonic_mean():
    assert weighted_harmonic_mean([0.5, 0.5, 0.5], [3, 1, 7]) == pytest.approx(0.5)
    assert weighted_harmonic_mean([1.0, 0.5], [1, 1]) == pytest.approx(2 / 3)
    assert weighted_harmonic_mean([0.6, 0.2], [1, 2]) == pytest.approx(3 / (1 / 0.6 + 2 / 0.2))
    assert weighted_harmonic_mean([0.9, 0.0], [1, 1]) == 0.0


@pytest.mark.parametrize(
    "values, weights", [([], []), ([1.0], [1, 2]), ([-0.1, 1], [1, 1]), ([1, 1], [0, 1])]
)
def test_weights_and_values_that_make_no_mean_are_refused(values, weights):
    with pytest.raises(ValueError, match="expected"):
        weighted_harmonic_mean(values, weights)


def test_whm_stands_beside_its_figures_and_is_marked(rng):
    split = plain_split(rng, "css3d")
    train = evaluate(replace(split, split="train"), vectors(rng, 30), vectors(rng, 40))
    test = evaluate(split, vectors(rng, 30), vectors(rng, 40))
    report = json.loads(json.dumps(whm(train, test, (1, 2))))
    assert "reconstruction" in report["note"]
    assert len(report["rows"]) == 5
    for row in report["rows"]:
        assert row["train"] == train["rows"][0]["recall"][row["recall"]]
        assert row["test"] == test["rows"][0]["recall"][row["recall"]]
        assert row["whm"] == weighted_harmonic_mean([row["train"], row["test"]], [1, 2])
    text = whm_table(report)
    assert "reconstruction" in text and "weight 2" in text
    assert f"{100 * report['rows'][2]['whm']:.2f}" in text
    other = evaluate(cirr_split(rng), vectors(rng, 25), vectors(rng, 70))
    other["rows"] = other["rows"][1:]
    with pytest.raises(ValueError, match="share no recall"):
        whm(train, other)


# ---- every protocol


def case_of(protocol: str, rng: np.random.Generator) -> ComposedSplit:
    if protocol in ("fashion_iq", "composeAE"):
        return fashion_split(rng, "composeAE")
    if protocol == "cirr":
        return cirr_split(rng)
    split = exact(plain_split(rng, "shoes" if protocol == "shoes" else "css2d", 60, 30))
    if protocol == "youmakeup":
        facts = tuple({"video": f"v{at % 2}"} for at in range(30))
        return replace(split, dataset="youmakeup", facts=facts)
    return split


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reports_are_plain_monotonic_and_perfect_for_an_oracle(rng, protocol):
    split = replace(case_of(protocol, rng), skipped={"pictures missing": 3})
    different = tuple(
        query if query.reference != query.target else query._replace(target=(query.target + 1) % 60)
        for query in split.queries
    )
    split = replace(split, queries=different)
    gallery = np.eye(len(split), dtype=np.float32)
    report = evaluate(split, gallery[[query.target for query in split.queries]], gallery, protocol)
    assert json.loads(json.dumps(report)) == report
    assert report["protocol"] == protocol
    assert set(flat(report).values()) == {1.0} and report["score"] == 1.0
    text = table(report)
    assert "left out: 3 pictures missing" in text and "100.00" in text
    assert all(row["name"] in text for row in report["rows"])

    noise = rng.normal(size=(len(split.queries), len(split))).astype(np.float32)
    for row in evaluate(split, noise, gallery, protocol)["rows"]:
        recalls = list(row["recall"].values())
        assert recalls == sorted(recalls)


def test_the_split_of_the_published_figures_is_one_that_the_reader_has(tmp_path: Path):
    for name, split in EVALUATED_SPLIT.items():
        with pytest.raises(FileNotFoundError):  # a split it does not know is a ValueError
            COMPOSED[name](tmp_path, split)


def test_mistakes_are_named(rng):
    split = plain_split(rng, "css3d")
    queries, gallery = vectors(rng, 30), vectors(rng, 40)
    with pytest.raises(ValueError, match="unknown protocol 'cir'. Did you mean 'cirr'"):
        evaluate(split, queries, gallery, "cir")
    with pytest.raises(ValueError, match="vectors of 30 queries of css3d test, got 29"):
        evaluate(split, queries[1:], gallery)
    with pytest.raises(ValueError, match="vectors of 40 images of css3d test, got 41"):
        evaluate(split, queries, vectors(rng, 41))
    with pytest.raises(ValueError, match="of one size D"):
        evaluate(split, queries, gallery[:, :2])
    with pytest.raises(ValueError, match="not finite"):
        evaluate(split, queries, np.where(np.arange(40)[:, None] == 7, np.nan, gallery))
    with pytest.raises(ValueError, match="no list of queries"):
        evaluate(replace(split, queries=()), queries[:0], gallery)
    with pytest.raises(ValueError, match="needs the category of every query"):
        evaluate(split, queries, gallery, "composeAE")
    test = replace(fashion_split(rng, "clip4cir"), galleries={"all": np.arange(170)})
    with pytest.raises(ValueError, match="unknown gallery of fashion_iq 'original/dress'"):
        evaluate(test, vectors(rng, 30), vectors(rng, 170))
