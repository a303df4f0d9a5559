"""MIT-States: the same thing in another state ("ripe tomato", "moldy tomato").

    images/{adjective} {noun}/*.jpg

Isola et al., "Discovering States and Transformations in Image Collections", CVPR 2015, with the
split and queries of Vo et al., "Composing Text and Image for Image Retrieval", CVPR 2019: the
nouns of the test split are never seen in training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.datasets.base import ComposedSplit
from retrieval.errors import unknown
from retrieval.gallery import Triplet
from retrieval.pictures import load_pictures

_HELD_OUT = """
armor bracelet bush camera candy castle ceramic cheese clock clothes coffee fan fig fish foam
forest fruit furniture garden gate glass horse island laptop lead lightning mirror orange paint
persimmon plastic plate potato road rubber sand shell sky smoke steel stream table tea tomato
vacuum wax wheel window wool
"""
TEST_NOUNS = frozenset(_HELD_OUT.split())
SPLITS = ("train", "test")


def load_composed(
    root: Path,
    split: str,
    size: int = 224,
    skip_missing: bool = False,
    complete_text: bool = False,
) -> ComposedSplit:
    """A split's images, labels ("adjective noun"), and its queries or its training rule.

    The test split asks, for every image, for each *other* adjective of its noun; any image of
    that label is a hit, and `target` is the first of them. The training split has no list of
    queries but `sample`, an `AdjectivePairs`.

    Departure: folders and files are taken in alphabetical order, where the original takes them
    as the file system lists them.

    Args:
        root: the folder that holds `images`.
        split: "train" or "test".
        size: height and width of the pictures (short side scaled, centre cut out).
        skip_missing: leave out pictures that cannot be decoded, and count them.
        complete_text: say "adjective noun", an easier task, instead of the adjective alone.

    Raises:
        FileNotFoundError: there is no `images` folder, or nothing of this split in it.
        ValueError: an unknown split, names that do not fit the layout, a noun with one adjective
            only, or pictures that cannot be decoded.
    """
    if split not in SPLITS:
        raise unknown("split of MIT-States", split, SPLITS)
    listed = list_pictures(root, split)
    pictures = load_pictures(
        root, [f"images/{name}" for name in listed], size, skip_missing=skip_missing,
        label=f"mitstates-{split}",
    )  # fmt: skip
    names = [listed[row] for row in pictures.kept]
    labels = [name.split("/")[0] for name in names]
    is_train = split == "train"
    return ComposedSplit(
        dataset="mitstates",
        split=split,
        names=tuple(names),
        labels=tuple(labels),
        pictures=pictures.table,
        queries=() if is_train else tuple(other_adjectives(labels, complete_text)),
        texts=tuple(labels) if is_train else (),
        sample=AdjectivePairs(labels, complete_text) if is_train else None,
        galleries={"all": np.arange(len(names))},
        skipped=pictures.skipped,
    )


def list_pictures(root: Path, split: str) -> list[str]:
    """The split's files, "adjective noun/file.jpg", in alphabetical order.

    Folders without a space, and those of the placeholder adjective "adj", are passed over.

    Raises:
        FileNotFoundError: there is no `images` folder, or nothing of this split in it.
        ValueError: a folder of more than two words, or a file that is no .jpg.
    """
    if not (root / "images").is_dir():
        raise FileNotFoundError(
            f"expected MIT-States in {root}, but there is no folder images in it; "
            "give the folder that holds it"
        )
    names = []
    for folder in sorted(path for path in (root / "images").iterdir() if path.is_dir()):
        words = folder.name.split()
        if " " not in folder.name or words[0] == "adj":
            continue
        if len(words) != 2:
            raise ValueError(
                f"expected folders named 'adjective noun' in {root / 'images'}, "
                f"got {folder.name!r}; rename or remove it"
            )
        if (words[1] in TEST_NOUNS) == (split == "test"):
            names += [f"{folder.name}/{file.name}" for file in sorted(folder.iterdir())]
    strange = [name for name in names if not name.endswith("jpg")]
    if strange:
        raise ValueError(
            f"expected only .jpg files in the folders of {root / 'images'}, got {len(strange)} "
            f"others, the first is {strange[0]!r}; remove them"
        )
    if not names:
        raise FileNotFoundError(
            f"no pictures of the {split} split in {root / 'images'}; fetch the data set again"
        )
    return names


def adjectives_by_noun(labels: Sequence[str]) -> dict[str, list[str]]:
    """Which adjectives each noun has, in order of appearance.

    Raises:
        ValueError: a noun has one adjective only, so nothing could be asked of it.
    """
    adjectives: dict[str, dict[str, None]] = defaultdict(dict)
    for adjective, noun in (label.split() for label in dict.fromkeys(labels)):
        adjectives[noun][adjective] = None
    for noun, found in adjectives.items():
        if len(found) < 2:
            raise ValueError(
                f"expected at least two adjectives of every noun, but {noun!r} has only "
                f"{next(iter(found))!r}; fetch the data set again"
            )
    return {noun: list(found) for noun, found in adjectives.items()}


def other_adjectives(labels: Sequence[str], complete_text: bool = False) -> list[Triplet]:
    """For every image in turn, one query per other adjective of its noun.

    Example:
        >>> other_adjectives(["ripe fig", "old fig", "old fig"])[0]
        Triplet(reference=0, caption='old', target=1)
    """
    adjectives = adjectives_by_noun(labels)
    queries = []
    first = {label: row for row, label in reversed(list(enumerate(labels)))}
    for reference, label in enumerate(labels):
        own, noun = label.split()
        for adjective in adjectives[noun]:
            if adjective != own:
                wanted = f"{adjective} {noun}"
                text = wanted if complete_text else adjective
                queries.append(Triplet(reference, text, first[wanted]))
    return queries


class AdjectivePairs:
    """The published training rule: one image, and two different adjectives of its noun.

    Triplets come in twos with the same reference, drawn uniformly; either adjective may be the
    reference's own. The target is any image of the wanted label, the reference included.
    Departure: references are drawn with replacement, where the original goes through a shuffled
    list of which it discards every second one.

    Args:
        labels: the images' labels (N), "adjective noun".
        complete_text: say "adjective noun" instead of the adjective alone.

    Example:
        >>> pairs = AdjectivePairs(["ripe fig", "old fig"])
        >>> first, second = pairs(np.random.default_rng(0), 2)
        >>> first.reference == second.reference, {first.caption, second.caption} == {"ripe", "old"}
        (True, True)
    """

    def __init__(self, labels: Sequence[str], complete_text: bool = False):
        self.labels = labels
        self.complete_text = complete_text
        self._adjectives = adjectives_by_noun(labels)
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, label in enumerate(labels):
            self._rows[label].append(row)

    def __call__(self, rng: np.random.Generator, count: int) -> list[Triplet]:
        """Draw `count` triplets; of an odd number the last has no partner."""
        drawn: list[Triplet] = []
        while len(drawn) < count:
            reference = int(rng.integers(len(self.labels)))
            noun = self.labels[reference].split()[1]
            adjectives = self._adjectives[noun]
            for choice in rng.choice(len(adjectives), size=2, replace=False):
                wanted = f"{adjectives[choice]} {noun}"
                target = self._rows[wanted][rng.integers(len(self._rows[wanted]))]
                text = wanted if self.complete_text else adjectives[choice]
                drawn.append(Triplet(reference, text, target))
        return drawn[:count]
