"""Pictures decoded once: the published transform, the cache, and what is refused."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import retrieval.pictures as pictures
from retrieval.pictures import crop, load_pictures, squash
from retrieval.vision import torchvision

SHAPES = [(40, 30), (30, 40), (31, 97), (97, 31), (32, 32), (20, 20), (7, 9), (20, 55), (33, 20)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path):
    """Five pictures of several shapes, in folders."""
    folder = tmp_path / "data"
    (folder / "a b").mkdir(parents=True)
    for number, (width, height) in enumerate(SHAPES[:5]):
        noise(width, height, number).save(folder / "a b" / f"{number}.jpg")
    return folder


NAMES = [f"a b/{number}.jpg" for number in (3, 0, 4, 1, 2)]


def slow(root, names, size, fit=crop):
    """What the table should hold, one picture after the other."""
    rows = []
    for name in names:
        with Image.open(root / name) as picture:
            rows.append(np.asarray(fit(picture.convert("RGB"), (size, size))))
    return np.stack(rows)


def no_decoding(monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *given: pytest.fail("decoded again"))


# ---- transforms


@pytest.mark.parametrize("width, height", SHAPES)
def test_crop_is_the_published_transform(width, height):
    """Short side scaled, centre cut out, as the transforms of torchvision do it."""
    transforms = torchvision().transforms
    picture = noise(width, height)
    for size in (20, 21):
        wanted = transforms.CenterCrop(size)(transforms.Resize(size)(picture))
        np.testing.assert_array_equal(np.asarray(crop(picture, (size, size))), np.asarray(wanted))


@pytest.mark.parametrize("width, height", SHAPES)
def test_crop_covers_what_is_not_square(width, height):
    picture = Image.new("RGB", (width, height), (9, 99, 199))
    found = np.asarray(crop(picture, (11, 16)))
    assert found.shape == (11, 16, 3) and (found == (9, 99, 199)).all()  # no black border
    assert np.asarray(squash(picture, (11, 16))).shape == (11, 16, 3)


def test_crop_loses_the_border_and_squash_does_not():
    table = np.zeros((20, 40, 3), np.uint8)
    table[:, :10] = 255  # the quarter that a centre crop cuts off
    picture = Image.fromarray(table)
    assert np.asarray(crop(picture, (20, 20))).max() == 0
    assert np.asarray(squash(picture, (20, 20)))[:, :4].min() == 255


# ---- the cache


def test_pictures_come_in_the_order_of_their_names(root, monkeypatch):
    monkeypatch.setattr(pictures, "_AT_ONCE", 2)
    found = load_pictures(root, NAMES, size=16)
    np.testing.assert_array_equal(found.table, slow(root, NAMES, 16))
    assert found.table.dtype == np.uint8 and isinstance(found.table, np.memmap)
    assert found.kept.tolist() == [0, 1, 2, 3, 4] and found.skipped == {}


def test_pictures_are_decoded_once(root, monkeypatch, capfd):
    first = np.array(load_pictures(root, NAMES, size=16).table)
    told = capfd.readouterr()
    assert "decoding" in told.err and told.out == ""
    no_decoding(monkeypatch)
    np.testing.assert_array_equal(load_pictures(root, NAMES, size=16).table, first)
    assert capfd.readouterr().err == ""


def test_another_list_or_size_or_fit_is_another_table(root):
    shuffled = NAMES[::-1]
    for names, size, fit in (
        (NAMES, 16, "crop"), (shuffled, 16, "crop"), (NAMES[:2], 16, "crop"),
        (NAMES, 12, "crop"), (NAMES, 16, "squash"),
    ) * 2:  # fmt: skip
        found = load_pictures(root, names, size, fit)
        wanted = slow(root, names, size, {"crop": crop, "squash": squash}[fit])
        np.testing.assert_array_equal(found.table, wanted)
    assert len(list((root / "pictures").iterdir())) == 2 * 5
    assert load_pictures(root, NAMES, (8, 12)).table.shape == (5, 8, 12, 3)


def test_a_replaced_picture_is_decoded_again_in_place(root):
    load_pictures(root, NAMES, size=16)
    noise(50, 60, seed=77).save(root / "a b" / "4.jpg")
    found = load_pictures(root, NAMES, size=16).table
    np.testing.assert_array_equal(found, slow(root, NAMES, 16))
    assert len(list((root / "pictures").iterdir())) == 2  # the old table is gone


@pytest.mark.parametrize("suffix", ["npy", "json"])
@pytest.mark.parametrize("kept", [0, 3, 40, -1, None])
def test_a_spoilt_cache_is_made_again(root, suffix, kept):
    load_pictures(root, NAMES, size=16)
    (path,) = (root / "pictures").glob(f"*.{suffix}")
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:kept])
    found = load_pictures(root, NAMES, size=16).table
    np.testing.assert_array_equal(found, slow(root, NAMES, 16))


def test_an_interrupted_run_leaves_nothing(root, monkeypatch):
    def interrupt(picture, size):
        if picture.size == SHAPES[4]:
            raise KeyboardInterrupt
        return crop(picture, size)

    monkeypatch.setitem(pictures._FITS, "crop", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_pictures(root, NAMES, size=16)
    assert list((root / "pictures").iterdir()) == []


def test_a_run_stopped_between_table_and_note_deceives_nobody(root, monkeypatch):
    whole = (root / "a b" / "4.jpg").read_bytes()
    load_pictures(root, NAMES, size=16)
    noise(50, 60, seed=77).save(root / "a b" / "4.jpg")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # the note is read, removed, and then to be written
        patch.setattr(pictures, "_note_path", stopped_at(3, pictures._note_path))
        load_pictures(root, NAMES, size=16)
    (root / "a b" / "4.jpg").write_bytes(whole)  # the old note would fit, the table would not
    np.testing.assert_array_equal(load_pictures(root, NAMES, size=16).table, slow(root, NAMES, 16))


def stopped_at(last, function):
    """The function, interrupted at that call."""
    calls = []

    def call(*given):
        calls.append(given)
        if len(calls) == last:
            raise KeyboardInterrupt
        return function(*given)

    return call


def test_a_read_only_data_set_is_cached_elsewhere(root, tmp_path, monkeypatch):
    monkeypatch.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda *given: False)
    before = sorted(root.rglob("*"))
    load_pictures(root, NAMES, size=16)
    assert sorted(root.rglob("*")) == before
    assert len(list((tmp_path / "cache" / "pictures").glob("data-*/*.npy"))) == 1
    load_pictures(root, NAMES, size=16, folder=tmp_path / "own", label="dresses")
    assert len(list((tmp_path / "own").glob("dresses-16x16-*.npy"))) == 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    noise(20, 20).convert(mode).save(tmp_path / f"x.{suffix}")
    found = load_pictures(tmp_path, [f"x.{suffix}"], size=10).table
    np.testing.assert_array_equal(found, slow(tmp_path, [f"x.{suffix}"], 10))


# ---- what is missing or broken


def test_missing_pictures_are_counted_and_the_first_is_named(root):
    for number in (0, 2):
        (root / "a b" / f"{number}.jpg").unlink()
    (root / "a b" / "1.jpg").unlink()
    (root / "a b" / "1.jpg").mkdir()  # no file either
    with pytest.raises(
        FileNotFoundError,
        match=r"3 of 5 pictures are missing in .*, the first is a b/0.jpg; .* --skip-missing",
    ):
        load_pictures(root, NAMES, size=16)
    assert not (root / "pictures").exists()
    found = load_pictures(root, NAMES, size=16, skip_missing=True)
    assert found.kept.tolist() == [0, 2] and found.skipped == {"pictures missing": 3}
    np.testing.assert_array_equal(found.table, slow(root, ["a b/3.jpg", "a b/4.jpg"], 16))


def broken(how: str) -> bytes:
    buffer = io.BytesIO()
    noise(60, 60).save(buffer, "JPEG" if how != "png" else "PNG")
    whole = buffer.getvalue()
    return {
        "empty": b"",
        "text": b"<html>not found</html>" * 9,
        "cut": whole[: len(whole) // 2],
        "header": whole[:30],
        "png": whole[:60] + b"\0" * 40 + whole[100:],
        "bomb": bomb(),
    }[how]


def bomb() -> bytes:
    """A PNG that says it has 60,000 x 60,000 pixels; Pillow refuses it with an error of its own."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT": b"\0" * 9}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


@pytest.mark.parametrize("how", ["empty", "text", "cut", "header", "png", "bomb"])
def test_what_cannot_be_decoded_is_counted_and_named(root, monkeypatch, how):
    (root / "a b" / "4.jpg").write_bytes(broken(how))
    (root / "a b" / "1.jpg").write_bytes(broken(how))
    for _ in range(2):  # the second time from the cache
        with pytest.raises(
            ValueError, match=r"2 of 5 pictures cannot be decoded in .*, the first is a b/4.jpg \("
        ):
            load_pictures(root, NAMES, size=16)
    found = load_pictures(root, NAMES, size=16, skip_missing=True)
    assert found.kept.tolist() == [0, 1, 4] and found.skipped == {"pictures unreadable": 2}
    np.testing.assert_array_equal(found.table, slow(root, [NAMES[i] for i in (0, 1, 4)], 16))


def test_missing_and_broken_are_counted_apart(root):
    (root / "a b" / "3.jpg").unlink()
    (root / "a b" / "2.jpg").write_bytes(b"nothing")
    found = load_pictures(root, NAMES, size=16, skip_missing=True)
    assert found.kept.tolist() == [1, 2, 3]
    assert found.skipped == {"pictures missing": 1, "pictures unreadable": 1}
    noise(44, 31, seed=5).save(root / "a b" / "3.jpg")  # fetched after all
    found = load_pictures(root, NAMES, size=16, skip_missing=True)
    assert found.kept.tolist() == [0, 1, 2, 3] and found.skipped == {"pictures unreadable": 1}
    np.testing.assert_array_equal(found.table, slow(root, NAMES[:4], 16))


def test_a_broken_picture_replaced_by_one_of_equal_length_is_noticed(root):
    path = root / "a b" / "4.jpg"
    whole = path.read_bytes()
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(ValueError, match="1 of 5 pictures cannot be decoded"):
        load_pictures(root, NAMES, size=16)
    path.write_bytes(whole)
    np.testing.assert_array_equal(load_pictures(root, NAMES, size=16).table, slow(root, NAMES, 16))


@pytest.mark.parametrize("skip_missing", [False, True])
def test_nothing_left_is_refused_without_a_useless_hint(root, skip_missing):
    for name in NAMES:
        (root / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="5 of 5 pictures cannot be decoded") as refused:
        load_pictures(root, NAMES, size=16, skip_missing=skip_missing)
    assert "--skip-missing" not in str(refused.value)
    for name in NAMES:
        (root / name).unlink()
    with pytest.raises(FileNotFoundError, match="5 of 5 pictures are missing") as refused:
        load_pictures(root, NAMES, size=16, skip_missing=skip_missing)
    assert "--skip-missing" not in str(refused.value)


def test_a_full_disk_is_told_before_the_work(root, monkeypatch):
    free = type("Usage", (), {"free": 5 * 16 * 16 * 3 - 1})()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    with pytest.raises(ValueError, match=r"5 pictures of 16 px need 0.0 GB .*choose a smaller"):
        load_pictures(root, NAMES, size=16)
    free.free += 1
    load_pictures(root, NAMES, size=16)


def test_mistakes_of_the_caller_are_told(root):
    with pytest.raises(ValueError, match=r"unknown way to fit a picture 'crob'. Did you mean"):
        load_pictures(root, NAMES, fit="crob")
    with pytest.raises(ValueError, match="expected the names of pictures in .*, got none"):
        load_pictures(root, [])
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        load_pictures(root, NAMES, size=0)


def test_the_note_tells_what_could_not_be_decoded(root):
    (root / "a b" / "0.jpg").write_bytes(b"nothing")
    load_pictures(root, NAMES, size=16, skip_missing=True)
    (path,) = (root / "pictures").glob("*.json")
    assert list(json.loads(path.read_text())["unreadable"]) == ["1"]
