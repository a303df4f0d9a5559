"""Make the built-in CSS data on disk, in the published layout.

    css_toy_dataset_novel2_small.dup.npy      scenes and modification queries of both splits
    images/css_{split}_{index:06d}.png        3D pictures (2D ones are drawn when read)
    relative_captions_{look}_{split}.json     relative captions, in the layout of Shoes
    complete.json                             the specification; written last

Every base scene comes with a family of scenes one edit away, as the published data seems to
have been made (19,012 pictures = 1,000 scenes + 6,004 modifications x 3 pairs). No scene is in
both splits. Departure: the published splits also hold out combinations of shape and colour.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retrieval.files import atomic_write
from retrieval.rendering.captions import DRAWS, relative_caption
from retrieval.rendering.claims import NOUNS
from retrieval.rendering.pictures_3d import render_3d
from retrieval.rendering.scenes import CELLS, sample_edit, sample_scene, to_objects

EDITION = 2
"""Of the language of captions; data of another edition is another data set."""
ARCHIVE = "css_toy_dataset_novel2_small.dup.npy"
SPLITS = ("train", "test")


@dataclass(frozen=True)
class BuildSpec:
    """What to make: per split, how many base scenes, edits of each, and captioned pairs."""

    seed: int = 0
    train: tuple[int, int] = (1500, 5)
    test: tuple[int, int] = (700, 5)
    train_captions: int = 60_000
    test_pairs: int = 4_000
    size: int = 64

    @property
    def name(self) -> str:
        """A folder name that tells data sets apart."""
        (a, b), (c, d) = self.train, self.test
        return f"css-{a}x{b}-{c}x{d}-{self.size}px-seed{self.seed}-edition{EDITION}"


PUBLISHED = BuildSpec(train=(1000, 18), test=(1000, 18))
"""About the published size: 19,000 pictures and 18,000 queries in each split."""


def build(root: Path, spec: BuildSpec | None = None, workers: int | None = None) -> None:
    """Make the data set in a folder; an interrupted run is taken up where it stopped.

    Nothing appears under `root` before all is done: pictures are made in a folder beside it,
    which takes the name at the end.

    Args:
        root: the folder to make. If it is complete nothing is done.
        spec: sizes and seed; the default is the built-in gallery (9,000 and 4,200 pictures).
        workers: processes that draw pictures; all cores by default.

    Raises:
        ValueError: `root` holds something else already.
    """
    spec = spec or BuildSpec()
    if is_complete(root):
        return
    if root.exists() and any(root.iterdir()):
        raise ValueError(
            f"{root} is not empty and holds no complete CSS data; choose another folder"
        )
    partial_root = root.with_name(f".{root.name}.{spec.name}.partial")
    (partial_root / "images").mkdir(parents=True, exist_ok=True)

    archive, scenes = _sample(spec)
    with atomic_write(partial_root / ARCHIVE) as temporary, open(temporary, "wb") as file:
        np.save(file, np.array(archive, dtype=object), allow_pickle=True)
    for number, split in enumerate(SPLITS):
        for look in NOUNS:
            rng = np.random.default_rng([spec.seed, 2, number])
            rows = _captioned(split, look, scenes[split], spec, rng)
            with atomic_write(partial_root / captions_name(look, split)) as temporary:
                temporary.write_text(json.dumps(rows))

    _draw_all(partial_root / "images", scenes, spec, workers or os.cpu_count() or 1)
    (partial_root / "complete.json").write_text(json.dumps(asdict(spec), indent=1))
    if root.exists():
        root.rmdir()
    os.replace(partial_root, root)


def is_complete(root: Path) -> bool:
    """Whether a folder holds a data set that was made to the end."""
    return (root / "complete.json").is_file()


def picture_name(split: str, index: int) -> str:
    """The published name of a picture."""
    return f"css_{split}_{index:06d}.png"


def captions_name(look: str, split: str) -> str:
    """The file of a split's relative captions; looks differ in what things are called."""
    return f"relative_captions_{look}_{split}.json"


def _sample(spec: BuildSpec) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of the archive, and the scenes (S, 9, 3) of each split."""
    archive: dict[str, Any] = {}
    scenes: dict[str, np.ndarray] = {}
    seen: set[bytes] = set()

    def fresh(make: Callable[[], Any], scene_of: Callable[[Any], np.ndarray]) -> Any:
        while True:
            made = make()
            if (key := scene_of(made).tobytes()) not in seen:
                seen.add(key)
                return made

    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([spec.seed, 1, number])
        bases, edits = spec.train if split == "train" else spec.test
        made: list[np.ndarray] = []
        pairs: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for _ in range(bases):
            base = fresh(partial(sample_scene, rng), lambda scene: scene)
            source = len(made)
            made.append(base)
            for _ in range(edits):
                edit = fresh(partial(sample_edit, base, rng), lambda edit: edit.scene)
                pairs[edit.instruction].append((source, len(made)))
                made.append(edit.scene)
        scenes[split] = np.stack(made)
        archive[split] = {
            "objects_img": [to_objects(scene) for scene in made],
            "labels": list(range(len(made))),
            "mods": [
                {"from": [a for a, _ in found], "to": [b for _, b in found], "to_str": text}
                for text, found in pairs.items()
            ],
        }
    return archive, scenes


def _captioned(
    split: str, look: str, scenes: np.ndarray, spec: BuildSpec, rng: np.random.Generator
) -> list[dict[str, str]]:
    """Relative captions in the layout of Shoes: one per training pair, five per test pair."""
    per_pair = 1 if split == "train" else 5
    count = spec.train_captions if split == "train" else spec.test_pairs
    family = 1 + (spec.train if split == "train" else spec.test)[1]
    rows = []
    for reference, target in sample_pairs(scenes, family, count, rng):
        for _ in range(per_pair):
            rows.append(
                {
                    "ImageName": picture_name(split, target),
                    "ReferenceImageName": picture_name(split, reference),
                    "RelativeCaption": relative_caption(
                        scenes[reference], scenes[target], rng.random(DRAWS), look
                    ),
                }
            )
    return rows


def sample_pairs(
    scenes: np.ndarray, family: int, count: int, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Pairs (reference, target) as dialogs meet them: from strangers to near twins.

    35 % are random, 30 % take the most similar of 200 random scenes as reference, 30 % come
    from one family of edits, 5 % are the same picture twice (the user has found the target).
    """
    kinds = rng.choice(4, size=count, p=[0.35, 0.30, 0.30, 0.05])
    for kind in kinds:
        target = int(rng.integers(len(scenes)))
        if kind == 0:
            reference = int(rng.integers(len(scenes)))
        elif kind == 1:
            others = rng.integers(len(scenes), size=200)
            shared = (scenes[others] == scenes[target]).all(-1) & (scenes[target][:, 0] > 0)
            reference = int(others[np.argmax(shared.sum(-1) * (others != target))])
        elif kind == 2:
            first = target - target % family
            reference = int(rng.integers(first, min(first + family, len(scenes))))
        else:
            reference = target
        yield reference, target


def _draw_all(folder: Path, scenes: dict[str, np.ndarray], spec: BuildSpec, workers: int) -> None:
    """Draw every picture that is not there yet, with progress."""
    from tqdm import tqdm

    jobs = [
        (folder / picture_name(split, index), scene, (spec.seed, 3, number, index), spec.size)
        for number, split in enumerate(SPLITS)
        for index, scene in enumerate(scenes[split])
    ]
    missing = [job for job in jobs if not job[0].exists()]
    progress = tqdm(
        total=len(jobs), initial=len(jobs) - len(missing), unit="picture", desc="drawing scenes",
        file=sys.stderr, mininterval=1.0,
    )  # fmt: skip
    with progress, ProcessPoolExecutor(workers) as pool:
        for done in pool.map(_draw_chunk, _chunks(missing, 64)):
            progress.update(done)


def _chunks(jobs: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _draw_chunk(jobs: list[tuple[Path, np.ndarray, tuple[int, ...], int]]) -> int:
    """Draw and save some pictures; returns how many. Runs in a worker process."""
    for path, scene, seed, size in jobs:
        assert scene.shape == (CELLS, 3)
        picture = render_3d(to_objects(scene), np.random.default_rng(seed), size, size)
        with atomic_write(path) as temporary:
            Image.fromarray(picture).save(temporary, optimize=False, compress_level=1)
    return len(jobs)
