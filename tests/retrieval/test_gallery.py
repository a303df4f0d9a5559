"""The gallery record, and the small helpers around files and messages."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from retrieval.cache import cache_folder
from retrieval.errors import unknown
from retrieval.files import atomic_write
from retrieval.gallery import Gallery


def gallery(count: int = 6, **changes) -> Gallery:
    tables = {
        "names": tuple(f"{row}.png" for row in range(count)),
        "features": np.arange(count * 2, dtype=np.float32).reshape(count, 2),
        "attributes": np.arange(count * 3).reshape(count, 3),
        "grids": np.zeros((count, 4, 2), np.float16),
        "pictures": np.zeros((count, 8, 8, 3), np.uint8),
        "kind": "css-2d",
    }
    return Gallery(**{**tables, **changes})


def test_a_gallery_has_one_row_per_name():
    assert len(gallery(6)) == 6
    for label in ("features", "attributes", "grids", "pictures"):
        with pytest.raises(ValueError, match=f"expected {label} of 6 images, one per name, got 5"):
            gallery(6, **{label: np.zeros((5, 2), np.float32)})
    bare = Gallery(("a", "b"), np.zeros((2, 2), np.float32))
    assert bare.attributes is bare.grids is bare.pictures is None


def test_a_gallery_needs_two_images():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        gallery(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_must_be_finite(bad):
    features = np.zeros((6, 2), np.float32)
    features[3, 1] = bad
    with pytest.raises(ValueError, match="must be finite numbers; recompute them"):
        gallery(6, features=features)


def test_the_hash_tells_galleries_apart():
    one = gallery()
    assert one.content_hash == gallery().content_hash
    assert len(one.content_hash) == 12 and int(one.content_hash, 16) >= 0
    features = one.features.copy()
    features[2, 1] += 1e-3
    others = [
        gallery(features=features),
        gallery(names=("x", *one.names[1:])),
        gallery(features=one.features[::-1]),
        gallery(5),
    ]
    assert len({one.content_hash, *(other.content_hash for other in others)}) == 5
    strided = np.repeat(one.features, 2, axis=0)[::2]
    assert gallery(features=strided).content_hash == one.content_hash


def test_a_gallery_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        gallery().names = ()


def test_unknown_names_come_with_a_hint_where_one_is_near():
    assert str(unknown("reward", "hti", ["rank", "hit"])) == (
        "unknown reward 'hti'. Did you mean 'hit'? Known: hit, rank."
    )
    assert str(unknown("reward", "zzz", ["rank"])) == "unknown reward 'zzz'. Known: rank."


def test_the_cache_folder_can_be_chosen(monkeypatch):
    monkeypatch.setenv("DIALOG_RETRIEVAL_CACHE", "~/here")
    assert cache_folder() == Path.home() / "here"
    monkeypatch.delenv("DIALOG_RETRIEVAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert cache_folder() == Path("/there/dialog-retrieval")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "dialog-retrieval"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "table.npy"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".npy"
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    for stop in (KeyboardInterrupt, ValueError):
        with pytest.raises(stop), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise stop
        assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["table.npy"]
