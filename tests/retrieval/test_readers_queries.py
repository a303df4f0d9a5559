"""CSS, MIT-States and Fashion200k as composed retrieval: who is asked for, and how one trains."""

import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.datasets import COMPOSED, css, fashion200k, mit_states
from retrieval.datasets.base import renumber
from retrieval.gallery import Triplet
from retrieval.rendering.build import ARCHIVE, picture_name
from retrieval.rendering.pictures_2d import render_2d, to_uint8


def save_picture(path: Path, number: int, size=(12, 9)) -> None:
    """A plain picture whose grey value is its number, times ten."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number * 10,) * 3).save(path, quality=100)


def numbers(table: np.ndarray) -> list[int]:
    """Which pictures of `save_picture` these are."""
    return [round(float(picture.mean()) / 10) for picture in table]


def shares(draws: list[Triplet]) -> dict[Triplet, float]:
    return {triplet: count / len(draws) for triplet, count in Counter(draws).items()}


def close(found: dict[Triplet, float], wanted: dict[Triplet, float], tolerance=0.012) -> bool:
    """Whether exactly the possible triplets came, each about as often as it should."""
    return found.keys() == wanted.keys() and all(
        abs(found[triplet] - share) < tolerance for triplet, share in wanted.items()
    )


# ---- worlds of each data set


def item(shape: str, color: str, row: float, column: float) -> dict:
    return {"shape": shape, "color": color, "size": "large", "pos": [row, column]}


BALL, CUBE = item("circle", "red", 0.5, 0.5), item("rectangle", "blue", 0.25, 0.75)
SCENES = [[BALL], [BALL, CUBE], [CUBE], [item("circle", "gray", 0.5, 0.5)], [BALL, CUBE]]
MODS = [
    {"from": [0, 3], "to": [1, 2], "to_str": "add large blue rectangle to top-right"},
    {"from": [1, 4], "to": [2, 2], "to_str": "remove red object"},
    {"from": [0], "to": [3], "to_str": "make middle-center red circle gray"},
    {"from": [0, 0], "to": [2, 4], "to_str": "remove red object"},
]


def make_css(root: Path, **more) -> Path:
    """Five scenes, two of them equal, and four modifications, in the published layout."""
    content = {"objects_img": SCENES, "labels": [7, 8, 9, 10, 8], "mods": MODS, **more}
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ARCHIVE, "wb") as file:
        np.save(file, np.array({"train": content, "test": content}, dtype=object))
    for split in ("train", "test"):
        for row in range(len(SCENES)):
            save_picture(root / "images" / picture_name(split, row), row + 1)
    return root


STATES = ["old cat", "ripe fig", "moldy fig", "wet cat", "cut fig", "adj fig", "unsorted",
          "wet dog", "big dog"]  # fmt: skip


def make_mit_states(root: Path) -> Path:
    """Three test labels and four training labels; the ripe fig and the old cat come twice."""
    for number, folder in enumerate(STATES):
        save_picture(root / "images" / folder / "b.jpg", number + 1)
    save_picture(root / "images" / "ripe fig" / "a.jpg", 20)
    save_picture(root / "images" / "old cat" / "a.jpg", 21)
    return root


TRAIN = [
    "red silk dress",
    "blue silk dress",
    "red silk skirt",
    "green belt & bag",
    "red silk dress",
]
TEST = ["black lace top", "white lace top.", "black lace top", "long blue pants"]


def make_fashion200k(root: Path) -> Path:
    """Five training pictures (four can be modified) and four test pictures with three queries."""
    for split, captions in (("train", TRAIN), ("test", TEST)):
        lines = []
        for number, caption in enumerate(captions):
            name = f"women/tops/{split}/{number}.jpeg"
            save_picture(root / name, number + 1)
            lines.append(f"{name}\t0.{number}\t{caption}\n")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"top_{split}_detect_all.txt").write_text("".join(lines[:3]))
        # read first, being first in the alphabet
        (root / "labels" / f"dress_{split}_detect_all.txt").write_text("".join(lines[3:]))
    queries = [(0, 1), (1, 3), (2, 1)]
    (root / fashion200k.QUERIES).write_text(
        "".join("women/tops/test/{}.jpeg women/tops/test/{}.jpeg\n".format(*q) for q in queries)
    )
    return root


MAKERS = {
    "css3d": make_css, "css2d": make_css, "mitstates": make_mit_states,
    "fashion200k": make_fashion200k,
}  # fmt: skip
SIZE = {"css3d": {}, "css2d": {}, "mitstates": {"size": 8}, "fashion200k": {"size": 8}}


@pytest.fixture
def make(tmp_path):
    """A data set's tiny world, made on demand."""
    return lambda name: MAKERS[name](tmp_path / name)


# ---- what holds for all of them


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_is_whole(make, name, split):
    found = COMPOSED[name](make(name), split, **SIZE[name])
    assert (found.dataset, found.split) == (name, split)
    assert len(found.labels) == len(found.pictures) == len(found.names) == len(set(found.names))
    assert found.pictures.dtype == np.uint8
    assert found.galleries["all"].tolist() == list(range(len(found)))
    assert found.skipped == {}
    assert (found.sample is None) == (split == "test")
    assert bool(found.texts) == (split == "train")
    if split == "test":
        assert found.queries
    for query in found.queries:
        assert 0 <= query.reference < len(found) and 0 <= query.target < len(found)


@pytest.mark.parametrize("name", MAKERS)
def test_training_triplets_follow_from_the_seed(make, name):
    sample = COMPOSED[name](make(name), "train", **SIZE[name]).sample
    for count in (0, 1, 5, 32):
        first = sample(np.random.default_rng(3), count)
        assert first == sample(np.random.default_rng(3), count) and len(first) == count
    assert sample(np.random.default_rng(4), 32) != first
    assert all(type(x.reference) is int and type(x.target) is int for x in first)
    again = pickle.loads(pickle.dumps(sample))
    assert again(np.random.default_rng(3), 32) == first


@pytest.mark.parametrize("name", MAKERS)
def test_unknown_splits_are_named(make, name):
    with pytest.raises(ValueError, match=r"unknown split.*'tset'.*(train|test).*(train|test)"):
        COMPOSED[name](make(name), "tset", **SIZE[name])


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_without_data_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"^expected .* in .*nowhere"):
        COMPOSED[name](tmp_path / "nowhere", "train", **SIZE[name])


@pytest.mark.parametrize("name", ["css3d", "mitstates", "fashion200k"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_broken_pictures_are_refused_or_left_out_with_their_queries(make, name, split):
    root = make(name)
    whole = COMPOSED[name](root, split, **SIZE[name])
    gone = {"css3d": 4, "mitstates": 2, "fashion200k": 2}[name]  # another has the same label
    (path,) = [path for path in root.rglob("*") if path.as_posix().endswith(whole.names[gone])]
    path.write_bytes(b"nothing")
    (root / "pictures" / f"3d_{split}.npy").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="cannot"):
        COMPOSED[name](root, split, **SIZE[name])

    found = COMPOSED[name](root, split, skip_missing=True, **SIZE[name])
    rest = [row for row in range(len(whole)) if row != gone]
    assert found.names == tuple(whole.names[row] for row in rest)
    assert found.labels == tuple(whole.labels[row] for row in rest)
    np.testing.assert_array_equal(found.pictures, np.stack([whole.pictures[row] for row in rest]))
    assert found.skipped["pictures unreadable"] == 1
    if name != "mitstates":  # whose queries are worked out from what is there
        asked = [q for q in whole.queries if gone not in (q.reference, q.target)]
        assert [(found.names[q.reference], q.caption, found.names[q.target])
                for q in found.queries] == [
            (whole.names[q.reference], q.caption, whole.names[q.target]) for q in asked
        ]  # fmt: skip
        lost = len(whole.queries) - len(asked)
        assert found.skipped.get("queries of such pictures", 0) == lost
    if found.sample:
        for triplet in found.sample(np.random.default_rng(0), 60):
            assert max(triplet.reference, triplet.target) < len(found)


def test_queries_of_images_left_out_go():
    queries = [Triplet(0, "a", 3), Triplet(3, "b", -1), Triplet(1, "c", 0), Triplet(4, "d", 3)]
    found, positions = renumber(queries, np.array([0, 3, 4]), 5)
    assert found == [Triplet(0, "a", 1), Triplet(1, "b", -1), Triplet(2, "d", 1)]
    assert positions == [0, 1, 3]


# ---- CSS


def test_css_queries_are_every_pair_of_every_modification(make):
    for split in ("train", "test"):
        found = COMPOSED["css3d"](make("css3d"), split)
        assert found.queries == (
            Triplet(0, MODS[0]["to_str"], 1), Triplet(3, MODS[0]["to_str"], 2),
            Triplet(1, "remove red object", 2), Triplet(4, "remove red object", 2),
            Triplet(0, MODS[2]["to_str"], 3),
            Triplet(0, "remove red object", 2), Triplet(0, "remove red object", 4),
        )  # fmt: skip
        assert found.labels == ("7", "8", "9", "10", "8")
        assert found.names[4] == f"css_{split}_000004.png"
    assert COMPOSED["css3d"](make("css3d"), "train").texts == tuple(mod["to_str"] for mod in MODS)


@pytest.mark.parametrize("labels", [None, []])
def test_css_images_without_labels_are_called_by_number(tmp_path, labels):
    root = make_css(tmp_path / "css", labels=labels)
    assert COMPOSED["css3d"](root, "test").labels == ("0", "1", "2", "3", "4")


def test_css_looks(make):
    root = make("css3d")
    flat = np.stack([to_uint8(render_2d(scene)) for scene in SCENES])
    solid = COMPOSED["css3d"](root, "test")
    assert numbers(solid.pictures) == [1, 2, 3, 4, 5] and solid.pictures.shape[1:] == (9, 12, 3)
    assert solid.query_pictures is None
    assert COMPOSED["css3d"](root, "test", query_look="3d").query_pictures is None
    np.testing.assert_array_equal(COMPOSED["css2d"](root, "test").pictures, flat)
    both = COMPOSED["css3d"](root, "test", query_look="2d")
    np.testing.assert_array_equal(both.query_pictures, flat)
    assert numbers(both.pictures) == [1, 2, 3, 4, 5] and both.dataset == "css3d"


def test_css_two_looks_stay_aligned_when_pictures_are_left_out(make):
    root = make("css3d")
    (root / "images" / picture_name("test", 1)).unlink()
    found = COMPOSED["css3d"](root, "test", query_look="2d", skip_missing=True)
    flat = np.stack([to_uint8(render_2d(SCENES[row])) for row in (0, 2, 3, 4)])
    np.testing.assert_array_equal(found.query_pictures, flat)
    assert numbers(found.pictures) == [1, 3, 4, 5]
    assert found.skipped == {"pictures missing": 1, "queries of such pictures": 2}
    assert found.labels == ("7", "9", "10", "8")
    turned = COMPOSED["css2d"](root, "test", query_look="3d", skip_missing=True)
    np.testing.assert_array_equal(turned.pictures, flat)
    assert numbers(turned.query_pictures) == [1, 3, 4, 5] and turned.queries == found.queries


def test_css_pictures_are_scaled_as_a_whole(make):
    root = make("css3d")
    table = np.zeros((9, 12, 3), np.uint8)
    table[:, -2:] = 255  # an object at the border
    Image.fromarray(table).save(root / "images" / picture_name("test", 0))
    found = COMPOSED["css3d"](root, "test", query_look="2d", size=24)
    assert found.pictures.shape == found.query_pictures.shape == (5, 24, 24, 3)
    assert found.pictures[0, :, -3:].min() == 255
    for row, scene in enumerate(SCENES):
        picture = Image.fromarray(to_uint8(render_2d(scene)))
        wanted = np.asarray(picture.resize((24, 24), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(found.query_pictures[row], wanted)
    assert COMPOSED["css2d"](root, "test", size=64).pictures.shape == (5, 64, 64, 3)
    assert len(list((root / "pictures").glob("2d*"))) == 2  # 64 px are no second table


def test_css_training_triplets_come_in_twos(make):
    sample = COMPOSED["css3d"](make("css3d"), "train").sample
    drawn = sample(np.random.default_rng(0), 12_000)
    # scenes 1, 3 and 4 have one modification only: a fresh draw follows; scene 0 has three
    firsts, seconds, at = [], [], 0
    while at < len(drawn) - 1:
        firsts.append(drawn[at])
        at += 1
        if firsts[-1].reference == 0:
            seconds.append((firsts[-1], drawn[at]))
            at += 1
    add, gray, remove = MODS[0]["to_str"], MODS[2]["to_str"], "remove red object"
    assert close(shares(firsts), {
        Triplet(0, add, 1): 1 / 8, Triplet(3, add, 2): 1 / 8, Triplet(1, remove, 2): 1 / 8,
        Triplet(4, remove, 2): 1 / 8, Triplet(0, gray, 3): 1 / 4, Triplet(0, remove, 2): 1 / 8,
        Triplet(0, remove, 4): 1 / 8,
    }, tolerance=0.02)  # fmt: skip
    assert all(second.reference == 0 and second.caption != first.caption
               for first, second in seconds)  # fmt: skip
    after_gray = [second for first, second in seconds if first.caption == gray]
    assert close(shares(after_gray), {
        Triplet(0, add, 1): 1 / 2, Triplet(0, remove, 2): 1 / 4, Triplet(0, remove, 4): 1 / 4
    }, tolerance=0.05)  # fmt: skip


def test_css_equal_words_of_two_modifications_are_not_mixed():
    one, two = [Triplet(0, "remove", 1)], [Triplet(0, "remove", 2)]
    drawn = css.EditPairs([one, two])(np.random.default_rng(0), 40)
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        assert {first.target, second.target} == {1, 2}
    with pytest.raises(ValueError, match="expected modifications with pairs of scenes, got none"):
        css.EditPairs([[]])


@pytest.mark.parametrize(
    "spoil, told",
    [
        ({"labels": [1, 2]}, "expected CSS labels of 5 images, one per image, got 2"),
        ({"mods": [{"from": [0, 1], "to": [2], "to_str": "x"}]}, "the CSS modification 'x' does"),
        ({"mods": [{"from": [0], "to": [5], "to_str": "x"}]}, "images of the 5 there are"),
        ({"mods": [{"from": [-1], "to": [0], "to_str": "x"}]}, "images of the 5 there are"),
    ],
)
def test_css_files_that_contradict_themselves_are_refused(tmp_path, spoil, told):
    with pytest.raises(ValueError, match=told):
        COMPOSED["css3d"](make_css(tmp_path / "css", **spoil), "test")


def test_css_unknown_looks_are_named(make):
    for given in ({"look": "2D"}, {"query_look": "2D"}):
        with pytest.raises(ValueError, match="unknown look of CSS pictures '2D'. Known: 2d, 3d"):
            css.load_composed(make("css3d"), "test", **given)


def test_css_without_any_picture_is_refused(make):
    root = make("css3d")
    for path in (root / "images").iterdir():
        path.unlink()
    for given in ({}, {"skip_missing": True}, {"size": 8}):
        with pytest.raises(FileNotFoundError, match="5 pictures.*css_test_000000.png"):
            css.load_composed(root, "test", **given)
    assert len(css.load_composed(root, "test", look="2d")) == 5  # drawn, not read


# ---- MIT-States


def test_mit_states_holds_nouns_out():
    assert len(mit_states.TEST_NOUNS) == 49
    assert {"fig", "wool", "armor", "tomato", "paint"} < mit_states.TEST_NOUNS
    assert not {"cat", "dog"} & mit_states.TEST_NOUNS


def test_mit_states_splits_by_noun(make):
    root = make("mitstates")
    train, test = (COMPOSED["mitstates"](root, split, size=8) for split in ("train", "test"))
    assert test.names == ("cut fig/b.jpg", "moldy fig/b.jpg", "ripe fig/a.jpg", "ripe fig/b.jpg")
    assert test.labels == ("cut fig", "moldy fig", "ripe fig", "ripe fig")
    assert numbers(test.pictures) == [5, 3, 20, 2]
    assert train.labels == ("big dog", "old cat", "old cat", "wet cat", "wet dog") == train.texts
    assert numbers(train.pictures) == [9, 21, 1, 4, 8]
    assert train.queries == ()


def test_mit_states_asks_for_every_other_adjective(make):
    found = COMPOSED["mitstates"](make("mitstates"), "test", size=8)
    assert found.queries == (
        Triplet(0, "moldy", 1), Triplet(0, "ripe", 2),
        Triplet(1, "cut", 0), Triplet(1, "ripe", 2),
        Triplet(2, "cut", 0), Triplet(2, "moldy", 1),
        Triplet(3, "cut", 0), Triplet(3, "moldy", 1),
    )  # fmt: skip
    complete = COMPOSED["mitstates"](make("mitstates"), "test", size=8, complete_text=True)
    assert [q.caption for q in complete.queries[:3]] == ["moldy fig", "ripe fig", "cut fig"]


def test_mit_states_queries_agree_with_a_slow_count():
    chance = random.Random(0)
    labels = [f"a{chance.randrange(5)} n{chance.randrange(3)}" for _ in range(40)]
    wanted = set()
    for reference, label in enumerate(labels):
        for other in set(labels):
            if other.split()[1] == label.split()[1] and other != label:
                wanted.add((reference, other.split()[0], labels.index(other)))
    found = mit_states.other_adjectives(labels)
    assert set(found) == wanted and len(found) == len(wanted)
    assert [query.reference for query in found] == sorted(query.reference for query in found)


def test_mit_states_training_triplets_come_in_twos():
    labels = ["old cat", "wet cat", "wet cat", "big dog", "wet dog"]
    drawn = mit_states.AdjectivePairs(labels)(np.random.default_rng(0), 20_000)
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        assert first.reference == second.reference and first.caption != second.caption
    wanted = {}
    for reference, label in enumerate(labels):
        noun = label.split()[1]
        for adjective in {x.split()[0] for x in labels if x.split()[1] == noun}:
            rows = [row for row, x in enumerate(labels) if x == f"{adjective} {noun}"]
            for target in rows:  # two adjectives of each noun: both come every time
                wanted[Triplet(reference, adjective, target)] = 1 / 5 / 2 / len(rows)
    assert close(shares(drawn), wanted)
    complete = mit_states.AdjectivePairs(labels, complete_text=True)(np.random.default_rng(0), 40)
    assert all(labels[target] == caption for _, caption, target in complete)


def test_mit_states_targets_are_two_of_many_adjectives():
    labels = [f"{adjective} cat" for adjective in "abcd"]
    drawn = mit_states.AdjectivePairs(labels)(np.random.default_rng(0), 24_000)
    pairs = Counter((a.caption, b.caption) for a, b in zip(drawn[::2], drawn[1::2], strict=True))
    assert len(pairs) == 12 and all(abs(n / 12_000 - 1 / 12) < 0.012 for n in pairs.values())


@pytest.mark.parametrize(
    "path, error, told",
    [
        ("images/very old cat/a.jpg", ValueError, "'adjective noun' in .*got 'very old cat'"),
        ("images/old cat/a.png", ValueError, "only .jpg files .*the first is 'old cat/a.png'"),
        ("images/odd cow/a.jpg", ValueError, "two adjectives .* 'cow' has only 'odd'"),
    ],
)
def test_mit_states_that_do_not_fit_the_layout_are_refused(make, path, error, told):
    root = make("mitstates")
    save_picture(root / path, 1)
    with pytest.raises(error, match=told):
        COMPOSED["mitstates"](root, "train", size=8)


def test_mit_states_without_a_split_is_refused(tmp_path):
    save_picture(tmp_path / "images" / "ripe fig" / "a.jpg", 1)
    with pytest.raises(FileNotFoundError, match="no pictures of the train split"):
        COMPOSED["mitstates"](tmp_path, "train", size=8)


# ---- Fashion200k


def test_fashion200k_labels_and_queries(make):
    root = make("fashion200k")
    train, test = (COMPOSED["fashion200k"](root, split, size=8) for split in ("train", "test"))
    # files in alphabetical order: dress_* holds the last pictures
    assert train.labels == ("green belt andmark bag", "red silk dress", "red silk dress",
                            "blue silk dress", "red silk skirt") == train.texts  # fmt: skip
    assert train.names[0] == "women/tops/train/3.jpeg" and numbers(train.pictures) == [
        4,
        5,
        1,
        2,
        3,
    ]
    assert test.labels == ("long blue pants", "black lace top", "white lace topdotmark",
                           "black lace top")  # fmt: skip
    assert test.queries == (
        Triplet(1, "replace black with white", 2),
        Triplet(2, "replace white with long", 0),
        Triplet(3, "replace black with white", 2),
    )
    assert train.queries == ()
    complete = COMPOSED["fashion200k"](root, "test", size=8, complete_text=True)
    assert [q.caption for q in complete.queries] == [
        "white lace topdotmark", "long blue pants", "white lace topdotmark"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "given, wanted",
    [
        (" red dress\n", "red dress"),
        ("a.b? c & d*e", "adotmarkbquestionmark c andmark dstarmarke"),
        ("t-shirt, 100% (silk)", "t-shirt, 100% (silk)"),
        ("...", "dotmarkdotmarkdotmark"),
    ],
)
def test_fashion200k_marks_are_spelt_out(given, wanted):
    assert fashion200k.mark_punctuation(given) == wanted


@pytest.mark.parametrize(
    "source, target, wanted",
    [
        ("red silk dress", "red lace dress", "replace silk with lace"),
        ("red silk dress", "blue lace skirt", "replace red with blue"),  # the first, not all
        ("red dress", "red midi dress", "replace dress with midi"),  # nothing of its own: last
        ("red midi dress", "red dress", "replace midi with dress"),
        ("red dress", "dress red", "replace dress with red"),
        ("red red dress", "dress", "replace red with dress"),
        ("", "dress", "replace  with dress"),
    ],
)
def test_fashion200k_words_of_a_query(source, target, wanted):
    assert fashion200k.replacement(source, target) == wanted


def test_fashion200k_parents_of_a_hand_worked_table():
    captions = [
        "red dress",        # parents: dress, red
        "blue dress",       # dress, blue
        "blue bluebell",    # "bell" (blue goes twice), "blue"
        "red dress",        # again: no second child
        "bell",             # "" (the empty parent)
        "tea",              # "" too
        "a tall tea",       # "tll te" (every a goes), "a tea", "a tall"
        "the tall tea",     # "tall tea", "the tea", "the tall"
        "red hat dress",    # "hat dress", "red dress", "red hat"
        "red old dress",    # "old dress", "red dress", "red old"
        "x  y",             # " y" -> "y", "x"
    ]  # fmt: skip
    assert fashion200k.find_parents(captions) == {
        "dress": ["red dress", "blue dress"],
        "blue": ["blue dress", "blue bluebell"],
        "": ["bell", "tea"],
        "red dress": ["red hat dress", "red old dress"],
    }
    rule = fashion200k.WordReplacements(captions)
    assert rule.modifiable.tolist() == [0, 1, 2, 3, 4, 5, 8, 9]


def slow_parents(captions):
    """Letter by letter, and every pair of captions compared."""

    def without(text, letters, instead=""):
        kept, at = "", 0
        while at < len(text):
            if text[at : at + len(letters)] == letters:
                kept, at = kept + instead, at + len(letters)
            else:
                kept, at = kept + text[at], at + 1
        return kept

    produced = [
        [without(without(caption, word), "  ", " ").strip() for word in caption.split()]
        for caption in captions
    ]
    found = {}
    for own, parents in zip(captions, produced, strict=True):
        for parent in parents:
            children = [c for c, others in zip(captions, produced, strict=True) if parent in others]
            if len(set(children)) > 1 and parent not in found:
                found[parent] = list(dict.fromkeys(children))
        assert own  # no empty captions here
    return found


@pytest.mark.parametrize("seed", range(8))
def test_fashion200k_parents_agree_with_a_slow_search(seed):
    chance = random.Random(seed)
    words = ["red", "redder", "e", "d", "dress", "in red", "re", "s", "silk"]
    captions = [" ".join(chance.choices(words, k=chance.randint(1, 4))) for _ in range(60)]
    found = fashion200k.find_parents(captions)
    wanted = slow_parents(captions)
    assert found == wanted and list(found) == list(wanted)
    in_order = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    for children in found.values():
        assert [in_order[child] for child in children] == sorted(in_order[c] for c in children)
    if len(wanted):
        rule = fashion200k.WordReplacements(captions)
        of_some = {child for children in wanted.values() for child in children}
        assert rule.modifiable.tolist() == [i for i, c in enumerate(captions) if c in of_some]


def test_fashion200k_training_triplets_have_the_published_shares():
    labels = ["red silk dress", "blue silk dress", "red silk skirt", "belt", "red silk dress",
              "red lace dress", "green silk dress", "blue silk dress"]  # fmt: skip
    parents = slow_parents(labels)
    own_parents = [[p for p, children in parents.items() if label in children] for label in labels]
    modifiable = [row for row, found in enumerate(own_parents) if found]
    assert len(modifiable) == 7
    wanted = Counter()
    for reference in modifiable:
        for parent in own_parents[reference]:
            others = [child for child in parents[parent] if child != labels[reference]]
            for child in others:
                rows = [row for row, label in enumerate(labels) if label == child]
                for target in rows:
                    text = fashion200k.replacement(labels[reference], child)
                    share = len(modifiable) * len(own_parents[reference]) * len(others) * len(rows)
                    wanted[Triplet(reference, text, target)] += 1 / share
    assert sum(wanted.values()) == pytest.approx(1)
    drawn = fashion200k.WordReplacements(labels)(np.random.default_rng(0), 12_000)
    assert close(shares(drawn), dict(wanted))
    complete = fashion200k.WordReplacements(labels, complete_text=True)
    assert all(
        labels[target] == caption
        for _, caption, target in complete(np.random.default_rng(0), 50)
    )  # fmt: skip


def test_fashion200k_that_cannot_be_modified_is_refused():
    with pytest.raises(ValueError, match="captions that differ in one word among 2 images"):
        fashion200k.WordReplacements(["red dress", "blue belt"])


def test_fashion200k_missing_pictures_take_their_queries_along(make):
    root = make("fashion200k")
    (root / "women/tops/test/0.jpeg").unlink()
    (root / "women/tops/test/3.jpeg").write_bytes(b"nothing")
    with pytest.raises(FileNotFoundError, match=r"1 of 4 pictures .* women/tops/test/0.jpeg"):
        COMPOSED["fashion200k"](root, "test", size=8)
    found = COMPOSED["fashion200k"](root, "test", size=8, skip_missing=True)
    assert found.queries == (Triplet(1, "replace black with white", 0),)
    assert found.skipped == {
        "pictures missing": 1, "pictures unreadable": 1, "queries of such pictures": 2
    }  # fmt: skip


def test_fashion200k_files_that_cannot_be_read_are_named(make):
    root = make("fashion200k")
    labels, queries = root / "labels" / "top_test_detect_all.txt", root / fashion200k.QUERIES
    good, asked = labels.read_text(), queries.read_text()
    labels.write_text(good + "\nwomen/x.jpeg 0.5 red dress\n")
    with pytest.raises(ValueError, match=r"got 1 columns in line 5 of .*top_test_detect_all.txt"):
        COMPOSED["fashion200k"](root, "test", size=8)
    labels.write_text(good)
    queries.write_text(asked + "women/tops/test/0.jpeg\n")
    with pytest.raises(ValueError, match=r"got 1 columns in line 4 of .*test_queries.txt"):
        COMPOSED["fashion200k"](root, "test", size=8)
    queries.write_text(asked + "women/tops/test/0.jpeg women/tops/test/9.jpeg\n")
    with pytest.raises(ValueError, match=r"line 4 of .* asks for women/tops/test/9.jpeg, which no"):
        COMPOSED["fashion200k"](root, "test", size=8)
    queries.unlink()
    with pytest.raises(FileNotFoundError, match=r"list of test queries test_queries.txt in"):
        COMPOSED["fashion200k"](root, "test", size=8)
    assert len(COMPOSED["fashion200k"](root, "train", size=8)) == 5  # which needs no list


def test_fashion200k_lines_end_where_files_say_so(make):
    """Windows line ends, a byte that is no UTF-8, and a separator only Unicode knows."""
    root = make("fashion200k")
    path = root / "labels" / "top_train_detect_all.txt"
    lines = (
        path.read_bytes().replace(b"\n", b"\r\n").replace(b"blue silk", b"bl\xff \xe2\x80\xa8silk")
    )
    path.write_bytes(lines)
    found = COMPOSED["fashion200k"](root, "train", size=8)
    assert len(found) == 5 and found.labels[3] == "bl\ufffd \u2028silk dress"
