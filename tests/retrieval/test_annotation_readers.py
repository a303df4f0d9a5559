"""FashionIQ, CIRR, Shoes and YouMakeup: the published counts, and small stand-ins with pictures."""

import json
from collections import Counter
from itertools import combinations, pairwise
from math import comb
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.datasets import COMPOSED, cirr, fashion_iq, shoes, youmakeup
from retrieval.datasets.annotations import WITHOUT_PICTURES, read_json, read_json_lines, read_lines
from retrieval.evaluation import evaluate
from retrieval.gallery import Triplet
from retrieval.pictures import MISSING

PUBLISHED = Path(__file__).resolve().parents[3] / "shared/data/annotations"
published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason=f"the published annotation files are not in {PUBLISHED}"
)


def write(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value)
    path.write_text(text)


def draw(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8), (shade, shade, shade)).save(path)


def shades(split) -> list[int]:
    return [round(float(picture.mean())) for picture in split.pictures]


def mean_words(captions) -> float:
    return sum(len(caption.split()) for caption in captions) / len(captions)


# ---- FashionIQ: published counts

FASHION_COUNTS = {  # images, pairs, candidates, targets, both, words per caption
    ("dress", "train"): (11452, 5985, 3874, 5985, 7757, 5.25),
    ("dress", "val"): (3817, 2017, 1331, 2017, 2628, 5.27),
    ("dress", "test"): (3818, 2024, 1356, None, None, 5.33),
    ("shirt", "train"): (19036, 5988, 4408, 5988, 8988, 5.22),
    ("shirt", "val"): (6346, 2038, 1541, 2038, 3089, 5.24),
    ("shirt", "test"): (6346, 2038, 1496, None, None, 5.27),
    ("toptee", "train"): (16121, 6027, 4328, 6027, 8695, 5.50),
    ("toptee", "val"): (5373, 1961, 1454, 1961, 2902, 5.56),
    ("toptee", "test"): (5374, 2056, 1509, None, None, 5.59),
}


@published
@pytest.mark.parametrize("category, split", FASHION_COUNTS)
def test_fashion_iq_category(category, split):
    read = fashion_iq.read_annotations(PUBLISHED / "fashioniq", split, category, "clip4cir")
    images, pairs, candidates, targets, both, words = FASHION_COUNTS[category, split]
    assert len(read) == images == len(read.galleries[f"original/{category}"])
    assert len(read.queries) == pairs
    assert len({query.reference for query in read.queries}) == candidates
    hidden = {query.target for query in read.queries} == {-1}
    assert hidden == (split == "test")
    if not hidden:
        assert len({query.target for query in read.queries}) == targets
        assert len(read.galleries[f"val/{category}"]) == both
        assert all(query.reference != query.target for query in read.queries)
    captions = [caption for fact in read.facts for caption in fact["captions"]]
    assert mean_words(captions) == pytest.approx(words, abs=0.005)


@published
@pytest.mark.parametrize(
    "split, pairs, images, listed",
    [("train", 18000, 45429, 46609), ("val", 6016, 15415, 15536), ("test", 6118, 15417, 15538)],
)
def test_fashion_iq_categories_together(split, pairs, images, listed):
    read = fashion_iq.read_annotations(PUBLISHED / "fashioniq", split, joining="start_kit")
    assert (len(read.queries), len(read)) == (pairs, images)
    lists = [read.galleries[f"original/{category}"] for category in fashion_iq.CATEGORIES]
    assert sum(len(rows) for rows in lists) == listed
    dress, shirt, toptee = (set(rows.tolist()) for rows in lists)
    assert not dress & (shirt | toptee)
    assert len(shirt & toptee) == {"train": 1180, "val": 121, "test": 121}[split]
    both = fashion_iq.rejoin(read, "comqueryformer")
    assert len(both.queries) == 2 * pairs
    assert len(both.texts) == (36000 if split == "train" else 0)


@published
def test_fashion_iq_images_shared_between_splits():
    lists = {
        (category, split): set(
            read_json(PUBLISHED / f"fashioniq/image_splits/split.{category}.{split}.json")
        )
        for category, split in FASHION_COUNTS
    }

    def shared(left: str, right: str) -> tuple[int, int]:
        return (
            len(lists["shirt", left] & lists["toptee", right]),
            len(lists["toptee", left] & lists["shirt", right]),
        )

    assert shared("train", "val") == (392, 419)
    assert shared("train", "test") == (393, 410)
    assert shared("val", "test") == (135, 131)
    for category in fashion_iq.CATEGORIES:
        for left, right in combinations(("train", "val", "test"), 2):
            assert not lists[category, left] & lists[category, right]


# ---- FashionIQ: a stand-in


def fashion_folder(root: Path, folder: str = "all_imgs", end: str = ".jpg") -> Path:
    """Two images a category; a shirt and a top are one image."""
    lists = {"dress": ["D0", "D1"], "shirt": ["S0", "ST"], "toptee": ["ST", "T1"]}
    for category, images in lists.items():
        write(root / f"image_splits/split.{category}.val.json", images)
        captions = [" Is Red.", "has dots, "] if category == "dress" else ["is long", "is blue"]
        pair = {"candidate": images[1], "target": images[0], "captions": captions}
        write(root / f"captions/cap.{category}.val.json", [pair])
        for image in images:
            place = root / folder.format(category=category) / f"{image}{end}"
            draw(place, 20 * (1 + ["D0", "D1", "S0", "ST", "T1"].index(image)))
    return root


@pytest.mark.parametrize("folder", fashion_iq.FOLDERS)
@pytest.mark.parametrize("end", [".jpg", ".png"])
def test_fashion_iq_pictures_in_every_known_layout(tmp_path, folder, end):
    split = fashion_iq.load_composed(fashion_folder(tmp_path, folder, end), "val", size=6)
    assert split.names == split.labels == ("D0", "D1", "S0", "ST", "T1")
    assert split.pictures.shape == (5, 6, 6, 3)
    assert shades(split) == pytest.approx([20, 40, 60, 80, 100], abs=2)
    assert split.galleries["original/toptee"].tolist() == [3, 4]
    assert [query.reference for query in split.queries[::2]] == [1, 3, 4]
    assert [query.target for query in split.queries[::2]] == [0, 2, 3]


JOINED = {
    "composeAE": (["dress  is red. and it has dots, "], [" is red. has dots, "]),
    "comqueryformer": ([" Is Red. and has dots, ", "has dots,  and  Is Red."],) * 2,
    "start_kit": ([" Is Red. <and> has dots, "],) * 2,
    "clip4cir": (["Is red and has dots"],) * 2,
}


@pytest.mark.parametrize("joining", fashion_iq.JOININGS)
def test_fashion_iq_joinings_by_hand(tmp_path, joining):
    root = fashion_folder(tmp_path)
    together, alone = JOINED[joining]
    for category, expected in (("all", together), ("dress", alone)):
        split = fashion_iq.read_annotations(root, "val", category, joining)
        assert [query.caption for query in split.queries][: len(expected)] == expected
        other = fashion_iq.read_annotations(root, "val", category, "start_kit")
        again = fashion_iq.rejoin(other, joining)
        assert again.queries == split.queries and again.facts == split.facts
        assert [fact["order"] for fact in split.facts][:2] == (
            [0, 1] if joining == "comqueryformer" else [0] * min(2, len(split.facts))
        )


def test_fashion_iq_without_some_pictures(tmp_path):
    root = fashion_folder(tmp_path)
    (root / "all_imgs/S0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 pictures are missing.*S0.jpg"):
        fashion_iq.load_composed(root, "val", size=6)
    split = fashion_iq.load_composed(root, "val", size=6, skip_missing=True, joining="clip4cir")
    assert split.names == ("D0", "D1", "ST", "T1")
    assert split.queries == (
        Triplet(1, "Is red and has dots", 0),
        Triplet(3, "Is long and is blue", 2),
    )
    assert [fact["category"] for fact in split.facts] == ["dress", "toptee"]
    assert {name: rows.tolist() for name, rows in split.galleries.items()} == {
        "all": [0, 1, 2, 3],
        "original/dress": [0, 1],
        "val/dress": [0, 1],
        "original/shirt": [2],
        "val/shirt": [2],
        "original/toptee": [2, 3],
        "val/toptee": [2, 3],
    }
    assert dict(split.skipped) == {MISSING: 1, WITHOUT_PICTURES: 1}
    report = evaluate(split, np.eye(4)[[0, 2]], np.eye(4))
    assert report["skipped"] == {MISSING: 1, WITHOUT_PICTURES: 1}
    assert report["rows"][0]["queries"] == 1


def test_fashion_iq_mistakes_are_named(tmp_path):
    root = fashion_folder(tmp_path)
    with pytest.raises(ValueError, match="unknown category of fashion_iq 'dres'.*'dress'"):
        fashion_iq.read_annotations(root, "val", "dres")
    with pytest.raises(ValueError, match="unknown joining of captions 'composeae'"):
        fashion_iq.read_annotations(root, "val", joining="composeae")
    with pytest.raises(FileNotFoundError, match=r"split.dress.test.json"):
        fashion_iq.read_annotations(root, "test")
    path = root / "captions/cap.dress.val.json"
    for entry, message in (
        ({"candidate": "D0", "target": "S0", "captions": ["a", "b"]}, "'S0' in .*split.dress"),
        ({"candidate": "D0", "target": "D1", "captions": ["a"]}, "expected two captions"),
        ({"target": "D1", "captions": ["a", "b"]}, "expected the field 'candidate'"),
    ):
        write(path, [entry])
        with pytest.raises(ValueError, match=message):
            fashion_iq.read_annotations(root, "val")
    write(path, "[{")
    with pytest.raises(ValueError, match="not whole JSON"):
        fashion_iq.read_annotations(root, "val")
    write(root / "image_splits/split.dress.val.json", ["D0", "D0"])
    with pytest.raises(ValueError, match="lists 1 images twice"):
        fashion_iq.read_annotations(root, "val")


# ---- CIRR


@published
@pytest.mark.parametrize(
    "split, images, pairs, words, references",
    [("val", 2297, 4181, 11.0, 2165), ("test", 2315, 4148, 10.7, 2178)],
)
def test_cirr_counts(split, images, pairs, words, references):
    read = cirr.read_annotations(PUBLISHED / "cirr", split)
    assert (len(read), len(read.queries)) == (images, pairs)
    assert len({fact["image_set"] for fact in read.facts}) == 503
    assert mean_words([query.caption for query in read.queries]) == pytest.approx(words, abs=0.05)
    assert len({query.reference for query in read.queries}) == references
    assert len({fact["pairid"] for fact in read.facts}) == pairs
    for query, fact in zip(read.queries, read.facts, strict=True):
        assert len(set(fact["members"])) == 6 and query.reference in fact["members"]
        if split == "val":
            assert query.target in fact["members"] and query.target != query.reference
        else:
            assert query.target == -1
    if split == "val":
        assert max(Counter(fact["image_set"] for fact in read.facts).values()) == 9


@published
def test_cirr_train_images_and_soft_targets():
    root = PUBLISHED / "cirr"
    assert len(read_json(root / "image_splits/split.rc2.train.json")) == 16939
    entries = read_json(root / "captions/cap.rc2.val.json")
    assert {weight for entry in entries for weight in entry["target_soft"].values()} == {
        1.0, 0.5, 0.2, -1.0
    }  # fmt: skip
    assert sum(entry["target_hard"] not in entry["target_soft"] for entry in entries) == 37
    with pytest.raises(FileNotFoundError, match=r"cap.rc2.train.json"):
        cirr.load_composed(root, "train")


def cirr_folder(root: Path, folder: str = ".", annotations: str = ".") -> Path:
    names = [f"dev-{row}-img0" for row in range(13)]
    entries = [
        {
            "pairid": 12 + pair,
            "reference": names[6 * pair],
            "target_hard": names[6 * pair + 2],
            "target_soft": {names[0]: 1.0},
            "caption": f"caption {pair}",
            "img_set": {"id": pair, "members": names[6 * pair : 6 * pair + 6], "target_rank": 0},
        }
        for pair in range(2)
    ]
    write(root / annotations / "captions/cap.rc2.val.json", entries)
    files = {name: f"./dev/{name}.png" for name in names}
    write(root / annotations / "image_splits/split.rc2.val.json", files)
    for row, path in enumerate(files.values()):
        draw(root / folder / path, 10 * row)
    return root


@pytest.mark.parametrize("folder, annotations", [(".", "."), ("img_raw", "."), (".", "cirr")])
def test_cirr_layouts(tmp_path, folder, annotations):
    split = cirr.load_composed(cirr_folder(tmp_path, folder, annotations), "val", size=6)
    assert shades(split) == [10 * row for row in range(13)]
    assert split.queries == (Triplet(0, "caption 0", 2), Triplet(6, "caption 1", 8))
    assert split.facts[1] == {"pairid": 13, "image_set": 1, "members": (6, 7, 8, 9, 10, 11)}


def test_cirr_queries_need_their_whole_image_set(tmp_path):
    root = cirr_folder(tmp_path)
    (root / "dev/dev-4-img0.png").unlink()  # only a member of the first query's set
    (root / "dev/dev-12-img0.png").unlink()  # in no set
    with pytest.raises(FileNotFoundError, match="2 of 13 pictures"):
        cirr.load_composed(root, "val", size=6)
    split = cirr.load_composed(root, "val", size=6, skip_missing=True)
    assert len(split) == 11 and "dev-4-img0" not in split.names
    assert split.queries == (Triplet(5, "caption 1", 7),)
    assert split.facts[0]["members"] == (5, 6, 7, 8, 9, 10)
    assert dict(split.skipped) == {MISSING: 2, WITHOUT_PICTURES: 1}
    (root / "dev/dev-7-img0.png").unlink()
    with pytest.raises(ValueError, match="none of the 2 queries of cirr val"):
        cirr.load_composed(root, "val", size=6, skip_missing=True)


# ---- Shoes


@published
def test_shoes_counts():
    root = PUBLISHED / "shoes"
    train, test = shoes.read_annotations(root, "train"), shoes.read_annotations(root, "test")
    assert (len(train), len(test)) == (10000, 4658)
    assert not set(train.names) & set(test.names)
    assert dict(train.skipped) == {shoes.SAME_IMAGE: 26} and not test.skipped
    assert len(train.queries) + 26 == 8990 and len(test.queries) == 1761
    assert len(train.queries) + 26 + len(test.queries) == 10751
    assert sum(query.reference == query.target for query in test.queries) == 1
    assert not any(query.reference == query.target for query in train.queries)
    assert (
        len({query.target for query in test.queries}),
        len({query.reference for query in test.queries}),
    ) == (1334, 1388)
    entries = read_json(root / "relative_captions_shoes.json")
    known = set(train.names)
    training = [entry for entry in entries if entry["ImageName"] in known]
    assert len({entry["ImageName"] for entry in training}) == 6633
    assert len({entry["ReferenceImageName"] for entry in training}) == 5473
    assert len({(entry["ImageName"], entry["ReferenceImageName"]) for entry in entries}) == 10751
    captions = [entry["RelativeCaption"] for entry in entries]
    assert mean_words(captions) == pytest.approx(5.2, abs=0.05)
    assert max(len(caption.split()) for caption in captions) == 13
    assert train.texts == tuple(query.caption for query in train.queries) and not test.texts


@published
def test_shoes_classes_and_single_captions():
    root = PUBLISHED / "shoes"
    lists = {split: read_lines(root / name) for split, name in shoes.SPLITS.items()}
    classes = Counter(shoes.shoe_class(name) for names in lists.values() for name in names)
    assert classes == {
        "stiletto": 1696, "high_heels": 1668, "athletic_shoes": 1644, "clogs": 1641, "pumps": 1602,
        "boots": 1586, "flats": 1513, "sneakers": 1143, "wedding_shoes": 1138, "rain_boots": 1027,
    }  # fmt: skip
    singles = read_json(root / "captions_shoes.json")
    assert len({entry["ImageName"] for entry in singles}) == len(singles) == 3600
    known = set(lists["train"])
    in_train = sum(entry["ImageName"] in known for entry in singles)
    assert (in_train, 3600 - in_train) == (3000, 600)
    assert mean_words([entry["Caption"] for entry in singles]) == pytest.approx(4.5, abs=0.05)


@pytest.mark.parametrize("place", ["womens_{}", "images/womens_{}/0", "."])
def test_shoes_pictures_in_every_known_layout(tmp_path, place):
    names = ["img_womens_boots_1.jpg", "img_womens_rain_boots_2.jpg", "img_womens_boots_3.jpg"]
    write(tmp_path / "eval_im_names.txt", "\n".join(names) + "\n\n")
    write(tmp_path / "train_im_names.txt", "img_womens_clogs_9.jpg")
    rows = [(0, 1, "taller"), (2, 2, "the same"), (1, 0, "shorter")]
    entries = [
        {"ReferenceImageName": names[a], "ImageName": names[b], "RelativeCaption": caption}
        for a, b, caption in rows
    ]
    other = {"ReferenceImageName": "img_womens_clogs_9.jpg", "ImageName": "img_womens_clogs_9.jpg"}
    write(tmp_path / "relative_captions_shoes.json", [{**other, "RelativeCaption": "x"}, *entries])
    for row, name in enumerate(names):
        draw(tmp_path / place.format(shoes.shoe_class(name)) / name, 50 * row)
    split = shoes.load_composed(tmp_path, "test", size=6)
    assert split.queries == tuple(Triplet(a, caption, b) for a, b, caption in rows)
    assert shades(split) == [0, 50, 100]
    train = shoes.read_annotations(tmp_path, "train")
    assert not train.queries and dict(train.skipped) == {shoes.SAME_IMAGE: 1}
    with pytest.raises(ValueError, match=r"unknown split of shoes 'tset'. Did you mean 'test'"):
        shoes.load_composed(tmp_path, "tset")


# ---- YouMakeup


@published
@pytest.mark.parametrize(
    "split, videos, steps, longest, words, void, single, few, many",
    [
        ("train", 1680, 17752, 35, 7.6, 9, 92, 252, 1336),
        ("test", 280, 3167, 30, 7.6, 0, 12, 37, 231),
    ],
)
def test_youmakeup_counts(split, videos, steps, longest, words, void, single, few, many):
    read = youmakeup.read_steps(PUBLISHED / "youmakeup", split)
    counts = [len(own) for own in read.values()]
    every = [step for own in read.values() for step in own]
    assert (len(read), len(every), min(counts), max(counts)) == (videos, steps, 1, longest)
    assert mean_words([step.caption for step in every]) == pytest.approx(words, abs=0.05)
    assert sum(step.end <= step.start for step in every) == void
    assert len({area for step in every for area in step.areas}) == 24
    assert sum(count == 1 for count in counts) == single
    assert sum(2 <= count <= 4 for count in counts) == few
    assert sum(count >= 5 for count in counts) == many
    usable = youmakeup.usable_steps(read)
    assert sum(map(len, usable.values())) == steps - void
    if split == "test":
        assert sum(count >= 6 for count in counts) == 222


@published
@pytest.mark.parametrize("split, long, total", [("train", 66116, 66900), ("test", 12028, 12100)])
def test_youmakeup_modification_counts(split, long, total):
    read = youmakeup.read_steps(PUBLISHED / "youmakeup", split)
    made = youmakeup.modifications(read, np.random.default_rng(0))
    assert sum(len(read[it.video]) >= 5 for it in made) == long
    assert len(made) == pytest.approx(total, abs=60)
    assert sum(4 * min(comb(len(own), 5), len(own)) for own in read.values()) == long


@published
@pytest.mark.parametrize(
    "name, count, videos, fewest, most",
    [("validation", 1200, 131, 5, 30), ("test", 1500, 165, 6, 32)],
)
def test_youmakeup_ordering_questions(name, count, videos, fewest, most):
    path = PUBLISHED / f"youmakeup/image_ordering/image_ordering_{name}.json"
    questions = read_json_lines(path)
    assert len(questions) == count
    assert [question["question_id"] for question in questions] == list(range(1, count + 1))
    assert len({question["video_id"] for question in questions}) == videos
    captions = [len(question["step_caption"]) for question in questions]
    assert (min(captions), max(captions)) == (fewest, most)
    for question in questions:
        assert question["groundtruth"] in question["candidate_answer"]
        assert len({tuple(answer) for answer in question["candidate_answer"]}) == 4


def make_steps(count: int) -> tuple[youmakeup.Step, ...]:
    return tuple(youmakeup.Step(at, at + 1, ("lip",), f"do {at}") for at in range(count))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9])
def test_modifications_are_consecutive_pairs_of_different_sequences(count):
    steps = {"v": make_steps(count)}
    totals = set()
    for seed in range(40):
        made = youmakeup.modifications(steps, np.random.default_rng(seed))
        assert made == youmakeup.modifications(steps, np.random.default_rng(seed))
        totals.add(len(made))
        for it in made:
            assert it.source < it.target
            assert it.caption == "".join(f" do {at}" for at in range(it.source + 1, it.target + 1))
        if count >= 5:  # four pairs a sequence, one sequence after another
            chunks = [made[at : at + 4] for at in range(0, len(made), 4)]
            for chunk in chunks:
                assert all(one.target == other.source for one, other in pairwise(chunk))
            sequences = {(chunk[0].source, *(it.target for it in chunk)) for chunk in chunks}
            assert len(sequences) == len(chunks)
    lengths = [5] if count >= 5 else range(2, count + 1)
    assert totals == {(m - 1) * min(count, comb(count, m)) for m in lengths} or totals == {0}
    assert (totals == {0}) == (count == 1)


def makeup_folder(root: Path, videos: dict[str, int]) -> Path:
    """Videos of a second per step at 30 frames; the shade says which step, the names say when."""
    lines = []
    for video, count in videos.items():
        steps = {}
        for at in range(count + 1):  # one more, which is void
            start, end = (at, at + 1) if at < count else (at, at)
            steps[str(at + 1)] = {
                "startime": f"00:00:{start:02}", "endtime": f"00:00:{end:02}", "area": ["lip"],
                "caption": f"do {at}",
            }  # fmt: skip
            if start == end:
                continue
            for frame in range(30 * end - 12, 30 * end):  # two more than are kept
                folder = root / f"frames/{video}_{30 * start}_{30 * end}"
                draw(folder / f"{video}_{frame}.jpg", 20 * at + frame - 30 * end + 12)
        lines.append(json.dumps({"video_id": video, "title": video, "step": steps}))
    lines.append(json.dumps({"video_id": "not listed", "step": {}}))
    write(root / "train/train_steps.json", "\n".join(lines))
    write(root / "train/train_id", "\n".join(videos))
    return root


def test_youmakeup_queries_and_training_draws(tmp_path):
    split = youmakeup.load_composed(makeup_folder(tmp_path, {"a_b": 6, "-c": 2}), "train", size=6)
    assert len(split) == 10 * 8 and len(split.queries) == 6 * 4 + 1
    assert split.texts == tuple(query.caption for query in split.queries)
    shade = shades(split)
    assert shade[:10] == pytest.approx(range(2, 12), abs=2)  # the last ten of twelve, in order
    for query, fact in zip(split.queries, split.facts, strict=True):
        assert query.reference == fact["sources"][-1] and query.target == fact["targets"][-1]
        for row in (*fact["sources"], *fact["targets"]):
            assert f"frames/{fact['video']}_" in split.names[row]
        gap = (shade[query.target] - shade[query.reference]) / 20
        assert round(gap) == fact["step_gap"] == query.caption.count("do")
        assert np.diff(fact["sources"]).tolist() == [1] * 9

    assert split.sample is not None
    drawn = split.sample(np.random.default_rng(1), 400)
    assert drawn == split.sample(np.random.default_rng(1), 400)
    positions = Counter()
    for triplet in drawn:
        pairs = {
            (position, fact["video"])
            for query, fact in zip(split.queries, split.facts, strict=True)
            for position in range(10)
            if (fact["sources"][position], fact["targets"][position]) == triplet[::2]
            and query.caption == triplet.caption
        }
        assert len({position for position, _ in pairs}) == 1
        positions.update(position for position, _ in pairs)
    assert set(positions) == {5, 6, 7, 8, 9}


def test_youmakeup_frames_that_are_not_all_there(tmp_path):
    root = makeup_folder(tmp_path, {"whole": 5, "cut": 5})
    for frame in range(18, 21):
        (root / f"frames/cut_0_30/cut_{frame}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 videos lack.*first is cut.*skip-missing"):
        youmakeup.load_composed(root, "train", size=6)
    split = youmakeup.load_composed(root, "train", size=6, skip_missing=True)
    assert dict(split.skipped) == {youmakeup.WITHOUT_FRAMES: 1}
    assert {fact["video"] for fact in split.facts} == {"whole"} and len(split) == 50
    damaged = root / "frames/whole_0_30/whole_29.jpg"
    damaged.write_bytes(b"no picture")
    (root / "train/train_id").write_text("whole\nlost")
    with pytest.raises(ValueError, match="1 of 2 videos.*have no steps, the first is lost"):
        youmakeup.load_composed(root, "train", size=6)
    (root / "train/train_id").write_text("whole")
    split = youmakeup.load_composed(root, "train", size=6, skip_missing=True)
    assert len(split) == 49
    assert all(fact["sources"][-1] >= 29 or fact["sources"][0] >= 9 for fact in split.facts)
    assert split.sample is not None  # draws from what is left, with its new rows
    assert max(max(triplet[::2]) for triplet in split.sample(np.random.default_rng(0), 99)) < 49
    with pytest.raises(FileNotFoundError, match="1 of 1 videos lack the frames"):
        youmakeup.load_composed(makeup_without_frames(tmp_path / "bare"), "train", size=6)


def makeup_without_frames(root: Path) -> Path:
    step = {"startime": "00:01:02", "endtime": "01:00:03", "area": [], "caption": "do"}
    write(root / "train/train_steps.json", json.dumps({"video_id": "v", "step": {"1": step}}))
    write(root / "train/train_id", "v")
    assert youmakeup.read_steps(root, "train")["v"][0] == (62, 3603, (), "do")
    return root


def test_youmakeup_times_that_are_none_are_named(tmp_path):
    root = makeup_without_frames(tmp_path)
    path = root / "train/train_steps.json"
    write(path, path.read_text().replace("00:01:02", "1:02"))
    with pytest.raises(ValueError, match="expected times like 00:01:37 in .*got '1:02'"):
        youmakeup.read_steps(root, "train")


# ---- all of them


@pytest.mark.parametrize("name", ["fashion_iq", "fashionIQ", "cirr", "shoes", "youmakeup"])
def test_readers_are_registered_and_name_what_is_missing(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="expected the annotations"):
        COMPOSED[name](tmp_path, "train")
    with pytest.raises(ValueError, match="unknown split of"):
        COMPOSED[name](tmp_path, "valdation")
