"""Pictures of a data set, decoded and resized once into a memory-mapped table.

    {folder}/{label}-{H}x{W}-{key}.npy    uint8 (M, H, W, 3), decoded pictures in order
    {folder}/{label}-{H}x{W}-{key}.json   what it was made of, and what could not be decoded

The key stands for the list of files. The second file also notes how many bytes each file had,
so a picture that was added, removed or replaced later makes the table anew in the same place;
a copy of the data set on another disk does not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from retrieval.cache import cache_folder
from retrieval.errors import unknown
from retrieval.files import atomic_write

MISSING, UNREADABLE = "pictures missing", "pictures unreadable"
_AT_ONCE = 256  # pictures held in memory while they wait to be written


class Pictures(NamedTuple):
    """A table of pictures and how it relates to the files that were asked for.

    Args:
        table: uint8 (M, H, W, 3), memory-mapped.
        kept: which of the files each picture is (M), ascending; all of them unless some were
            left out on request.
        skipped: what was left out: `MISSING` or `UNREADABLE` to how many. Empty if nothing.
    """

    table: np.ndarray
    kept: np.ndarray
    skipped: dict[str, int]


def load_pictures(
    root: Path,
    names: Sequence[str],
    size: int | tuple[int, int] = 224,
    fit: str = "crop",
    skip_missing: bool = False,
    folder: Path | None = None,
    label: str = "pictures",
) -> Pictures:
    """Pictures of equal size, from the cache or, with progress on stderr, from the files.

    Args:
        root: where the files lie.
        names: the files, relative to `root`; row n of the table is the n-th that was kept.
        size: height and width of the result, one number if they are equal.
        fit: "crop", the published transform of Fashion200k and MIT-States: scaled until it just
            covers the size (a square: until the short side is as long), then the centre cut
            out; "squash": the whole picture, its shape given up; or "pad": the whole picture,
            upright, on a ground of its border's colour.
        skip_missing: leave out what is missing or cannot be decoded, and count it.
        folder: where the cache lies; by default `pictures_folder(root)`.
        label: begins the cache's file name, for people who look into the folder.

    Raises:
        FileNotFoundError: pictures are missing; they are counted and the first is named.
        ValueError: pictures cannot be decoded (counted, the first named with the reason), none
            is left, `names` is empty or the disk has no room for the table.
    """
    if fit not in _FITS:
        raise unknown("way to fit a picture", fit, _FITS)
    if not names:
        raise ValueError(f"expected the names of pictures in {root}, got none; check the data set")
    height, width = size if isinstance(size, tuple) else (size, size)
    if min(height, width) < 1:
        raise ValueError(f"expected a picture size of at least 1 pixel, got {size}")
    job = _Job(root, names, [_length(root / name) for name in names], (height, width), fit)
    missing = [row for row, length in enumerate(job.lengths) if length < 0]
    if missing and (not skip_missing or len(missing) == len(names)):
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} pictures are missing in {root}, the first is "
            f"{names[missing[0]]}; fetch them{_or_skip(len(missing), len(names))}"
        )

    stem = (folder or pictures_folder(root)) / f"{label}-{height}x{width}-{job.key}"
    unreadable = _made_of(stem, job)
    if unreadable is None:
        unreadable = _make(stem, job)
    lost = len(missing) + len(unreadable)
    if unreadable and (not skip_missing or lost == len(names)):
        row, reason = next(iter(unreadable.items()))
        # the table stays: whoever leaves them out next need not wait again
        raise ValueError(
            f"{len(unreadable)} of {len(names)} pictures cannot be decoded in {root}, the first is "
            f"{names[row]} ({reason}); replace them{_or_skip(lost, len(names))}"
        )

    dropped = {*missing, *unreadable}
    kept = np.array([row for row in range(len(names)) if row not in dropped], dtype=np.int64)
    counts = {MISSING: len(missing), UNREADABLE: len(unreadable)}
    table = np.load(_table_path(stem), mmap_mode="r")[: len(kept)]
    return Pictures(table, kept, {reason: count for reason, count in counts.items() if count})


def pictures_folder(root: Path) -> Path:
    """Where a data set's pictures are cached: beside it, or, where that is read-only, our cache."""
    if os.access(root, os.W_OK):
        return root / "pictures"
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    return cache_folder() / "pictures" / f"{root.resolve().name}-{place}"


def crop(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale a picture (bilinear) until it just covers `size`, then cut out the centre.

    Rounds as the transforms do that the published results were made with: the long side down,
    the corner to the nearest pixel.

    Example:
        >>> crop(Image.new("RGB", (90, 60)), size=(20, 20)).size
        (20, 20)
    """
    (width, height), (rows, columns) = picture.size, size
    if width * rows <= height * columns:
        scaled = (columns, int(columns * height / width))
    else:
        scaled = (int(rows * width / height), rows)
    if scaled != picture.size:
        picture = picture.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - columns) / 2), round((scaled[1] - rows) / 2)
    return picture.crop((left, top, left + columns, top + rows))


def squash(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale the whole picture (bilinear) to `size` = (height, width), whatever its shape."""
    rows, columns = size
    if picture.size == (columns, rows):
        return picture
    return picture.resize((columns, rows), Image.Resampling.BILINEAR)


def pad(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Turn a photo upright and scale it (bilinear) to fit into `size`, its shape kept.

    The rest is filled with the median colour of the photo's border, so that a product on a plain
    ground stays on a plain ground.

    Example:
        >>> pad(Image.new("RGB", (90, 60), "red"), size=(20, 20)).getpixel((0, 0))
        (255, 0, 0)
    """
    picture = ImageOps.exif_transpose(picture)
    rows, columns = size
    if picture.size == (columns, rows):
        return picture
    scale = min(columns / picture.width, rows / picture.height)
    scaled = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    inside = picture.resize(scaled, Image.Resampling.BILINEAR)
    pixels = np.asarray(inside)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = np.median(border, axis=0).astype(int).tolist()
    padded = Image.new("RGB", (columns, rows), (red, green, blue))
    padded.paste(inside, ((columns - scaled[0]) // 2, (rows - scaled[1]) // 2))
    return padded


_FITS: dict[str, Callable[[Image.Image, tuple[int, int]], Image.Image]] = {
    "crop": crop,
    "squash": squash,
    "pad": pad,
}


@dataclass(frozen=True)
class _Job:
    """What a table is made of: files and their lengths in bytes (-1: missing)."""

    root: Path
    names: Sequence[str]
    lengths: Sequence[int]
    size: tuple[int, int]
    fit: str

    @property
    def present(self) -> list[int]:
        return [row for row, length in enumerate(self.lengths) if length >= 0]

    @property
    def key(self) -> str:
        """Stands for the list of files and what is done to them."""
        listed = "\n".join((self.fit, *self.names))
        return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:12]

    @property
    def state(self) -> str:
        """Changes with every picture that was added, removed or replaced by another length."""
        return hashlib.sha256(json.dumps(list(self.lengths)).encode()).hexdigest()


def _made_of(stem: Path, job: _Job) -> dict[int, str] | None:
    """The rows that a finished table of this very job lacks, with reasons; None if not made."""
    try:
        note: dict[str, Any] = json.loads(_note_path(stem).read_text())
        np.load(_table_path(stem), mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None  # nothing there, or spoilt: the files are still at hand
    if note.get("state") != job.state:
        return None
    unreadable = {int(row): reason for row, reason in note["unreadable"].items()}
    decode = _decoder(job)
    if any(isinstance(decode(job.root / job.names[row]), np.ndarray) for row in unreadable):
        return None  # replaced by a whole file of the same length
    return unreadable


def _make(stem: Path, job: _Job) -> dict[int, str]:
    """Decode everything into the table; returns the rows that could not be, with reasons."""
    _check_room(stem.parent, job)
    unreadable: dict[int, str] = {}
    _note_path(stem).unlink(missing_ok=True)  # an older table is not described by a newer note
    with atomic_write(_table_path(stem)) as temporary, open(temporary, "wb") as file:
        shape = (len(job.present), *job.size, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        end = file.tell() + math.prod(shape)
        for row, decoded in _decoded(job):
            if isinstance(decoded, np.ndarray):
                file.write(decoded.tobytes())
            else:
                unreadable[row] = decoded
        file.truncate(end)  # rows at the end stay empty where pictures could not be decoded
    with atomic_write(_note_path(stem)) as temporary:
        temporary.write_text(json.dumps({"state": job.state, "unreadable": unreadable}))
    return unreadable


def _decoded(job: _Job) -> Iterator[tuple[int, np.ndarray | str]]:
    """Every present row with its picture (H, W, 3), or why it cannot be decoded."""
    rows = job.present
    bar = tqdm(
        total=len(rows), unit="picture", desc="decoding", file=sys.stderr, mininterval=1.0
    )  # fmt: skip
    with bar, ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        for start in range(0, len(rows), _AT_ONCE):
            chunk = rows[start : start + _AT_ONCE]
            paths = [job.root / job.names[row] for row in chunk]
            for row, decoded in zip(chunk, pool.map(_decoder(job), paths), strict=True):
                yield row, decoded
                bar.update()


def _decoder(job: _Job) -> Callable[[Path], np.ndarray | str]:
    """A function from a path to its picture, or to the reason why there is none."""
    fit = _FITS[job.fit]

    def decode(path: Path) -> np.ndarray | str:
        try:
            with Image.open(path) as picture:
                return np.asarray(fit(_opaque(picture), job.size))
        except Exception as error:  # a broken file provokes nearly anything in Pillow
            return f"{error}".replace(str(path), "the file") or type(error).__name__

    return decode


def _opaque(picture: Image.Image) -> Image.Image:
    """The picture in RGB, on white where it is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layers = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


def _check_room(folder: Path, job: _Job) -> None:
    """Refuse before the work, not after hours of it."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = len(job.present) * math.prod(job.size) * 3
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{len(job.present)} pictures of {job.size[0]} px need {needed / 1e9:.1f} GB in "
            f"{folder}, but only {free / 1e9:.1f} GB are free; choose a smaller size or make room"
        )


def _length(path: Path) -> int:
    """How many bytes a file has, -1 if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _or_skip(lost: int, total: int) -> str:
    """The other remedy, where leaving them out would leave something."""
    return " or leave them out with --skip-missing" if lost < total else ""


def _table_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.npy")


def _note_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")
