"""Train a single-turn model: train_composer --dataset=css3d --model=tirg --loss=soft_triplet"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scripts.common import run, writable
from scripts.composed import (
    BUILT_IN,
    DataArgs,
    arguments_from,
    load_split,
    plain_arguments,
    report_on,
    tested_split,
)
from scripts.recipes import RECIPES, published_recipe
from scripts.switches import spelled_out

if TYPE_CHECKING:
    from retrieval.datasets.base import ComposedSplit
    from retrieval.models import ModelSpec, RetrievalModel
    from retrieval.training import Training, Validation

IMAGENET = "IMAGENET1K_V1"
MAY_CHANGE = ("num_iters", "epochs", "epoch", "max_minutes", "patience", "evaluate_every",
              "dataset_path", "resume", "loader_num_workers", "log_every", "f",
              "device")  # fmt: skip
"""Flags that may differ when a run is resumed."""
FIXED = {"patch_size": 32, "vocab_size": 30_522, "mlp_ratio": 4,
         "input_image_embed_size": "[384,768,768]", "input_text_embed_size": "[768,768,768]",
         "vit": "swin_tiny_patch4_window7_224"}  # fmt: skip
"""ComqueryFormer's flags that only say what its encoders are; other values are refused."""
NOT_HELD_OUT = ("mitstates", "fashion200k", "youmakeup")
"""Data sets whose training queries are drawn, not listed."""


@dataclass(frozen=True)
class Args(DataArgs):
    """The flags of google/tirg, ComposeAE, GA and ComqueryFormer, and this project's own.

    What is left open takes the defaults of the model's own publication (`--recipe` names
    another). Switches may stand alone or be given True or False.
    """

    # google/tirg
    f: Annotated[str, tyro.conf.arg(aliases=["-f"])] = ""
    """Kept for the original's notebooks; not used."""
    comment: str = "test_notebook"
    """Ends the run's folder name."""
    model: str = "tirg"
    """imgonly, textonly, concat, mrn, film, relationship, tirg, tirg_lastconv (GA's `tirg`),
    composeAE, realspaceconcatAE or comqueryformer."""
    embed_dim: Annotated[int, tyro.conf.arg(aliases=["--image-embed-dim"])] = 512
    """Size of embeddings (D)."""
    learning_rate: float | None = None
    """0.01; comqueryformer 1e-5 (its encoders; the rest five times that)."""
    learning_rate_decay_frequency: int | None = None
    """Steps to a tenth of the rate: 9999999, GA 50000."""
    batch_size: int | None = None
    """32; GA 200, comqueryformer 64. In each of the processes that `torchrun` started; a run
    that is resumed keeps the sum."""
    weight_decay: float | None = None
    """1e-6."""
    num_iters: int | None = None
    """Optimiser steps in all: 210000, composeAE 160000."""
    loss: str | None = None
    """soft_triplet or batch_based_classification."""
    loader_num_workers: int = 4
    """Kept for the originals' command lines; batches are read from a memory map instead."""

    # ComposeAE
    use_bert: bool | None = None
    """Read captions with BERT (`--tokenizer`, `--text_weights`) instead of the LSTM."""
    log_dir: Path = Path("runs")
    """Receives a folder `<timestamp><comment>` with checkpoints, figures and TensorBoard's log."""
    test_only: bool = False
    """Only evaluate `--model_checkpoint`."""
    model_checkpoint: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """Start from these weights, with a fresh optimiser."""

    # gradient augmentation
    use_gPenalty: bool = False
    """Explicit adversarial gradient augmentation."""
    random_grad: bool = False
    """Implicit isotropic gradient augmentation."""
    epoch: int | None = None
    """GA's spelling: passes after the first (50 makes 51)."""
    gradient_penalty_weight: float = 1e-6
    """Lambda of the explicit augmentation."""
    gradient_penalty_norm: float = 1.0
    """q of the explicit augmentation."""
    random_grad_mode: str = "faithful"
    """faithful (as released), intended or noise (one standard deviation for all parameters)."""
    random_grad_weight: float | None = None
    """0.01; noise 1e-4."""
    matching_weight: float | None = None
    """Of the mean squared difference of query and target: 0, GA 0.001."""

    # ComqueryFormer
    VAL_evaluation: bool = False
    """fashionIQ: choose the best model by the VAL gallery."""
    patch_size: int = 32
    """Fixed."""
    max_text_len: int | None = None
    """Captions are cut at this many words or word pieces: 64, comqueryformer 40."""
    vocab_size: int = 30_522
    """Fixed; a random BERT has the training captions' vocabulary."""
    tokenizer: str = "bert-base-uncased"
    """BERT by name or folder, weights and tokenizer."""
    input_image_embed_size: str = "[384,768,768]"
    """Fixed."""
    input_text_embed_size: str = "[768,768,768]"
    """Fixed."""
    vit: str = "swin_tiny_patch4_window7_224"
    """Fixed; see `--image_encoder`."""
    hidden_size: int = 768
    """Width of comqueryformer's tokens."""
    num_layer: int = 4
    """Layers of its cross-modal block."""
    num_heads: int = 8
    """Heads of its attention."""
    mlp_ratio: int = 4
    """Fixed."""
    drop_rate: float = 0.1
    """Dropout of its cross-modal block."""
    epochs: int | None = None
    """Passes in all, in place of --num_iters: GA 51, comqueryformer 100."""
    num_clusters: int = 8
    """Regions of its region learners."""

    # this project
    recipe: str | None = None
    """Whose defaults: tirg, composeAE, ga, comqueryformer, youmakeup, or fast (small CNN,
    batch-based classification, AdamW with one cycle, 9 epochs); by default the publication's of
    the model, or of tirg and concat on youmakeup."""
    image_encoder: str | None = None
    """small-cnn, resnet18, resnet50, swin_t, efficientnet-lite0 or features."""
    weights: str = "auto"
    """Of the image encoder: none, torchvision's name, a path, or auto (ImageNet's where they can
    be had, else none, which is said)."""
    text_encoder: str | None = None
    """lstm, gru, cnn, transformer, bert or minilm."""
    text_weights: str | None = None
    """Of BERT: a folder, a name, or none (random); by default --tokenizer."""
    query_encoder: str = "shared"
    """shared, or separate: references are read by an image encoder of their own."""
    optimizer: str | None = None
    """sgd or adamw."""
    schedule: str | None = None
    """step, one_cycle, linear or constant."""
    clip: float | None = None
    """Largest norm of the gradient; 0 for none."""
    half_gradient: bool | None = None
    """The released soft triplet loss, whose gradient is half the true one."""
    sampled: bool | None = None
    """Queries by the data set's published rule, where it has one; else all, shuffled."""
    together: int | None = None
    """Shuffled queries of one reference come in runs of up to this many (hard negatives): 1,
    recipe fast 4."""
    shift: int = 0
    """Pixels by which every picture is moved at random at most, in training alone."""
    train_queries: int | None = None
    """Train on so many of the queries only."""
    validation_share: float = 0.05
    """Of the training queries, held out to choose the best model; 0 for none. fashionIQ and
    cirr have a val split instead; mitstates, fashion200k and youmakeup have nothing to hold
    out."""
    evaluate_every: int | None = None
    """Epochs between two validations; 0 only at the end."""
    patience: int = 0
    """Validations without a better score before training stops; 0 never stops."""
    max_minutes: float | None = None
    """Of training, validation not counted."""
    bfloat16: bool = False
    """Train with 16 bits where that is safe: twice as fast on processors that know the type."""
    device: str = "cpu"
    """Where it is trained: `cpu`, or `cuda` for this process's GPU."""
    log_every: int = 50
    """Steps between two TensorBoard points."""
    seed: int = 0
    """Fixes the initial weights, the queries and all other draws."""
    resume: Path | None = None
    """A run's folder: go on from its `last.pt` with its own flags, to the same numbers."""


def main() -> None:
    run(lambda: train(read(sys.argv[1:])), together=True)


def read(typed: list[str]) -> Args:
    """The arguments as typed, on top of those of the run that is resumed.

    Raises:
        ValueError: the resumed run was made with another value of a flag that matters.
    """
    spelled = spelled_out(typed, Args)
    how: dict[str, Any] = {"args": spelled, "description": __doc__,
                           "config": (tyro.conf.FlagConversionOff,)}  # fmt: skip
    args: Args = tyro.cli(Args, **how)
    if args.resume is None:
        from retrieval.distributed import processes

        args = resolved(args)
        return replace(args, batch_size=int(args.batch_size or 0) * processes())
    from retrieval.training import LAST, load_training

    before = Args(**arguments_from(Args, load_training(args.resume / LAST)["arguments"]))
    args = tyro.cli(Args, default=before, **how)
    for field in fields(Args):
        was, now = getattr(before, field.name), getattr(args, field.name)
        if was != now and field.name not in MAY_CHANGE:
            raise ValueError(
                f"{args.resume} was trained with --{field.name} {was}, got {now}; leave it out, or "
                "start a new run"
            )
    if args.num_iters != before.num_iters and args.epochs == before.epochs:
        args = replace(args, epochs=None)
    return args


def resolved(args: Args) -> Args:
    """The arguments with what was left open filled in by the recipe.

    Raises:
        ValueError: an unknown recipe, or a value that cannot be.
    """
    from retrieval.errors import unknown

    is_augmented = args.use_gPenalty or args.random_grad
    name = args.recipe or published_recipe(args.model, is_augmented, args.dataset)
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    recipe = RECIPES[name]
    for flag, value in FIXED.items():
        given = str(getattr(args, flag)).replace(" ", "")
        if given != str(value):
            raise ValueError(f"--{flag} is {value} in this project, got {given}; leave it out")
    if args.query_encoder not in ("shared", "separate"):
        raise unknown("query encoder", args.query_encoder, ("shared", "separate"))
    epochs = args.epochs if args.epoch is None else args.epoch + 1
    if epochs is None and args.num_iters is None:
        epochs = recipe.epochs
    chosen: dict[str, Any] = {
        flag: getattr(recipe, flag)
        for flag in ("loss", "batch_size", "learning_rate", "learning_rate_decay_frequency",
                     "weight_decay", "num_iters", "optimizer", "schedule", "clip",
                     "matching_weight", "evaluate_every", "sampled", "together", "image_encoder")
        if getattr(args, flag) is None
    }  # fmt: skip
    if args.text_encoder is None:
        default = "lstm" if args.use_bert is False else recipe.text_encoder
        chosen["text_encoder"] = "bert" if args.use_bert else default
    elif args.use_bert and args.text_encoder != "bert":
        raise ValueError(f"--use_bert and --text_encoder {args.text_encoder} exclude each other")
    if args.max_text_len is None:
        chosen["max_text_len"] = 40 if name == "comqueryformer" else 64
    if args.half_gradient is None:
        loss = args.loss or recipe.loss
        chosen["half_gradient"] = recipe.half_gradient and loss == "soft_triplet"
    return replace(args, recipe=name, epochs=epochs, **chosen)


def train(args: Args) -> None:
    """Train as the arguments say, and report the best model's figures on the test split."""
    import json

    import torch

    from retrieval.devices import device_of, settle
    from retrieval.distributed import is_writer, writer_first
    from retrieval.files import atomic_write
    from retrieval.reports import table
    from retrieval.training import BEST, LAST, fit, load_training
    from retrieval.two_encoders import rebuild

    if args.test_only and not is_writer():
        return
    if args.test_only:
        if not args.model_checkpoint:
            raise ValueError("--test_only needs --model_checkpoint, the file to evaluate")
        model = rebuild(load_training(Path(args.model_checkpoint)))
        model = settle(model, device_of(args.device))
        print(table(report_on(model, load_split(args, tested_split(args.dataset)))))
        return

    # the device and the data, all of it before hours of training
    device = device_of(args.device)
    with writer_first():  # what is missing is made once
        split, validation = training_data(args)
        test = load_split(args, tested_split(args.dataset))
    how = training_of(args)
    how.steps(split)  # refuses a batch larger than the data now

    # the model
    saved = load_training(args.resume / LAST) if args.resume else None
    torch.manual_seed(args.seed)
    if saved is not None:
        model = rebuild(saved)
    elif args.model_checkpoint:
        model = rebuild(load_training(Path(args.model_checkpoint)))
    else:
        model, used = made_model(args, split)
        args = replace(args, weights=used)
    model = settle(model, device)

    folder = args.resume or new_folder(args.log_dir, args.comment)
    if is_writer():
        writable(folder)
    print(describe(args, split, validation, model, folder), file=sys.stderr)
    validate = None if validation is None else validation_of(args, validation)
    fit(model, split, how, folder, validate, plain_arguments(args), saved, args.log_every)
    if not is_writer():
        return

    best = settle(rebuild(load_training(folder / BEST)), device)
    report = report_on(best, test)
    with atomic_write(folder / "evaluation.json") as temporary:
        temporary.write_text(json.dumps({"arguments": plain_arguments(args), "report": report}))
    print(table(report))
    print(f"best model in {folder / BEST}; figures in {folder / 'evaluation.json'}")


def training_data(args: Args) -> tuple[ComposedSplit, ComposedSplit | None]:
    """What to train on, and what to choose the best model by, if anything."""
    from retrieval.holdout import fewer, hold_out

    split = load_split(args, "train")
    validation = None
    if tested_split(args.dataset) == "val":
        validation = load_split(args, "val")
    elif args.validation_share and args.dataset not in NOT_HELD_OUT:
        split, validation = hold_out(split, args.validation_share)
    if args.patience and validation is None:
        raise ValueError(f"--patience needs a validation, and {args.dataset} has none; leave it")
    if args.VAL_evaluation and not (validation and any("val/" in g for g in validation.galleries)):
        raise ValueError(f"{args.dataset} has no VAL gallery; leave out --VAL_evaluation")
    if args.train_queries is not None:
        split = fewer(split, args.train_queries, args.seed)
    return split, validation


def training_of(args: Args) -> Training:
    """The recipe as `fit` takes it; arguments are resolved."""
    from retrieval.regularizers import GradientAugmentation
    from retrieval.training import Training

    one_rate = RECIPES[str(args.recipe)].one_rate or args.dataset in BUILT_IN
    shared = (
        "loss", "half_gradient", "matching_weight", "optimizer", "schedule", "learning_rate",
        "weight_decay", "clip", "batch_size", "epochs", "sampled", "together", "shift",
        "seed",
        "evaluate_every", "patience", "max_minutes", "bfloat16",
    )  # fmt: skip
    return Training(
        **{name: getattr(args, name) for name in shared},
        iterations=int(args.num_iters or 0),
        decay_every=int(args.learning_rate_decay_frequency or 0),
        backbone_factor=1.0 if one_rate and args.recipe != "comqueryformer" else None,
        augmentation=GradientAugmentation(
            args.use_gPenalty,
            args.random_grad_mode if args.random_grad else None,
            args.gradient_penalty_weight,
            args.gradient_penalty_norm,
            args.random_grad_weight,
        ),
    )


def made_model(args: Args, split: ComposedSplit) -> tuple[RetrievalModel, str]:
    """A new model for a split, and the weights that its image encoder began with."""
    from retrieval.two_encoders import build

    spec, separate = spec_of(args, split), args.query_encoder == "separate"
    pretrained = spec.image_encoder.startswith("resnet") or spec.image_encoder == "swin_t"
    if args.weights != "auto" or not pretrained:
        spec = replace(spec, weights="none" if args.weights == "auto" else args.weights)
        return build(spec, separate), spec.weights
    try:
        return build(replace(spec, weights=IMAGENET), separate), IMAGENET
    except ValueError as error:
        if "weights" not in str(error):
            raise
        print(
            f"ImageNet weights of {spec.image_encoder} cannot be had, so it starts from random "
            "ones; give a file as --weights",
            file=sys.stderr,
        )
        return build(spec, separate), "none"


def spec_of(args: Args, split: ComposedSplit) -> ModelSpec:
    """The model's specification; the vocabulary is that of the split's texts."""
    from retrieval.inference import gallery_images
    from retrieval.models import ModelSpec
    from retrieval.text import Vocabulary

    reads_features = args.image_encoder == "features"
    bert = (args.text_weights or args.tokenizer) if args.text_encoder == "bert" else "none"
    return ModelSpec(
        model=args.model,
        embed_dim=args.embed_dim,
        image_encoder=str(args.image_encoder),
        feature_dim=gallery_images(split, True).shape[1] if reads_features else 0,
        text_encoder=str(args.text_encoder),
        text_weights=bert,
        words=Vocabulary.build(split.texts).words[3:],
        max_words=int(args.max_text_len or 64),
        width=args.hidden_size,
        layers=args.num_layer,
        heads=args.num_heads,
        regions=args.num_clusters,
        dropout=args.drop_rate,
    )


def validation_of(args: Args, split: ComposedSplit) -> Validation:
    """The figures that the best model is chosen by."""
    from retrieval.reports import flat

    def validate(model: RetrievalModel) -> dict[str, float]:
        report = report_on(model, split)
        score = report["score"]
        if args.VAL_evaluation:
            # the last row of a gallery is the mean of its categories
            rows = [row for row in report["rows"] if row["name"].endswith(", val gallery")]
            score = (rows[-1]["recall"]["R@10"] + rows[-1]["recall"]["R@50"]) / 2
        return {"score": score, **flat(report)}

    return validate


def new_folder(log_dir: Path, comment: str) -> Path:
    """A folder of its own for a run: the time and the comment."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = [f"{now}{comment}", *(f"{now}-{number}{comment}" for number in range(2, 100))]
    return next(log_dir / name for name in names if not (log_dir / name).exists())


def describe(
    args: Args,
    split: ComposedSplit,
    validation: ComposedSplit | None,
    model: RetrievalModel,
    folder: Path,
) -> str:
    """What is about to happen, in a few words."""
    count = sum(parameter.numel() for parameter in model.parameters())
    queries = f"{len(split.queries)} queries" if split.queries else "sampled queries"
    watched = f"{len(validation.queries)} held-out queries" if validation else "no validation"
    return (
        f"{args.model} ({args.image_encoder}, weights {args.weights}, {args.text_encoder}; "
        f"{count:,} parameters) on {args.dataset}: {queries} over {len(split)} images, {watched}; "
        f"recipe {args.recipe}, in {folder}"
    )


if __name__ == "__main__":
    main()
