"""Gallery, queries and targets as points, and what TensorBoard's embedding projector reads."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from retrieval.datasets.base import ComposedSplit, renumber
from retrieval.pictures import pad

if TYPE_CHECKING:
    from retrieval.models import RetrievalModel

GALLERY, REFERENCE, QUERY, TARGET = ROLES = ("gallery", "reference", "query", "target")
COLORS = {GALLERY: "#9ca3af", REFERENCE: "#2563eb", QUERY: "#ea580c", TARGET: "#16a34a"}
HEADER = ("role", "name", "caption", "group", "turn")
SPRITE = 8192
"""Largest side of the picture of all thumbnails that TensorBoard takes."""
THUMBNAIL = 64


@dataclass(frozen=True)
class Points:
    """Vectors of one space, and what each of them is.

    Args:
        vectors: (P, D).
        roles: of each point, one of `ROLES` (P).
        names: the image of each point; of a query its reference (P).
        captions: what was said, of queries; else "" (P).
        groups: which triplet or dialog, or -1 for the rest of the gallery (P,).
        turns: which turn of a dialog, or -1 (P,).
        pictures: uint8 (P, H, W, 3), what the image looks like.
        paths: points to be joined, one after the other: reference, query and target of a triplet,
            or a dialog's queries and its target.
    """

    vectors: np.ndarray
    roles: tuple[str, ...]
    names: tuple[str, ...]
    captions: tuple[str, ...]
    groups: np.ndarray
    turns: np.ndarray
    pictures: np.ndarray
    paths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.roles)

    def rows(self, role: str) -> np.ndarray:
        """The points of a role."""
        return np.array([row for row, own in enumerate(self.roles) if own == role], dtype=np.int64)


def join(
    embeddings: np.ndarray,
    names: Sequence[str],
    pictures: np.ndarray,
    queries: np.ndarray,
    references: np.ndarray,
    captions: Sequence[Sequence[str]],
    targets: np.ndarray,
    with_reference: bool,
) -> Points:
    """Points of images and of groups of queries: G dialogs of T turns; a triplet has one turn.

    Args:
        embeddings: of the images (N, D).
        names: of the images (N).
        pictures: of the images (N, H, W, 3).
        queries: (G, T, D).
        references: the image on show when each query was made (G, T).
        captions: what was said then, G lists of T.
        targets: (G,).
        with_reference: whether paths begin at the reference of the first turn.
    """
    count, (groups, turns) = len(names), references.shape
    group_of = np.full(count, -1)
    roles = [GALLERY] * count
    for group, row in enumerate(references[:, 0]):
        roles[row], group_of[row] = REFERENCE, group
    for group, row in enumerate(targets):  # an image that is both is a target
        roles[row], group_of[row] = TARGET, group
    asked = references.reshape(-1)  # (G * T,)
    first = [count + group * turns for group in range(groups)]
    paths = tuple(
        (
            *((int(references[group, 0]),) if with_reference else ()),
            *range(first[group], first[group] + turns),
            int(targets[group]),
        )
        for group in range(groups)
    )
    return Points(
        vectors=np.concatenate([embeddings, queries.reshape(groups * turns, -1)]),
        roles=(*roles, *[QUERY] * (groups * turns)),
        names=(*names, *(names[row] for row in asked)),
        captions=(*[""] * count, *(caption for own in captions for caption in own)),
        groups=np.concatenate([group_of, np.repeat(np.arange(groups), turns)]),
        turns=np.concatenate([np.full(count, -1), np.tile(np.arange(1, turns + 1), groups)]),
        pictures=np.concatenate([pictures, pictures[asked]]),
        paths=paths,
    )


def triplet_points(
    model: RetrievalModel,
    split: ComposedSplit,
    count: int,
    gallery: int,
    rng: np.random.Generator,
) -> Points:
    """Some triplets of a split under a trained model, among some of its other images.

    Args:
        model: in eval mode.
        split: with pictures.
        count: triplets to draw, or all if there are fewer.
        gallery: images in all, at least those of the triplets.
        rng: draws both.

    Raises:
        ValueError: the split has no pictures, or no queries whose targets are known.
    """
    from retrieval.inference import encode_gallery, encode_queries

    if split.pictures is None:
        raise ValueError(f"{split.dataset} {split.split} comes without pictures to show")
    known = [query for query in split.queries if query.target >= 0]
    if not known:
        raise ValueError(f"{split.dataset} {split.split} lists no queries with targets to show")
    drawn = [known[row] for row in rng.choice(len(known), min(count, len(known)), replace=False)]
    needed = np.unique([row for query in drawn for row in (query.reference, query.target)])
    others = rng.permutation(np.setdiff1d(np.arange(len(split)), needed))
    kept = np.sort(np.concatenate([needed, others[: max(0, gallery - len(needed))]]))
    small = _part(split, kept, renumber(drawn, kept, len(split))[0])
    assert small.pictures is not None
    return join(
        encode_gallery(model, small),
        small.names,
        small.pictures,
        encode_queries(model, small)[:, None],
        np.array([[query.reference] for query in small.queries]),
        [[query.caption] for query in small.queries],
        np.array([query.target for query in small.queries]),
        with_reference=True,
    )


def write_projector(folder: Path, points: Points, tag: str = "embeddings") -> None:
    """Write points for TensorBoard's embedding projector: labels, and thumbnails as a sprite.

    Args:
        folder: what `tensorboard --logdir` is given; gets the projector's files and an event file.
            Points written there before are replaced.
        points: to be shown.
        tag: the name that the projector lists them under.
    """
    import torch
    from torch.utils.tensorboard import SummaryWriter

    (folder / "projector_config.pbtxt").unlink(missing_ok=True)
    shutil.rmtree(folder / "00000", ignore_errors=True)
    side = min(THUMBNAIL, SPRITE // math.ceil(math.sqrt(len(points))))
    images = np.stack([thumbnail(points, row, side) for row in range(len(points))])
    labels = zip(
        points.roles, points.names, points.captions, points.groups, points.turns, strict=True
    )
    with SummaryWriter(str(folder)) as writer:
        writer.add_embedding(
            torch.from_numpy(np.array(points.vectors, dtype=np.float32)),
            metadata=[[" ".join(str(cell).split()) for cell in row] for row in labels],
            metadata_header=list(HEADER),
            label_img=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
            tag=tag,
        )


def thumbnail(points: Points, row: int, side: int) -> np.ndarray:
    """A point's picture, uint8 (side, side, 3); all but the gallery's in a frame of their role."""
    picture = np.array(pad(Image.fromarray(points.pictures[row]), (side, side)))
    if points.roles[row] != GALLERY:
        frame = max(1, side // 16)
        inside = picture[frame:-frame, frame:-frame].copy()
        picture[:] = _rgb(COLORS[points.roles[row]])
        picture[frame:-frame, frame:-frame] = inside
    return picture


def _part(split: ComposedSplit, kept: np.ndarray, queries: Sequence[Any]) -> ComposedSplit:
    """Some images of a split, and queries about them."""
    tables = {
        name: table[kept]
        for name in ("pictures", "features", "query_pictures")
        if (table := getattr(split, name)) is not None
    }
    return replace(
        split,
        names=tuple(split.names[row] for row in kept),
        labels=tuple(split.labels[row] for row in kept),
        queries=tuple(queries),
        facts=(),
        galleries={},
        sample=None,
        **tables,
    )


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue
