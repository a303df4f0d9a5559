"""Train the model that says which picture is later: train_pairwise --dataset youmakeup"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from scripts.common import run, writable
from scripts.composed import DataArgs, folder_of, load_split, plain_arguments
from scripts.switches import spelled_out

if TYPE_CHECKING:
    import numpy as np

    from retrieval.ordering import PairwiseTraining

STEPS = 8
"""Scenes of a CSS sequence to learn from: as many gaps as there are kinds of pairs."""


@dataclass(frozen=True)
class Args(DataArgs):
    """The pairwise model of the YouMakeup VQA baseline, on make-up or on CSS sequences.

    What is left open takes the recipe's value. A run that was stopped goes on from `--out`.
    """

    recipe: str | None = None
    """published (ResNet-18, SGD, 20 epochs) or fast (small CNN, AdamW, 8 epochs); by default
    fast on css3d, else published."""
    image_encoder: str | None = None
    """small-cnn, resnet18, resnet50, swin_t or efficientnet-lite0."""
    weights: str = "none"
    """Of the image encoder: none, torchvision's name, or a path."""
    learning_rate: float | None = None
    """1e-4; fast 1e-3."""
    batch_size: int | None = None
    """32; fast 128."""
    epochs: int | None = None
    """20; fast 8."""
    sequences: int = 1000
    """css3d: sequences of 8 scenes to learn from, made of training scenes."""
    growing: bool = False
    """css3d: nothing is ever removed in a sequence, see make_ordering."""
    seed: int = 0
    """Fixes weights, pairs and sequences."""
    out: Path = Path("pairwise.pt")
    """The model; its losses lie beside it as .json."""


def main() -> None:
    run(lambda: train(read(sys.argv[1:])))


def read(typed: list[str]) -> Args:
    """The arguments as typed."""
    how: dict[str, Any] = {"args": spelled_out(typed, Args), "description": __doc__,
                           "config": (tyro.conf.FlagConversionOff,)}  # fmt: skip
    args: Args = tyro.cli(Args, **how)
    return args


def train(args: Args) -> None:
    """Train, and say how many training pairs were told right.

    Raises:
        ValueError: a data set without sequences, an unknown recipe, or one that does not fit.
    """
    import torch

    from retrieval.errors import unknown
    from retrieval.ordering import PairwiseModel, fit_pairwise
    from retrieval.ordering.pairwise import finished

    if args.dataset not in ("youmakeup", "css3d"):
        raise unknown("dataset with an order of time", args.dataset, ("youmakeup", "css3d"))
    how = training_of(args)
    writable(args.out.absolute().parent)
    history = finished(args.out, how)
    if history is None:
        torch.manual_seed(how.seed)
        model = PairwiseModel(how.encoder, args.weights)
        in_order = scenes_in_order if args.dataset == "css3d" else steps_in_order
        history = fit_pairwise(model, *in_order(args), how, args.out, plain_arguments(args))
    print(f"{args.out}: {100 * history[-1]['right']:.1f} % of training pairs told right")


def training_of(args: Args) -> PairwiseTraining:
    """The recipe with what was typed.

    Raises:
        ValueError: an unknown recipe.
    """
    from retrieval.errors import unknown
    from retrieval.ordering import PAIRWISE_RECIPES

    name = args.recipe or ("fast" if args.dataset == "css3d" else "published")
    if name not in PAIRWISE_RECIPES:
        raise unknown("recipe", name, PAIRWISE_RECIPES)
    given = {
        flag: getattr(args, flag)
        for flag in ("learning_rate", "batch_size", "epochs")
        if getattr(args, flag) is not None
    }
    recipe = PAIRWISE_RECIPES[name]
    return replace(recipe, encoder=args.image_encoder or recipe.encoder, seed=args.seed, **given)


def steps_in_order(args: Args) -> tuple[np.ndarray, list[list[int]]]:
    """The pictures of make-up videos, and for each video those at the ends of its steps."""
    from retrieval.datasets.youmakeup import step_ends

    shared = {field.name: getattr(args, field.name) for field in fields(DataArgs)}
    split = load_split(DataArgs(**shared), "train")
    assert split.pictures is not None
    return split.pictures, step_ends(split)


def scenes_in_order(args: Args) -> tuple[np.ndarray, list[list[int]]]:
    """Pictures of CSS sequences that begin with training scenes, and the rows of each."""
    import numpy as np

    from retrieval.datasets.css import load_scenes
    from retrieval.datasets.css_sequences import draw_scenes, sample_sequences

    root = folder_of(args)
    rng = np.random.default_rng([args.seed, 19])
    starts, tested = load_scenes(root, "train"), load_scenes(root, "test")
    taken = {scene.tobytes() for scene in tested}
    made = sample_sequences(starts, args.sequences, STEPS, rng, taken, args.growing)
    pictures = draw_scenes(np.concatenate([one.scenes for one in made]), rng, args.image_size or 64)
    rows = np.arange(len(pictures)).reshape(len(made), STEPS)
    return pictures, rows.tolist()


if __name__ == "__main__":
    main()
