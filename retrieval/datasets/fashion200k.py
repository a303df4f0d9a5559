"""Fashion200k: clothes with short product descriptions; a query replaces one word.

    labels/{category}_{split}_detect_all.txt   picture <tab> detection score <tab> description
    test_queries.txt                           source and target picture, one query per line
    women/{category}/...                       the cropped pictures

Han et al., "Automatic Spatially-aware Fashion Concept Discovery", ICCV 2017, with the queries of
Vo et al., "Composing Text and Image for Image Retrieval", CVPR 2019.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from retrieval.datasets.base import ComposedSplit, renumber
from retrieval.errors import unknown
from retrieval.gallery import Triplet
from retrieval.pictures import load_pictures

SPLITS = ("train", "test")
QUERIES = "test_queries.txt"
_MARKS = {".": "dotmark", "?": "questionmark", "&": "andmark", "*": "starmark"}


def load_composed(
    root: Path,
    split: str,
    size: int = 224,
    skip_missing: bool = False,
    complete_text: bool = False,
) -> ComposedSplit:
    """A split's images, labels (their descriptions), and its queries or its training rule.

    The training split has no list of queries but `sample`, a `WordReplacements`; its texts are
    the descriptions alone, as published, so "replace" is a word its vocabulary does not know.

    Departures: label files are read in alphabetical order, where the original takes them as the
    file system lists them; pictures left out on request are left out before the training rule is
    worked out.

    Args:
        root: the folder that holds `labels`, `test_queries.txt` and the pictures.
        split: "train" or "test".
        size: height and width of the pictures (short side scaled, centre cut out). At 224 px
            the cache takes 26 GB for the training split and 4.5 GB for the test split.
        skip_missing: leave out pictures that are missing or cannot be decoded, and the test
            queries that need them, and count both.
        complete_text: say the whole description of the target, an easier task, instead of
            "replace X with Y".

    Raises:
        FileNotFoundError: label files, the queries or pictures are missing.
        ValueError: an unknown split, a line that cannot be read, a query of a picture that no
            label file names, or pictures that cannot be decoded.
    """
    if split not in SPLITS:
        raise unknown("split of Fashion200k", split, SPLITS)
    listed, captions = read_labels(root, split)
    queries = [] if split == "train" else read_queries(root, listed, captions, complete_text)
    pictures = load_pictures(
        root, listed, size, skip_missing=skip_missing, label=f"fashion200k-{split}"
    )
    labels = [captions[row] for row in pictures.kept]
    remaining, _ = renumber(queries, pictures.kept, len(listed))
    skipped = dict(pictures.skipped)
    if len(remaining) < len(queries):
        skipped["queries of such pictures"] = len(queries) - len(remaining)
    return ComposedSplit(
        dataset="fashion200k",
        split=split,
        names=tuple(listed[row] for row in pictures.kept),
        labels=tuple(labels),
        pictures=pictures.table,
        queries=tuple(remaining),
        texts=tuple(labels) if split == "train" else (),
        sample=WordReplacements(labels, complete_text) if split == "train" else None,
        galleries={"all": np.arange(len(labels))},
        skipped=skipped,
    )


def read_labels(root: Path, split: str) -> tuple[list[str], list[str]]:
    """The pictures of a split, as paths below `root`, and what each is called.

    Every label file whose name contains the split's name is read.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a line has fewer than three columns.
    """
    files = sorted((root / "labels").glob(f"*{split}*.txt"))
    if not files:
        raise FileNotFoundError(
            f"expected label files like labels/dress_{split}_detect_all.txt in {root}, found "
            "none; give the folder that holds labels"
        )
    names, captions = [], []
    for path in files:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            columns = line.split("\t")
            if len(columns) < 3:
                raise ValueError(
                    f"expected picture, score and description between tabs, got {len(columns)} "
                    f"columns in line {number} of {path}; fetch the file again"
                )
            names.append(columns[0].strip())
            captions.append(mark_punctuation(columns[2]))
    return names, captions


def read_queries(
    root: Path, names: Sequence[str], captions: Sequence[str], complete_text: bool = False
) -> list[Triplet]:
    """The published test queries, in file order; their words follow from the two captions.

    Raises:
        FileNotFoundError: the list is missing.
        ValueError: a line has not two columns, or names a picture that no label file has.
    """
    path = root / QUERIES
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the list of test queries {QUERIES} in {root}, but it is missing; it comes "
            "with the code of TIRG, not with the pictures"
        )
    rows = {name: row for row, name in enumerate(names)}
    queries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 2:
            raise ValueError(
                f"expected a source and a target picture, got {len(columns)} columns in line "
                f"{number} of {path}; fetch the file again"
            )
        for name in columns:
            if name not in rows:
                raise ValueError(
                    f"line {number} of {path} asks for {name}, which no test label file names; "
                    "fetch the label files of all categories"
                )
        source, target = (rows[name] for name in columns)
        text = replacement(captions[source], captions[target], complete_text)
        queries.append(Triplet(source, text, target))
    return queries


def mark_punctuation(description: str) -> str:
    """A description as the published code keeps it: four marks spelt out, without spaces.

    So that "v.neck" and "vneck" stay different words when punctuation is dropped later.

    Example:
        >>> mark_punctuation(" black & white dr. dress ")
        'black andmark white drdotmark dress'
    """
    marked = description.strip()
    for mark, word in _MARKS.items():
        marked = marked.replace(mark, word)
    return marked


def replacement(source: str, target: str, complete_text: bool = False) -> str:
    """What to say to get from one caption to another: the first word that each has alone.

    Where one has no word of its own, its last word is said. Of captions that differ in several
    words these may not belong together; that is the published rule.

    Example:
        >>> replacement("red silk dress", "blue silk dress")
        'replace red with blue'
        >>> replacement("red dress", "red midi dress")
        'replace dress with midi'
    """
    if complete_text:
        return target
    given, wanted = source.split(), target.split()
    return f"replace {_own_word(given, wanted)} with {_own_word(wanted, given)}"


def _own_word(words: Sequence[str], others: Sequence[str]) -> str:
    """The first word that is not among the others, else the last (of no words: none)."""
    return next((word for word in words if word not in others), words[-1] if words else "")


def find_parents(captions: Iterable[str]) -> dict[str, list[str]]:
    """The parent captions that join several captions, each with its children.

    A parent is a caption with one word less: *every* occurrence of that word's letters is
    deleted, inside other words too ("blue bluebell" gives "bell"), double spaces become single
    ones in one pass. Only parents of at least two captions count, and only images of their
    children can be modified; this rule, quirk included, yields the published number of them.

    Returns:
        Parent caption to the distinct captions that produce it, both in order of discovery.

    Example:
        >>> find_parents(["red dress", "blue dress", "blue skirt"])
        {'dress': ['red dress', 'blue dress'], 'blue': ['blue dress', 'blue skirt']}
    """
    children: dict[str, dict[str, None]] = defaultdict(dict)
    for caption in dict.fromkeys(captions):
        for word in caption.split():
            parent = caption.replace(word, "").replace("  ", " ").strip()
            children[parent][caption] = None
    return {parent: list(found) for parent, found in children.items() if len(found) >= 2}


class WordReplacements:
    """The published training rule: an image, a parent of its caption, another child of that.

    Image, parent and child are drawn uniformly, the child until it is not the image's own
    caption; the target is any image of the child caption. Departure: images are drawn with
    replacement from those that can be modified, where the original shuffles all images every
    epoch and draws again where one cannot be.

    Args:
        labels: the images' captions (N).
        complete_text: say the target's caption instead of "replace X with Y".

    Raises:
        ValueError: no image can be modified, since no two captions share a parent.

    Example:
        >>> rule = WordReplacements(["red dress", "blue dress", "belt"])
        >>> sorted(set(rule(np.random.default_rng(0), 20)))[0]
        Triplet(reference=0, caption='replace red with blue', target=1)
    """

    def __init__(self, labels: Sequence[str], complete_text: bool = False):
        self.labels = labels
        self.complete_text = complete_text
        self._children = find_parents(labels)
        self._parents: dict[str, list[str]] = defaultdict(list)
        for parent, children in self._children.items():
            for child in children:
                self._parents[child].append(parent)
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, label in enumerate(labels):
            self._rows[label].append(row)
        self.modifiable = np.array(
            [row for row, label in enumerate(labels) if label in self._parents], dtype=np.int64
        )
        if not len(self.modifiable):
            raise ValueError(
                f"expected captions that differ in one word among {len(labels)} images, found "
                "none; fetch the label files of all categories"
            )

    def __call__(self, rng: np.random.Generator, count: int) -> list[Triplet]:
        """Draw `count` triplets."""
        return [self._draw(rng) for _ in range(count)]

    def _draw(self, rng: np.random.Generator) -> Triplet:
        reference = int(self.modifiable[rng.integers(len(self.modifiable))])
        own = self.labels[reference]
        parents = self._parents[own]
        children = self._children[parents[rng.integers(len(parents))]]
        wanted = own
        while wanted == own:
            wanted = children[rng.integers(len(children))]
        target = self._rows[wanted][rng.integers(len(self._rows[wanted]))]
        return Triplet(reference, replacement(own, wanted, self.complete_text), target)
