"""The figures of RESULTS.md on real photos: trains what is missing, prints the tables.

results_catalog --dataset-path ../shared/data/product_photos
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import tyro

from scripts.common import run
from scripts.results_css import CUTS, SEEDS, Line, call, figures, spread

ENCODER = "efficientnet-lite0+color"
RECIPE = (
    f"--dataset catalog --image_encoder features --features {ENCODER} --recipe fast --bfloat16 "
    "--embed_dim 128 --num_iters 1000 --evaluate_every 0"
)
"""One recipe and one budget for every composer; the last model is the one that counts."""
QUICK = "--num_iters 4 --embed_dim 16 --batch_size 16"
"""What is typed after a line's own flags to see it run, not to see figures."""
BASELINES = ("imgonly", "textonly")
MODELS = {
    "imgonly": "image only",
    "textonly": "text only",
    "concat": "concat",
    "tirg": "TIRG",
    "composeAE": "ComposeAE",
    "comqueryformer": "ComqueryFormer's fusion",
}
LINES = tuple(
    Line(name, what, f"{RECIPE} --model {name}", seeds=SEEDS) for name, what in MODELS.items()
)


@dataclass(frozen=True)
class Args:
    """Where the catalogue and the runs are; what is there is not made again."""

    dataset_path: Path = Path("data/product_photos")
    """A catalogue's folder; its features are extracted when they are missing."""
    out: Path = Path("runs/catalog")
    """Receives a folder per run."""
    only: tuple[str, ...] = ()
    """Names of models; by default all."""
    seeds: tuple[int, ...] = SEEDS
    """To train each with."""
    quick: bool = False
    """A few steps of small models, in `OUT/quick`: shows that all runs, not what it reaches."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: reproduce(args))


def reproduce(args: Args) -> None:
    """Train what is missing, one run after the other, seed by seed, then print the tables.

    Raises:
        ValueError: there is no such model, or no usable catalogue.
        FileNotFoundError: there is no such folder.
        RuntimeError: a command failed; its own message stands on standard error.
    """
    from retrieval.errors import unknown

    for name in args.only:
        if name not in MODELS:
            raise unknown("model", name, MODELS)
    if args.quick:
        args = replace(args, out=args.out / "quick")
    prepare(args.dataset_path)
    lines = [line for line in LINES if not args.only or line.name in args.only]
    for seed in args.seeds:
        for line in lines:
            if figures(args.out, line.name, seed) is None:
                typed = line.command(args.dataset_path, args.out, seed)
                call(f"{typed} {QUICK}" if args.quick else typed)
    print(tables(lines, args.out, args.seeds))
    told = ", ".join(f"{cut} {value:.1f}" for cut, value in listener(args.dataset_path).items())
    print(f"any product that fits the words, for who knows them all: {told}")


def prepare(root: Path) -> None:
    """Extract a catalogue's features where they are missing."""
    from retrieval.datasets.catalog import is_extracted, open_catalogue

    if not is_extracted(open_catalogue(root), ENCODER):
        call(f"extract_features --dataset catalog --dataset-path {root} --encoder {ENCODER}")


def listener(root: Path) -> dict[str, float]:
    """Recalls, in percent, of one who knows all codes and picks at random what fits the words.

    Of n test products of which the caption is true, the reference left out, the target is among
    the first K in K of n cases. A model can do better: words are chosen for a reason.
    """
    import numpy as np

    from retrieval.datasets.catalog import open_catalogue, relative_triplets

    catalogue = open_catalogue(root)
    codes = catalogue.codes[catalogue.part("test")]
    counts = []
    for reference, caption, _ in relative_triplets(catalogue, "test"):
        fits = np.arange(len(codes)) != reference
        for claim in catalogue.language.reader.read(caption):
            if claim is not None:
                fits &= claim.holds(codes[reference], codes)
        counts.append(fits.sum())
    return {
        cut: float(100 * np.minimum(1, int(cut.removeprefix("R@")) / np.array(counts)).mean())
        for cut in CUTS
    }


def tables(lines: Sequence[Line], out: Path, seeds: Sequence[int]) -> str:
    """What was found, as Markdown: means over seeds, and gains over both baselines."""
    head = ["", *CUTS, "R@10 over image only", "over text only", "minutes", "seeds"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        found = [one for seed in seeds for one in [figures(out, line.name, seed)] if one]
        if not found:
            continue
        cells = [spread([one[cut] for one in found]) for cut in CUTS]
        gains = [gain(line.name, other, out, seeds) for other in BASELINES]
        minutes = f"{mean(one['minutes'] for one in found):.1f}"
        rows.append([line.what, *cells, *gains, minutes, str(len(found))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def gain(name: str, baseline: str, out: Path, seeds: Sequence[int], cut: str = "R@10") -> str:
    """A model's recall less that of a baseline, paired by seed: the mean and the least."""
    if name in BASELINES:
        return ""
    pairs = [(figures(out, name, seed), figures(out, baseline, seed)) for seed in seeds]
    gains = [one[cut] - other[cut] for one, other in pairs if one and other]
    return f"{mean(gains):+.1f} (least {min(gains):+.1f})" if gains else "no seed in common"


if __name__ == "__main__":
    main()
