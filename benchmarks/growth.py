"""Cost of a turn and memory as the gallery grows, with the floor that memory sets.

    OMP_NUM_THREADS=1 python -m benchmarks.growth

A turn is one look into the index (best image and exact rank) by one dialog, or by 128 together.
The floor is the time it takes one thread to read the stored vectors once (the largest of all
their bits, taken as integers), in the same interleaved rounds. Vectors are float32 or float16 in
memory, or float16 on disk (memory-mapped; the page cache holds them, if there is room).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.measuring import OUT, RESIDENT, in_child, interleaved, median, ratio, table, write
from retrieval.files import atomic_write
from retrieval.index import ExactIndex

KINDS = ("float32", "float16", "float16 mapped")


@dataclass(frozen=True)
class Args:
    """How far to go."""

    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Numbers N of images."""
    dim: int = 512
    """Numbers of a vector (D)."""
    dialogs: int = 128
    """Dialogs that take a turn together (B)."""
    repeats: int = 5
    """Interleaved repeats; the median counts."""
    training_size: int = 100_000
    """Images in the gallery of the measured training."""
    out: Path = OUT
    """Receives growth.json, growth.md and growth.png."""


TURN_MEMORY = (
    RESIDENT
    + """
import numpy as np
from retrieval.index import ExactIndex
path, kind, dialogs = sys.argv[1], sys.argv[2], int(sys.argv[3])
vectors = np.load(path, mmap_mode="r" if kind.endswith("mapped") else None)
asked = np.asarray(vectors[:dialogs], np.float32)
before = begin()
index = ExactIndex(vectors)
index.look_up(asked, np.zeros(len(asked), np.int64))
print(json.dumps({"inputs_mb": vectors.nbytes / 2**20, "beyond_mb": peak() - before}))
"""
)

TRAINING_MEMORY = (
    RESIDENT
    + """
from dataclasses import replace
import numpy as np, torch
from agents.supervised import Training, pretrain_epoch
from agents.tracker import TrackerAgent
from envs.factory import make_dialog
size = int(sys.argv[1])
small = make_dialog()
rows = np.arange(size) % len(small.gallery)
rng = np.random.default_rng(0)
features = small.gallery.features[rows]
features += 0.01 * rng.standard_normal(features.shape, dtype=np.float32)
features /= np.linalg.norm(features, axis=1, keepdims=True)
gallery = replace(small.gallery, names=tuple(map(str, range(size))), features=features,
                  attributes=small.gallery.attributes[rows], pictures=None, grids=None)
from envs.dialog import Dialog
from retrieval.index import ExactIndex
from user_simulator import AttributeUser
dialog = Dialog(gallery, ExactIndex(features), AttributeUser(gallery), small.vocabulary)
agent = TrackerAgent(small.vocabulary, features.shape[1])
optimizer = torch.optim.Adam(agent.parameters())
before = begin()
for _ in pretrain_epoch(agent, dialog, optimizer, 0, Training(dialogs_per_epoch=256)):
    pass
print(json.dumps({"training_mb": peak(), "training_before_mb": before,
                  "features_mb": features.nbytes / 2**20}))
"""
)


def write_vectors(path: Path, size: int, dim: int, kind: type) -> None:
    """Random unit-norm rows on disk, written piece by piece."""
    rng = np.random.default_rng(size)
    stored = np.lib.format.open_memmap(path, "w+", kind, (size, dim))
    for start in range(0, size, 10_000):
        rows = rng.standard_normal((min(10_000, size - start), dim), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        stored[start : start + len(rows)] = rows
    stored.flush()


def measure(size: int, args: Args, folder: Path) -> list[dict[str, Any]]:
    """One line for each way of keeping the vectors."""
    paths = {"float32": folder / "single.npy", "float16": folder / "half.npy"}
    for name, path in paths.items():
        write_vectors(path, size, args.dim, np.dtype(name).type)
    vectors = {
        kind: np.load(paths[kind.split()[0]], mmap_mode="r" if "mapped" in kind else None)
        for kind in KINDS
    }
    indexes = {kind: ExactIndex(stored) for kind, stored in vectors.items()}
    asked = np.asarray(vectors["float32"][: args.dialogs], np.float32)
    target = np.arange(len(asked))[::-1].copy()
    jobs: dict[str, Any] = {}
    for kind, index in indexes.items():
        jobs[f"{kind}, 1"] = partial(index.look_up, asked[:1], target[:1])
        jobs[f"{kind}, B"] = partial(index.look_up, asked, target)
        jobs[f"{kind}, floor"] = partial(np.max, vectors[kind].view(np.int32))
    seconds = interleaved(jobs, args.repeats)
    return [
        {
            "size": size,
            "kind": kind,
            "bytes": vectors[kind].nbytes,
            "floor": median(seconds[f"{kind}, floor"]),
            "one": median(seconds[f"{kind}, 1"]),
            "over_floor": ratio(seconds, f"{kind}, 1", f"{kind}, floor"),
            "each_of_many": median(seconds[f"{kind}, B"]) / len(asked),
            **in_child(TURN_MEMORY, paths[kind.split()[0]], kind, args.dialogs),
        }
        for kind in KINDS
    ]


def draw(path: Path, lines: list[dict[str, Any]], dialogs: int) -> None:
    """Cost per turn over N, both axes logarithmic, with the floors dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for kind, color in zip(KINDS, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        mine = [line for line in lines if line["kind"] == kind]
        sizes = [line["size"] for line in mine]
        axes.plot(sizes, [line["one"] for line in mine], "o-", color=color, label=f"{kind}, B = 1")
        axes.plot(sizes, [line["each_of_many"] for line in mine], "s:", color=color,
                  label=f"{kind}, per dialog of B = {dialogs}")  # fmt: skip
        if kind != KINDS[-1]:
            axes.plot(
                sizes,
                [line["floor"] for line in mine],
                "--",
                color=color,
                alpha=0.5,
                label=f"{kind} read once",
            )
    axes.set(xscale="log", yscale="log", xlabel="images (N)", ylabel="seconds per turn")
    axes.grid(color="0.9")
    axes.legend(fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def main() -> None:
    """Measure, print, draw and keep."""
    args = tyro.cli(Args, description=__doc__)
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            lines += measure(size, args, Path(folder))
    training = in_child(TRAINING_MEMORY, args.training_size)
    draw(args.out / "growth.png", lines, args.dialogs)
    largest = lines[-len(KINDS)]
    bytes_per_second = largest["bytes"] / largest["floor"]
    rows = [
        (f"{line['size']:,}", line["kind"], 1e3 * line["one"],
         line["over_floor"], 1e3 * line["each_of_many"],
         line["inputs_mb"], line["beyond_mb"])
        for line in lines
    ]  # fmt: skip
    many = f"ms per dialog's turn, B = {args.dialogs}"
    head = (
        "N",
        "kept as",
        "ms per turn, B = 1",
        "times the floor",
        many,
        "vectors MB",
        "beyond, MB",
    )
    text = (
        f"Vectors of {args.dim} numbers; floor: reading them once, at the largest N with "
        f"{bytes_per_second / 1e9:.1f} GB/s.\n\n{table(rows, head)}\n\n"
        f"`train_sl` at N = {args.training_size:,}: peak {training['training_mb']:.0f} MB, "
        f"{training['training_mb'] - training['training_before_mb']:.0f} MB of it beyond Python, "
        f"PyTorch and the gallery ({training['features_mb']:.0f} MB of features).\n\n"
        "![growth](growth.png)"
    )
    content = {"bytes_per_second": bytes_per_second, "lines": lines, **training}
    write("growth", "Growth", content, text, args.out)


if __name__ == "__main__":
    main()
