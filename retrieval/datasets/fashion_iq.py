"""FashionIQ: pairs of dresses, shirts and tops, each with two sentences on how they differ.

    captions/cap.{category}.{split}.json         [{candidate, target, captions: [two strings]}]
    image_splits/split.{category}.{split}.json   [image ids]
    pictures                                     {id}.jpg or .png in one of `FOLDERS`

Wu et al., "Fashion IQ: A New Dataset Towards Retrieving Images by Natural Language Feedback",
CVPR 2021. Every published system joins the two sentences in its own way; `JOININGS` has four.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.datasets.annotations import (
    file_split,
    read_json,
    rows_of,
    value_of,
    with_pictures,
)
from retrieval.datasets.base import ComposedSplit
from retrieval.errors import unknown
from retrieval.gallery import Triplet

CATEGORIES = ("dress", "shirt", "toptee")
SPLITS = {"train": "train", "val": "val", "test": "test"}
FOLDERS = ("all_imgs", "images", "image_data/{category}", "resized_images/{category}")
"""Where copies of the data keep the pictures: ComposeAE, several, ComqueryFormer, start kit."""

Joining = Callable[[str, str, str], tuple[str, ...]]


def load_composed(
    root: Path,
    split: str,
    size: int = 224,
    skip_missing: bool = False,
    category: str = "all",
    joining: str = "comqueryformer",
    fit: str = "crop",
) -> ComposedSplit:
    """A split of one or all categories with its pictures; see `read_annotations`.

    Args:
        root: folder in the published layout.
        split: "train", "val" or "test" (whose targets are hidden).
        size: height and width of the pictures.
        skip_missing: leave out images without a picture, and their queries.
        category: "dress", "shirt", "toptee" or "all".
        joining: how the two sentences become one, see `JOININGS`.
        fit: "crop" or "squash", see `retrieval.pictures`.

    Raises:
        FileNotFoundError: annotations or pictures are missing.
        ValueError: an unknown name, or a file that is not whole.
    """
    annotations = read_annotations(root, split, category, joining)
    files = picture_files(root, annotations)
    return with_pictures(annotations, root, files, size, fit, skip_missing)


def read_annotations(
    root: Path, split: str, category: str = "all", joining: str = "comqueryformer"
) -> ComposedSplit:
    """A split without its pictures.

    Shirts and tops share images: each image is one row, and the galleries say where it belongs.
    `original/{category}` is the category's split list, `val/{category}` the candidates and
    targets of the category's queries (the gallery of the VAL paper; not where targets are
    hidden), and `all` is every image once. The facts of a query are its `category`, the two
    `captions`, the number of its `pair`, its `joining` and the `order` of the captions in it.
    """
    part = file_split("fashion_iq", split, SPLITS)
    if category != "all" and category not in CATEGORIES:
        raise unknown("category of fashion_iq", category, ("all", *CATEGORIES))
    categories = CATEGORIES if category == "all" else (category,)
    sources = {name: root / "image_splits" / f"split.{name}.{part}.json" for name in categories}
    lists = {name: read_json(source) for name, source in sources.items()}
    names = tuple(dict.fromkeys(image for images in lists.values() for image in images))
    rows = {image: row for row, image in enumerate(names)}

    pairs: list[Triplet] = []  # the caption is left open; the joining fills it in
    facts: list[dict[str, Any]] = []
    galleries: dict[str, np.ndarray] = {"all": np.arange(len(names))}
    for name in categories:
        place = rows_of(lists[name], sources[name])
        listed = np.array([rows[image] for image in lists[name]], dtype=np.int64)
        galleries[f"original/{name}"] = listed
        first = len(pairs)
        captions_path = root / "captions" / f"cap.{name}.{part}.json"
        for entry in read_json(captions_path):
            captions = tuple(value_of(entry, "captions", captions_path))
            facts.append({"category": name, "captions": captions, "pair": len(pairs)})
            reference = listed[place(value_of(entry, "candidate", captions_path))]
            target = listed[place(entry["target"])] if "target" in entry else -1
            pairs.append(Triplet(int(reference), "", int(target)))
        shown = {row for pair in pairs[first:] for row in (pair.reference, pair.target)}
        if -1 not in shown:
            galleries[f"val/{name}"] = np.array(sorted(shown), dtype=np.int64)

    queries, facts = _joined(pairs, facts, joining)
    return ComposedSplit(
        "fashion_iq",
        split,
        names,
        names,
        None,
        queries,
        texts=tuple(query.caption for query in queries) if split == "train" else (),
        galleries=galleries,
        facts=tuple(facts),
    )


def rejoin(split: ComposedSplit, joining: str) -> ComposedSplit:
    """The same split with its sentences joined in another way; pictures stay as they are."""
    firsts = [at for at, fact in enumerate(split.facts) if fact["order"] == 0]
    pairs = [split.queries[at] for at in firsts]
    queries, facts = _joined(pairs, [split.facts[at] for at in firsts], joining)
    texts = tuple(query.caption for query in queries) if split.texts else ()
    return replace(split, queries=queries, facts=tuple(facts), texts=texts)


def picture_files(root: Path, split: ComposedSplit) -> list[str]:
    """The picture of each image, relative to `root`; a guess where it is in none of `FOLDERS`."""
    candidates: list[list[str]] = [[] for _ in split.names]
    for folder in FOLDERS:
        for name in CATEGORIES if "{category}" in folder else CATEGORIES[:1]:
            place = folder.format(category=name)
            if not (root / place).is_dir():
                continue
            key = f"original/{name}" if "{category}" in folder else "all"
            for row in split.galleries.get(key, ()):
                candidates[row] += [f"{place}/{split.names[row]}{end}" for end in (".jpg", ".png")]
    return [
        next(
            (file for file in files if (root / file).is_file()),
            files[0] if files else f"{FOLDERS[0]}/{name}.jpg",
        )
        for name, files in zip(split.names, candidates, strict=True)
    ]


def _compose_ae(first: str, second: str, prefix: str) -> tuple[str, ...]:
    """ComposeAE: "{category} {first} and it {second}"; one category alone has no such frame."""
    joined = f"{prefix} {first} and it {second}" if prefix else f"{first} {second}"
    return (joined.lower(),)


def _comquery_former(first: str, second: str, _: str) -> tuple[str, ...]:
    """ComqueryFormer: both orders, each a query of its own."""
    return f"{first} and {second}", f"{second} and {first}"


def _start_kit(first: str, second: str, _: str) -> tuple[str, ...]:
    """The start kit's separator; vocabularies that drop punctuation read it as "and"."""
    return (f"{first} <and> {second}",)


def _clip4cir(first: str, second: str, _: str) -> tuple[str, ...]:
    """CLIP4Cir: a sentence with a capital, the ends rid of punctuation."""
    return (f"{first.strip('.?, ').capitalize()} and {second.strip('.?, ')}",)


JOININGS: dict[str, Joining] = {
    "composeAE": _compose_ae,
    "comqueryformer": _comquery_former,
    "start_kit": _start_kit,
    "clip4cir": _clip4cir,
}


def _joined(
    pairs: Iterable[Triplet], facts: list[Any], joining: str
) -> tuple[tuple[Triplet, ...], list[dict[str, Any]]]:
    """Queries, and their facts, of pairs whose sentences are joined."""
    if joining not in JOININGS:
        raise unknown("joining of captions", joining, JOININGS)
    several = len({fact["category"] for fact in facts}) > 1
    queries: list[Triplet] = []
    joined_facts: list[dict[str, Any]] = []
    for pair, fact in zip(pairs, facts, strict=True):
        first, second = _two(fact)
        texts = JOININGS[joining](first, second, fact["category"] if several else "")
        for order, text in enumerate(texts):
            queries.append(pair._replace(caption=text))
            joined_facts.append({**fact, "joining": joining, "order": order})
    return tuple(queries), joined_facts


def _two(fact: Mapping[str, Any]) -> tuple[str, str]:
    if len(fact["captions"]) != 2:
        raise ValueError(
            f"expected two captions for pair {fact['pair']} of {fact['category']}, "
            f"got {len(fact['captions'])}; fetch the captions again"
        )
    first, second = fact["captions"]
    return first, second
