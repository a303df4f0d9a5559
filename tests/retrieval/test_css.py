"""The CSS data: made, read back, and refused where it is not whole."""

import io
import json
import os
import pickle
import shutil
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import retrieval.rendering.build as builder
from retrieval.datasets import DATASETS, css
from retrieval.features import has_features, load_features, save_features
from retrieval.gallery import Triplet
from retrieval.pickles import load_pickled
from retrieval.preparation import is_prepared, prepare, prepare_apart
from retrieval.rendering.build import ARCHIVE, BuildSpec, build, is_complete, sample_pairs
from retrieval.rendering.claims import is_faithful
from retrieval.rendering.pictures_2d import render_2d, to_uint8
from retrieval.rendering.scenes import from_objects, to_objects

SMALL = BuildSpec(train=(4, 3), test=(3, 2), train_captions=20, test_pairs=6)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """16 train and 9 test pictures."""
    root = tmp_path_factory.mktemp("made") / "css"
    build(root, SMALL, workers=1)
    return root


@pytest.fixture
def own(made, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "css"))


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---- making


def test_a_seed_makes_one_data_set(made, tmp_path):
    again = tmp_path / "again"
    build(again, SMALL, workers=2)
    assert files_of(again) == files_of(made)
    other = tmp_path / "other"
    build(other, BuildSpec(**{**vars(SMALL), "seed": 1}), workers=1)
    first = "images/css_train_000000.png"
    assert files_of(other)[first] != files_of(made)[first]
    assert not np.array_equal(css.load_scenes(other, "train"), css.load_scenes(made, "train"))


def test_the_layout_is_the_published_one(made):
    names = sorted(files_of(made))
    pictures = [f"images/css_test_{i:06d}.png" for i in range(9)]
    pictures += [f"images/css_train_{i:06d}.png" for i in range(16)]
    captions = [f"relative_captions_{look}_{split}.json"
                for look in ("2d", "3d") for split in ("test", "train")]  # fmt: skip
    assert names == sorted(["complete.json", ARCHIVE, *captions, *pictures])
    archive = np.load(made / ARCHIVE, allow_pickle=True).item()  # ours, so it may be unpickled
    assert sorted(archive) == ["test", "train"]
    for split, count in (("train", 16), ("test", 9)):
        assert sorted(archive[split]) == ["labels", "mods", "objects_img"]
        assert len(archive[split]["objects_img"]) == len(archive[split]["labels"]) == count
        assert all(sorted(mod) == ["from", "to", "to_str"] for mod in archive[split]["mods"])
    assert json.loads((made / "complete.json").read_text())["seed"] == 0
    with Image.open(made / pictures[0]) as picture:
        assert picture.size == (64, 64)


def test_sizes_are_those_asked_for(tmp_path):
    root = tmp_path / "css"
    build(root, BuildSpec(train=(1, 1), test=(1, 1), train_captions=1, test_pairs=1, size=80), 1)
    assert css.load_pictures(root, "train").shape == (2, 80, 80, 3)
    assert "80px" in BuildSpec(size=80).name != BuildSpec().name


def test_the_built_in_data_is_as_large_as_promised():
    spec = BuildSpec()
    assert spec.train[0] * (1 + spec.train[1]) >= 8000
    assert spec.test[0] * (1 + spec.test[1]) >= 4000
    assert spec.test_pairs >= 4000


def test_no_scene_occurs_twice(tmp_path):
    """Neither within a split nor across: with few objects, chance alone would repeat some."""
    archive, scenes = builder._sample(BuildSpec(train=(150, 5), test=(150, 5)))
    every = [scene.tobytes() for split in ("train", "test") for scene in scenes[split]]
    assert len(set(every)) == len(every) == 1800
    told = [from_objects(objects) for objects in archive["train"]["objects_img"]]
    np.testing.assert_array_equal(np.stack(told), scenes["train"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_queries_differ_by_one_cell_and_their_words_fit(tiny_root, split):
    scenes = css.load_scenes(tiny_root, split)
    queries = css.load_queries(tiny_root, split)
    assert len(queries) == {"train": 48, "test": 24}[split]
    for reference, caption, target in queries:
        changed = np.flatnonzero((scenes[reference] != scenes[target]).any(1))
        assert len(changed) == 1
        before, after = scenes[reference][changed[0], 0], scenes[target][changed[0], 0]
        verb = "add" if not before else "remove" if not after else "make"
        assert caption.split()[0] == verb
    bases = 4 * np.arange(len(scenes) // 4)
    assert sorted({query.reference for query in queries}) == bases.tolist()
    assert sorted(query.target for query in queries) == sorted(
        set(range(len(scenes))) - set(bases.tolist())
    )


def test_queries_come_in_file_order(tmp_path):
    root = tmp_path
    mods = [
        {"from": [3, 1], "to": [4, 2], "to_str": "remove red object"},
        {"from": [0], "to": [1], "to_str": "add small red circle to top-left"},
        {"from": [2], "to": [0], "to_str": "remove red object"},
    ]
    write_archive(root, {"train": {"objects_img": [[]] * 5, "labels": [], "mods": mods}})
    assert css.load_queries(root, "train") == [
        Triplet(3, "remove red object", 4),
        Triplet(1, "remove red object", 2),
        Triplet(0, "add small red circle to top-left", 1),
        Triplet(2, "remove red object", 0),
    ]


def write_archive(root: Path, content) -> None:
    with open(root / ARCHIVE, "wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def test_captions_are_of_their_own_split_and_true(tiny_root):
    for split, rows in (("train", 300), ("test", 200)):
        scenes = css.load_scenes(tiny_root, split)
        for look in css.LOOKS:
            triplets = css.load_captions(tiny_root, split, look)
            assert len(triplets) == rows
            for reference, caption, target in triplets:
                assert is_faithful(caption, scenes[reference], scenes[target])
        assert css.load_captions(tiny_root, split, "2d") != css.load_captions(
            tiny_root, split, "3d"
        )
    pairs = [(t.reference, t.target) for t in css.load_captions(tiny_root, "test")]
    assert all(len(set(pairs[at : at + 5])) == 1 for at in range(0, 200, 5))  # five of each pair


def test_pairs_are_strangers_twins_families_and_the_same():
    rng = np.random.default_rng(0)
    _, scenes = builder._sample(BuildSpec(train=(60, 5), test=(1, 1)))
    pairs = np.array(list(sample_pairs(scenes["train"], 6, 3000, rng)))
    reference, target = pairs.T
    same = (reference == target).mean()
    family = ((reference // 6 == target // 6) & (reference != target)).mean()
    assert 0.05 < same < 0.15  # 5 % asked for, and a family has six
    assert 0.25 < family < 0.75
    assert ((reference // 6) != (target // 6)).mean() > 0.25
    assert (pairs >= 0).all() and (pairs < 360).all()
    assert len(set(target.tolist())) == 360


class Interrupted(Exception):
    """Stands for whatever stops a run."""


class OneProcess:
    """A pool that works here, so that what a test patches takes effect."""

    def __init__(self, workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        return None

    def map(self, work, jobs):
        return map(work, jobs)

    def submit(self, work, *arguments):
        future = Future()
        future.set_result(work(*arguments))
        return future


def test_an_interrupted_run_leaves_nothing_and_is_taken_up(made, tmp_path, monkeypatch):
    root = tmp_path / "css"
    draw, drawn = builder.render_3d, []

    def break_off(scene, rng, height, width):
        if len(drawn) == 10:
            raise Interrupted
        drawn.append(scene)
        return draw(scene, rng, height, width)

    monkeypatch.setattr(builder, "ProcessPoolExecutor", OneProcess)
    monkeypatch.setattr(builder, "render_3d", break_off)
    with pytest.raises(Interrupted):
        build(root, SMALL, workers=1)
    assert not root.exists()
    assert not is_complete(root)

    drawn.clear()
    monkeypatch.setattr(builder, "render_3d", lambda *given: (drawn.append(given), draw(*given))[1])
    build(root, SMALL, workers=1)
    assert len(drawn) == 25 - 10  # the ten that were there are not drawn again
    assert files_of(root) == files_of(made)
    assert [path.name for path in tmp_path.iterdir()] == ["css"]

    drawn.clear()
    build(root, SMALL, workers=1)  # complete: nothing to do
    assert not drawn


def test_an_interrupted_run_of_another_size_is_not_mixed_in(made, tmp_path, monkeypatch):
    """What one specification left half done must not end up in another's data."""
    root = tmp_path / "css"
    draw, drawn = builder.render_3d, []

    def break_off(*given):
        if len(drawn) == 5:
            raise Interrupted
        drawn.append(given)
        return draw(*given)

    monkeypatch.setattr(builder, "ProcessPoolExecutor", OneProcess)
    monkeypatch.setattr(builder, "render_3d", break_off)
    with pytest.raises(Interrupted):
        build(root, BuildSpec(**{**vars(SMALL), "size": 80, "train": (9, 3)}), workers=1)
    monkeypatch.setattr(builder, "render_3d", draw)
    build(root, SMALL, workers=1)
    assert files_of(root) == files_of(made)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(
        ValueError, match="not empty and holds no complete CSS data; choose another"
    ):
        build(tmp_path, SMALL, workers=1)
    assert files_of(tmp_path) == {"thesis.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    build(tmp_path / "empty", SMALL, workers=1)
    assert is_complete(tmp_path / "empty")


# ---- reading


def test_load_gives_gallery_and_triplets(tiny_root):
    gallery, triplets = css.load(tiny_root, "test", look="3d")
    assert DATASETS["css"] is css.load
    assert gallery.names[3] == "css_test_000003.png"
    assert gallery.features.shape == (32, 256)
    assert gallery.grids.ndim == 3 and len(gallery.grids) == 32
    assert gallery.grids.shape[1] >= 16  # a grid of 4x4 places at least
    np.testing.assert_allclose(np.linalg.norm(gallery.features, axis=1), 1, atol=1e-5)
    assert gallery.kind == "css-3d"
    with Image.open(tiny_root / "images" / gallery.names[3]) as picture:
        np.testing.assert_array_equal(gallery.pictures[3], np.asarray(picture))
    archive = np.load(tiny_root / ARCHIVE, allow_pickle=True).item()
    np.testing.assert_array_equal(
        gallery.attributes[3].reshape(9, 3), from_objects(archive["test"]["objects_img"][3])
    )
    assert triplets == css.load_captions(tiny_root, "test", "3d")
    queries = css.load(tiny_root, "test", encoder="scene", captions="instructions")[1]
    assert queries == css.load_queries(tiny_root, "test")


def test_flat_pictures_are_drawn_from_the_scenes(tiny_root):
    gallery, _ = css.load(tiny_root, "test", look="2d", encoder="scene")
    assert gallery.kind == "css-2d" and gallery.grids is None
    scene = gallery.attributes[7].reshape(9, 3)
    np.testing.assert_array_equal(gallery.pictures[7], to_uint8(render_2d(to_objects(scene))))


def test_one_hot_scenes_count_what_they_share():
    rng = np.random.default_rng(0)
    scenes = np.stack([rng.integers(0, size, (20, 9)) for size in (4, 9, 3)], axis=-1)
    features = css.one_hot(scenes)
    assert features.shape == (20, 9 * 16) and features.dtype == np.float32
    shared = (scenes[:, None] == scenes[None]).sum((2, 3))  # of 27 codes
    np.testing.assert_allclose(features @ features.T, shared / 27, atol=1e-6)


def test_pictures_are_decoded_once(own):
    first = css.load_pictures(own, "test")
    assert isinstance(first, np.memmap)
    shutil.rmtree(own / "images")
    np.testing.assert_array_equal(css.load_pictures(own, "test"), first)


def test_missing_pictures_are_counted_and_named(own):
    for index in (4, 2, 7):
        (own / "images" / f"css_test_{index:06d}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"3 of 9 pictures .* first is css_test_000002.png"):
        css.load_pictures(own, "test")
    assert not (own / "pictures" / "3d_test.npy").exists()
    assert not list((own / "pictures").glob("*"))  # nor half of one


@pytest.mark.parametrize("kept", [0, 5, 20, 40, 60, 200, -12, -5, -1])
def test_a_broken_picture_is_named(own, kept):
    """Cut short at any place: before the header, in it, in the pixels, at the end."""
    path = own / "images" / "css_test_000004.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    try:
        css.load_pictures(own, "test")
    except ValueError as error:
        assert "cannot decode the picture" in str(error) and path.name in str(error)
    else:
        assert kept in (-12, -5, -1)  # the end marker alone is lost: every pixel is there
        return
    assert not (own / "pictures" / "3d_test.npy").exists()


@pytest.mark.parametrize("content", [b"no picture at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_what_is_no_picture_is_named(own, content):
    (own / "images" / "css_test_000000.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot decode the picture .*css_test_000000.png"):
        css.load_pictures(own, "test")


def test_flipped_bits_never_escape_as_another_error(own):
    path = own / "images" / "css_test_000004.png"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        broken = bytearray(whole)
        broken[rng.integers(8, len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        shutil.rmtree(own / "pictures", ignore_errors=True)
        try:
            css.load_pictures(own, "test")
        except ValueError as error:
            refused += 1
            assert "picture" in str(error)
    assert refused > 30


def test_pictures_of_two_sizes_are_refused(own):
    Image.new("RGB", (32, 32)).save(own / "images" / "css_test_000005.png")
    with pytest.raises(ValueError, match="differ in size; expected one size"):
        css.load_pictures(own, "test")


@pytest.mark.parametrize("kept", [0, 4, 50, 1000])
def test_a_truncated_picture_cache_is_named(own, kept):
    css.load_pictures(own, "test")
    path = own / "pictures" / "3d_test.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"3d_test.npy is incomplete .*delete it and try again"):
        css.load_pictures(own, "test")


def test_unknown_splits_and_looks_are_named(tiny_root):
    with pytest.raises(ValueError, match=r"unknown split 'tset' of .*known: train, test"):
        css.load(tiny_root, "tset")
    with pytest.raises(ValueError, match="unknown look '4d' of CSS pictures; known: 3d, 2d"):
        css.load_pictures(tiny_root, "test", look="4d")


def test_a_folder_without_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"but {ARCHIVE} is missing there"):
        css.load(tmp_path, "train")


def test_data_without_relative_captions_has_none(own):
    """The published data has none; that is no error."""
    (own / "relative_captions_3d_train.json").unlink()
    assert css.load_captions(own, "train") == []
    path = own / "relative_captions_3d_test.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(
        ValueError, match=r"captions_3d_test.json is incomplete .*make the data set"
    ):
        css.load_captions(own, "test")


# ---- features


def test_features_come_back_as_unit_vectors(tmp_path):
    rng = np.random.default_rng(0)
    vectors, grids = rng.normal(size=(5, 8)), rng.normal(size=(5, 4, 3)).astype(np.float32)
    assert not has_features(tmp_path, "3d_train", "net")
    save_features(tmp_path, "3d_train", "net", vectors, grids)
    assert has_features(tmp_path, "3d_train", "net")
    found, seen = load_features(tmp_path, "3d_train", "net", expected=5)
    wanted = [[x / np.sqrt(sum(y * y for y in row)) for x in row] for row in vectors.tolist()]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found.dtype == np.float32 and seen.dtype == np.float16
    np.testing.assert_array_equal(seen, grids.astype(np.float16))
    save_features(tmp_path, "2d", "net", np.zeros((2, 8)), None)
    found, seen = load_features(tmp_path, "2d", "net", expected=2)
    assert seen is None and not found.any()  # no direction, and no division by zero


def test_features_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no net features .*run `extract_features --encod"):
        load_features(tmp_path, "3d_train", "net", expected=5)
    save_features(tmp_path, "3d_train", "net", np.ones((5, 8)), np.ones((5, 4, 3)))
    with pytest.raises(ValueError, match=r"expected features of 6 images in .*, got 5"):
        load_features(tmp_path, "3d_train", "net", expected=6)
    for name in ("vectors", "grids"):
        path = tmp_path / "features" / "net" / f"3d_train_{name}.npy"
        whole = path.read_bytes()
        for kept in (0, 7, 100, len(whole) - 1):
            path.write_bytes(whole[:kept])
            with pytest.raises(ValueError, match=r"incomplete \(.*\); extract them again"):
                load_features(tmp_path, "3d_train", "net", expected=5)
        path.write_bytes(whole)
    save_features(tmp_path, "3d_train", "net", np.ones((5, 8)), None)
    grids = tmp_path / "features" / "net" / "3d_train_grids.npy"
    with open(grids, "wb") as file:
        np.save(file, np.ones((4, 4, 3), np.float16))
    with pytest.raises(ValueError, match="expected grids of 5 images"):
        vectors, seen = load_features(tmp_path, "3d_train", "net", expected=5)
        from retrieval.gallery import Gallery

        Gallery(tuple("abcde"), vectors, grids=seen)


# ---- pickles


class Malicious:
    """Runs a command when it is unpickled freely."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["p", "npy", "nested"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, form, protocol):
    marker = tmp_path / "ran"
    bomb = Malicious(marker)
    path = tmp_path / f"data.{'p' if form == 'p' else 'npy'}"
    if form == "p":
        path.write_bytes(pickle.dumps([1, bomb], protocol=protocol))
    else:
        held = np.array([{"objects_img": [bomb]}] if form == "nested" else [bomb], dtype=object)
        write_npy(path, held, protocol)
    with pytest.raises(ValueError, match=r"cannot read .*it asks for (posix|nt).system"):
        load_pickled(path)
    assert not marker.exists()
    if form != "p":  # the bomb is real
        np.load(path, allow_pickle=True)
        assert marker.exists()


def write_npy(path: Path, array: np.ndarray, protocol: int) -> None:
    """As NumPy writes an object array, with a pickle of any protocol."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(pickle.dumps(array, protocol=protocol))


@pytest.mark.parametrize(
    "source",
    [
        b"cbuiltins\neval\n(S'1+1'\ntR.",
        b"c__builtin__\neval\n(S'1+1'\ntR.",
        b"c__builtin__\ngetattr\n(S'a'\nS'b'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cposix\nsystem\n(S'true'\ntR.",
        b"csubprocess\nPopen\n(S'true'\ntR.",
        b"\x80\x04\x8c\x12numpy.core.numeric\x8c\x04load\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x0edict.__class__\x93.",
    ],
)
def test_hand_written_pickles_get_no_further(tmp_path, source):
    path = tmp_path / "data.p"
    path.write_bytes(source)
    with pytest.raises(ValueError, match=r"it asks for .*; fetch or make it again"):
        load_pickled(path)


CONTENT = {
    "train": {
        "objects_img": [[{"shape": "circle", "pos": [0.5, 0.25], "n": 3}], []],
        "labels": [0, 1],
        "mods": [{"from": [0], "to": [1], "to_str": "remove caf\u00e9"}],
    },
    "more": ({1, 2}, frozenset([3]), None, True, b"\xff\x00", 2**70, -1.5e300),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_containers_come_back(tmp_path, protocol):
    path = tmp_path / "data.p"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    assert load_pickled(path) == CONTENT
    write_npy(path, np.array(CONTENT, dtype=object), protocol)
    found = load_pickled(path)
    assert found.shape == () and found.item() == CONTENT
    many = np.array([{"a": 1}, {"b": [2]}, {}, None], dtype=object).reshape(2, 2)
    write_npy(path, many, protocol)
    found = load_pickled(path)
    assert found.dtype == object and found.tolist() == many.tolist()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_inside_come_back(tmp_path, protocol):
    path = tmp_path / "data.p"
    arrays = {
        "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
        "codes": np.array([[1, 255]], np.uint8),
        "names": np.array(["caf\u00e9", "b"]),
        "number": np.float64(2.5),
    }
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = load_pickled(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_pickles_of_python_2_are_read(tmp_path):
    """Byte strings that are text, `__builtin__` names, NumPy's old module names and raw bytes."""
    path = tmp_path / "data.p"
    # {'to_str': 'add caf\xe9', u'pos': set([1])}: protocol 2, as Python 2 writes it
    path.write_bytes(
        b"\x80\x02}q\x00(U\x06to_strq\x01U\x08add caf\xe9q\x02X\x03\x00\x00\x00posq\x03"
        b"c__builtin__\nset\nq\x04]q\x05K\x01a\x85q\x06Rq\x07u."
    )
    assert load_pickled(path) == {"to_str": "add caf\u00e9", "pos": {1}}
    # numpy.array([1.5, -2.0]) of Python 2: its bytes are a str
    data = np.array([1.5, -2.0]).tobytes()
    path.write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85"
        b"U\x01b\x87Rq\x02(K\x01K\x02\x85cnumpy\ndtype\nq\x03U\x02f8K\x00K\x01\x87Rq\x04(K\x03"
        b"U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10" + data + b"tb."
    )
    np.testing.assert_array_equal(load_pickled(path), [1.5, -2.0])
    # the published archive's form: an object array of one dict in an .npy, pickled by Python 2
    with open(tmp_path / ARCHIVE, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        file.write(
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85"
            b"U\x01b\x87Rq\x02(K\x01)cnumpy\ndtype\nq\x03U\x02O8K\x00K\x01\x87Rq\x04(K\x03"
            b"U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]q\x05}q\x06U\x05trainq\x07"
            b"}q\x08(U\x0bobjects_imgq\x09]q\x0a]q\x0b}q\x0c(U\x05shapeq\x0dU\x06circleq\x0e"
            b"U\x05colorq\x0fU\x03redq\x10U\x04sizeq\x11U\x05largeq\x12U\x03posq\x13]q\x14"
            b"(G?\xe0\x00\x00\x00\x00\x00\x00G?\xe0\x00\x00\x00\x00\x00\x00euaa"
            b"U\x06labelsq\x15]q\x16U\x04caf\xe9q\x17ausatb."
        )
    scenes = css.load_scenes(tmp_path, "train")
    assert scenes.shape == (1, 9, 3)
    assert scenes[0, 4].tolist() == [2, 2, 2]
    assert load_pickled(tmp_path / ARCHIVE).item()["train"]["labels"] == ["caf\u00e9"]


@pytest.mark.parametrize("kept", [0, 5, 60, 130, 400, -1])
def test_a_truncated_archive_is_named(own, kept):
    path = own / ARCHIVE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"cannot read .*{ARCHIVE}: expected a complete file"):
        css.load(own, "train", encoder="scene")


def test_plain_numbers_are_no_archive(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, np.arange(3))
    with pytest.raises(ValueError, match="it holds plain numbers, no pickled object"):
        load_pickled(path)
    with pytest.raises(FileNotFoundError):
        load_pickled(tmp_path / "none.npy")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([{"a": 1}], dtype=object), version=(2, 0))
    path.write_bytes(buffer.getvalue())
    assert load_pickled(path).tolist() == [{"a": 1}]


# ---- preparation


def test_prepared_data_is_not_prepared_again(tiny_root, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *given, **more: pytest.fail("prepared again"))
    assert is_prepared(tiny_root, "3d", "scene-cnn")
    prepare_apart(tiny_root, "3d", "scene-cnn")
    assert is_prepared(tiny_root, "2d", "scene")
    assert not is_prepared(tiny_root, "2d", "scene-cnn")


def test_a_failed_preparation_is_told(own, capfd):
    """In a process of its own: its message stands on standard error."""
    (own / "images" / "css_test_000003.png").unlink()
    (own / "images" / "css_train_000003.png").unlink()
    with pytest.raises(RuntimeError, match=f"could not prepare CSS 3d in {own}; see the message"):
        prepare_apart(own, "3d", "scene-cnn")
    error = capfd.readouterr().err
    assert "error: 1 of 16 pictures are missing" in error and "Traceback" not in error


def test_prepare_makes_the_built_in_data_and_its_features(tmp_path, monkeypatch):
    import retrieval.preparation as preparation

    monkeypatch.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preparation, "build", lambda root: build(root, SMALL, workers=1))
    root = preparation.default_root()
    assert root == tmp_path / "cache" / BuildSpec().name
    assert not is_prepared(root, "2d", "scene")
    prepare(root, "2d", "scene")
    assert is_prepared(root, "2d", "scene") and not is_prepared(root, "2d", "scene-cnn")
    prepare(root, "2d", "scene-cnn")
    assert is_prepared(root, "2d", "scene-cnn")
    gallery, _ = css.load(root, "test", "2d", "scene-cnn")
    assert gallery.features.shape == (9, 256)
