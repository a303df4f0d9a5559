"""Points for the embedding projector, in the plane and on disk."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.datasets.base import ComposedSplit
from retrieval.gallery import Triplet
from retrieval.inference import encode_gallery, encode_queries
from retrieval.models import ModelSpec, build_model
from retrieval.plane import FLATTENED, draw_points, flatten
from retrieval.projector import (
    COLORS,
    GALLERY,
    QUERY,
    REFERENCE,
    TARGET,
    THUMBNAIL,
    join,
    thumbnail,
    triplet_points,
    write_projector,
)

IMAGES, SIDE = 12, 16


def pictures() -> np.ndarray:
    """One shade for each image."""
    levels = np.arange(IMAGES, dtype=np.uint8) * 20
    return np.broadcast_to(levels[:, None, None, None], (IMAGES, SIDE, SIDE, 3)).copy()


@pytest.fixture
def dialogs():
    """Two dialogs of three turns among twelve images."""
    rng = np.random.default_rng(0)
    return join(
        rng.normal(size=(IMAGES, 5)),
        [f"i{row}" for row in range(IMAGES)],
        pictures(),
        rng.normal(size=(2, 3, 5)),
        np.array([[4, 6, 7], [9, 9, 1]]),
        [["a", "b", "c\td\ne"], ["f", "g", ""]],
        np.array([7, 2]),
        with_reference=True,
    )


def test_points_by_hand(dialogs):
    assert len(dialogs) == IMAGES + 6 and dialogs.vectors.shape == (18, 5)
    roles = {row: role for row, role in enumerate(dialogs.roles[:IMAGES]) if role != GALLERY}
    assert roles == {4: REFERENCE, 9: REFERENCE, 7: TARGET, 2: TARGET}
    assert dialogs.rows(QUERY).tolist() == [12, 13, 14, 15, 16, 17]
    assert dialogs.names[12:] == ("i4", "i6", "i7", "i9", "i9", "i1")
    assert dialogs.captions[:IMAGES] == ("",) * IMAGES
    assert dialogs.captions[12:] == ("a", "b", "c\td\ne", "f", "g", "")
    assert dialogs.groups[12:].tolist() == [0, 0, 0, 1, 1, 1] and dialogs.groups[4] == 0
    assert dialogs.turns.tolist() == [-1] * 12 + [1, 2, 3] * 2
    assert dialogs.paths == ((4, 12, 13, 14, 7), (9, 15, 16, 17, 2))
    assert [int(picture.max()) for picture in dialogs.pictures[12:]] == [80, 120, 140, 180, 180, 20]


def split_of(count: int = 30) -> ComposedSplit:
    rng = np.random.default_rng(1)
    table = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    queries = [Triplet(row, f"red {row}", (row + 3) % count) for row in range(0, count, 2)]
    names = tuple(f"n{row}" for row in range(count))
    return ComposedSplit("css3d", "test", names, names, table, (*queries, Triplet(0, "x", -1)))


@pytest.mark.parametrize("count, gallery", [(4, 20), (4, 3), (99, 10)])
def test_triplets_are_where_the_model_puts_them(count, gallery):
    spec = ModelSpec("concat", 6, "small-cnn", words=("red",))
    model, split = build_model(spec).eval(), split_of()
    points = triplet_points(model, split, count, gallery, np.random.default_rng(2))
    asked = min(count, 15)
    needed = {image for role in (REFERENCE, TARGET) for image in points.rows(role).tolist()}
    assert len(points.rows(QUERY)) == asked == len(points.paths)
    assert len(points) - asked == max(gallery, len(needed))
    of_image = dict(zip(split.names, encode_gallery(model, split), strict=True))
    known = split.queries[:-1]
    rows = encode_queries(model, ComposedSplit(
        "css3d", "test", split.names, split.names, split.pictures, known
    ))  # fmt: skip
    of_query = {query.caption: row for query, row in zip(known, rows, strict=True)}
    for row in range(len(points) - asked):
        assert points.vectors[row] == pytest.approx(of_image[points.names[row]], abs=1e-5)
    for reference, query, target in points.paths:
        (triplet,) = (one for one in known if one.caption == points.captions[query])
        assert points.names[reference] == points.names[query] == f"n{triplet.reference}"
        assert points.names[target] == f"n{triplet.target}"
        assert points.vectors[query] == pytest.approx(of_query[triplet.caption], abs=1e-5)
    again = triplet_points(model, split, count, gallery, np.random.default_rng(2))
    assert again.names == points.names


def test_splits_with_nothing_to_show_are_refused():
    model = build_model(ModelSpec("concat", 6, "small-cnn", words=("red",))).eval()
    hidden = ComposedSplit("cirr", "test", ("a",), ("a",), np.zeros((1, 8, 8, 3), np.uint8),
                           (Triplet(0, "x", -1),))  # fmt: skip
    with pytest.raises(ValueError, match="no queries with targets"):
        triplet_points(model, hidden, 2, 2, np.random.default_rng(0))
    bare = ComposedSplit("cirr", "test", ("a",), ("a",), None, ())
    with pytest.raises(ValueError, match="without pictures"):
        triplet_points(model, bare, 2, 2, np.random.default_rng(0))


def test_the_projector_reads_vectors_labels_and_thumbnails(tmp_path, dialogs):
    for _ in range(2):  # the second run replaces the first
        write_projector(tmp_path, dialogs)
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert config.count("tensor_path") == 1
    folder = tmp_path / "00000/embeddings"
    with open(folder / "tensors.tsv") as file:
        vectors = np.array([[float(it) for it in row] for row in csv.reader(file, delimiter="\t")])
    assert vectors == pytest.approx(dialogs.vectors, abs=1e-6)
    lines = (folder / "metadata.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["role", "name", "caption", "group", "turn"]
    assert len(lines) == 1 + len(dialogs)
    assert lines[1 + 14].split("\t") == ["query", "i7", "c d e", "0", "3"]
    with Image.open(folder / "sprite.png") as sprite:
        pixels = np.asarray(sprite.convert("RGB"))
    columns = pixels.shape[1] // THUMBNAIL
    assert columns == 5  # 18 thumbnails in a square
    for row in range(len(dialogs)):
        top, left = THUMBNAIL * (row // columns), THUMBNAIL * (row % columns)
        shown = pixels[top : top + THUMBNAIL, left : left + THUMBNAIL]
        assert np.abs(shown.astype(int) - thumbnail(dialogs, row, THUMBNAIL)).max() <= 1


def test_thumbnails_are_framed_by_role(dialogs):
    for row, role in ((0, GALLERY), (4, REFERENCE), (12, QUERY), (7, TARGET)):
        made = thumbnail(dialogs, row, 32)
        assert made.shape == (32, 32, 3)
        assert (made[10, 10] == dialogs.pictures[row, 0, 0]).all()
        color = bytes.fromhex(COLORS[role][1:])
        expected = dialogs.pictures[row, 0, 0].tolist() if role == GALLERY else list(color)
        assert made[0, 20].tolist() == expected


def test_pca_keeps_what_lies_in_a_plane():
    rng = np.random.default_rng(3)
    plane = rng.normal(size=(20, 2)) * [5, 1]
    axes = np.linalg.qr(rng.normal(size=(7, 2)))[0]
    found = flatten(plane @ axes.T + 4, "pca")

    def distances(points):
        return np.linalg.norm(points[:, None] - points[None], axis=-1)

    assert distances(found) == pytest.approx(distances(plane), abs=1e-6)
    assert found[:, 0].var() > found[:, 1].var()
    turned = flatten(np.random.default_rng(4).permutation(plane @ axes.T + 4), "pca")
    assert sorted(turned[:, 0]) == pytest.approx(sorted(found[:, 0]))  # the same signs


def test_tsne_keeps_neighbours_together():
    pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn (extra projector)")
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(3, 8)) * 20
    found = flatten(np.repeat(centres, 10, axis=0) + rng.normal(size=(30, 8)), "tsne")
    assert found.shape == (30, 2)
    distance = np.linalg.norm(found[:, None] - found[None], axis=-1) + np.eye(30) * 1e9
    assert (distance.argmin(axis=1) // 10 == np.arange(30) // 10).all()


def test_mistakes_about_the_plane_are_named():
    with pytest.raises(ValueError, match=r"unknown way to flatten 'tnse'\. Did you mean 'tsne'"):
        flatten(np.eye(4), "tnse")
    with pytest.raises(ValueError, match="three points or more"):
        flatten(np.eye(2), "pca")


@pytest.mark.parametrize("methods", [("pca",), tuple(FLATTENED)])
def test_a_picture_has_a_panel_for_each_method(tmp_path: Path, dialogs, methods):
    if "tsne" in methods:
        pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn (extra projector)")
    draw_points(tmp_path / "a.png", dialogs, methods, shown=2)
    draw_points(tmp_path / "b.png", dialogs, methods, shown=0)
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as other:
        assert one.width == pytest.approx(770 * len(methods), abs=2)
        with_paths, without = (np.asarray(it.convert("RGB"), dtype=int) for it in (one, other))
    ink = (np.abs(with_paths - [0x1F, 0x29, 0x37]).sum(-1) < 40).sum()
    plain = (np.abs(without - [0x1F, 0x29, 0x37]).sum(-1) < 40).sum()
    assert ink > plain + 100  # the arrows
