"""Train StackGAN on CSS: train_gan --stage=1 --batch_size=64, then --stage=2 --batch_size=8"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from scripts.common import run, writable
from scripts.composed import BUILT_IN, arguments_from, plain_arguments
from scripts.switches import spelled_out

if TYPE_CHECKING:
    from retrieval.encoders.image import SceneCNN
    from retrieval.generation.conditions import Conditioner
    from retrieval.generation.data import GanData
    from retrieval.generation.models import GanSpec
    from retrieval.generation.recipe import GanTraining
    from retrieval.generation.training import Validation

MAY_CHANGE = (
    "nepochs", "max_minutes", "save_epoch", "rep_intv", "resume", "watch", "comment", "readers",
    "dataset_path", "larger_path", "composer", "loader_num_workers",
)  # fmt: skip
"""Flags that may differ when a run is resumed."""
PLACES = ("composer", "dataset_path", "larger_path", "readers")
"""Flags that are kept as whole paths, so that a checkpoint can be used from anywhere."""
DRAWN = 12
"""Test queries in a sample of pictures."""


@dataclass(frozen=True)
class Args:
    """The flags of Modify-image-by-text's generation stage, and this project's own.

    The published recipe is the default; remedies are off until asked for. Switches may stand
    alone or be given True or False.
    """

    # as published
    stage: int = 1
    """1 draws 64 px, 2 draws 128 px from what a trained stage 1 drew."""
    batch_size: int | None = None
    """64 in stage 1, 8 in stage 2."""
    nepochs: int = 125
    """Passes over the training queries."""
    nz: int = 100
    """Size of the noise (Z)."""
    beta1: float = 0.5
    """Of both Adams."""
    DISCRIMINATOR_LR: float = 2e-4
    """Learning rate of the discriminator."""
    GENERATOR_LR: float = 2e-4
    """Learning rate of the generator."""
    LR_DECAY_EPOCH: int = 600
    """Epochs after which both rates are halved."""
    save_epoch: int = 10
    """Epochs between two kept checkpoints, sample pictures and measurements."""
    rep_intv: int = 2
    """Steps between two TensorBoard points."""
    bestmodel_gan: str = "model_epoch_120.pth"
    """Stage 2: the file of stage 1, in --save_dir_GAN."""
    save_dir_GAN: Path = Path("runs/gan/saveSGAN")
    """Checkpoints of stage 1."""
    save_dir_GAN2: Path = Path("runs/gan/saveSGAN2")
    """Checkpoints of stage 2."""
    log_dir1: Path | None = None
    """TensorBoard's log of stage 1; by default with the checkpoints."""
    log_dir2: Path | None = None
    """TensorBoard's log of stage 2; by default with the checkpoints."""
    image_GAN: Path | None = None
    """Sample pictures of stage 1; by default with the checkpoints."""
    image_GAN2: Path | None = None
    """Sample pictures of stage 2; by default with the checkpoints."""
    dataset: str = "css3d"
    """css3d or css2d."""
    dataset_path: Path | None = None
    """A CSS folder; by default the built-in data, made when missing. Its pictures are scaled to
    the stage's size."""
    larger_path: Path | None = None
    """A folder with the same scenes drawn larger (`make_css --size 128`), to learn to draw from;
    by default pictures are scaled."""
    comment: str = ""
    """Kept with the arguments."""
    nc: int = 3
    """Fixed: channels of a picture."""
    ngf: int = 64
    """Never read by the published networks either; see --width."""
    ndf: int = 64
    """Never read by the published networks either; see --width."""
    loader_num_workers: int = 4
    """Kept for the original's command lines; batches are read from a memory map instead."""

    # conditions
    composer: Path | None = None
    """A checkpoint of train_composer (or its run's folder), whose space the conditions are in;
    without one they are the scene encoder's features, and only `--condition target` can be."""
    condition: str = "target"
    """target (the target's own feature, published), query (the composed one) or mix."""
    mix: float = 0.5
    """Share of composed queries in a mix."""
    condition_scale: float | None = None
    """Length of conditions; by default the composer's learned s, or sqrt(F)."""

    # networks and remedies
    width: int = 96
    """Channels of the widest map; 96 is published."""
    augmentation: str = "relu"
    """Conditioning augmentation: relu (as released) or linear (the paper's equation)."""
    kl_weight: float = 2.0
    """Of the divergence of codes from N(0, I)."""
    discriminator_norm: str = "batch"
    """batch (published), spectral or none."""
    adversarial: str = "bce"
    """bce (published) or hinge."""
    r1_weight: float = 0.0
    """Of the gradient penalty on real pictures; meant for a discriminator without BatchNorm."""
    attribute_weight: float = 0.0
    """Of what a frozen reader misreads in drawn pictures."""
    pixel_weight: float = 0.0
    """Of the mean absolute difference between drawn and target pixels."""
    ema: float = 0.0
    """Decay of a moving average of the generator's weights, which then draws; 0 keeps none."""

    # this run
    readers: Path = Path("runs/gan/readers")
    """Where readers of attributes are kept; trained when missing."""
    watch: int = 500
    """Test queries that are drawn and measured at every --save_epoch; 0 for none."""
    max_minutes: float | None = None
    """Of training, measurements not counted."""
    bfloat16: bool = False
    """Train with 16 bits where that is safe: twice as fast on processors that know the type."""
    seed: int = 0
    """Fixes initial weights, order and noise."""
    resume: bool = False
    """Go on from `last.pt` of the checkpoints' folder with its own flags, to the same numbers."""

    @property
    def folder(self) -> Path:
        """Of the stage's checkpoints."""
        return self.save_dir_GAN if self.stage == 1 else self.save_dir_GAN2

    @property
    def log_folder(self) -> Path:
        """Of the stage's TensorBoard log."""
        return (self.log_dir1 if self.stage == 1 else self.log_dir2) or self.folder

    @property
    def image_folder(self) -> Path:
        """Of the stage's sample pictures."""
        return (self.image_GAN if self.stage == 1 else self.image_GAN2) or self.folder


def main() -> None:
    run(lambda: train(read(sys.argv[1:])))


def read(typed: list[str]) -> Args:
    """The arguments as typed, on top of those of the run that is resumed.

    Raises:
        ValueError: a value that cannot be, or a resumed run made with another value.
    """
    how: dict[str, Any] = {"args": spelled_out(typed, Args), "description": __doc__,
                           "config": (tyro.conf.FlagConversionOff,)}  # fmt: skip
    args: Args = tyro.cli(Args, **how)
    if args.stage not in (1, 2):
        raise ValueError(f"expected --stage 1 or 2, got {args.stage}")
    if args.nc != 3:
        raise ValueError(f"pictures have 3 channels, got --nc {args.nc}; leave it out")
    if args.dataset not in BUILT_IN:
        from retrieval.errors import unknown

        raise unknown("dataset of generated pictures", args.dataset, BUILT_IN)
    if not args.resume:
        size = args.batch_size or (64 if args.stage == 1 else 8)
        return placed(replace(args, batch_size=size))

    from retrieval.generation.checkpoints import load_gan

    before = Args(**arguments_from(Args, load_gan(args.folder)["arguments"]))
    args = tyro.cli(Args, default=before, **how)
    for field in fields(Args):
        was, now = getattr(before, field.name), getattr(args, field.name)
        if was != now and field.name not in MAY_CHANGE:
            raise ValueError(
                f"{args.folder} was trained with --{field.name} {was}, got {now}; leave it out, "
                "or start a new run"
            )
    return placed(args)


def placed(args: Args) -> Args:
    """The arguments with `PLACES` as whole paths."""
    given = {name: getattr(args, name) for name in PLACES}
    whole: dict[str, Any] = {name: path.absolute() for name, path in given.items() if path}
    return replace(args, **whole)


def train(args: Args) -> None:
    """Train a stage as the arguments say, and say where it is."""
    import torch

    from retrieval.generation.checkpoints import LAST, load_gan
    from retrieval.generation.models import SIZES
    from retrieval.generation.readers import JUDGE_SEED, LOSS_SEED, load_reader
    from retrieval.generation.training import fit_gan

    how = training_of(args)  # refuses what cannot be before anything is made
    saved = load_gan(args.folder) if args.resume else None
    for folder in (args.folder, args.log_folder, args.image_folder):
        writable(folder)
    if saved is None and (args.folder / LAST).is_file():
        raise ValueError(
            f"{args.folder} holds a run already; go on with --resume, or choose another folder"
        )

    # data and readers
    conditioner = conditioner_of(args)
    root, look = root_of(args), BUILT_IN[args.dataset]
    from retrieval.generation.data import load_data

    data = load_data(root, "train", look, SIZES[args.stage], conditioner, args.larger_path)
    how.steps(data)
    reader = load_reader(args.readers, root, look, LOSS_SEED) if args.attribute_weight else None

    # networks
    torch.manual_seed(args.seed)
    spec, generator = networks(args, conditioner.dim)
    validate = None
    if args.watch:
        judge = load_reader(args.readers, root, look, JUDGE_SEED)
        test = load_data(root, "test", look, SIZES[args.stage], conditioner, args.larger_path)
        validate = validation_of(args, spec, test, judge, conditioner)

    numbers = sum(one.numel() for one in generator.parameters() if one.requires_grad)
    print(
        f"stage {args.stage}: {len(data)} queries, conditions of {conditioner.dim} numbers, "
        f"{numbers / 1e6:.1f} million numbers to learn in the generator; {args.folder}",
        file=sys.stderr,
    )
    progress = fit_gan(spec, generator, data, how, args.folder, reader, validate,
                       plain_arguments(args), saved, args.log_folder, args.rep_intv)  # fmt: skip
    print(f"stage {args.stage} after {progress.step} steps in {args.folder / LAST}")


def training_of(args: Args) -> GanTraining:
    """The recipe as `fit_gan` takes it.

    Raises:
        ValueError: a value that cannot be.
    """
    from retrieval.generation.recipe import GanTraining

    return GanTraining(
        batch_size=int(args.batch_size or 0),
        epochs=args.nepochs,
        generator_rate=args.GENERATOR_LR,
        discriminator_rate=args.DISCRIMINATOR_LR,
        beta1=args.beta1,
        decay_every=args.LR_DECAY_EPOCH,
        condition=args.condition,
        mix=args.mix,
        kl_weight=args.kl_weight,
        loss=args.adversarial,
        r1_weight=args.r1_weight,
        attribute_weight=args.attribute_weight,
        pixel_weight=args.pixel_weight,
        average=args.ema,
        seed=args.seed,
        save_every=args.save_epoch,
        max_minutes=args.max_minutes,
        bfloat16=args.bfloat16,
    )


def root_of(args: Args) -> Path:
    """The data's folder, the built-in data with its scene encoder made when missing."""
    from retrieval.preparation import default_root, prepare_apart

    if args.dataset_path is None:
        prepare_apart(default_root(), BUILT_IN[args.dataset], "scene-cnn")
        return default_root()
    if not args.dataset_path.is_dir():
        raise FileNotFoundError(f"no folder {args.dataset_path}; check --dataset_path")
    return args.dataset_path


def conditioner_of(args: Args) -> Conditioner:
    """What turns pictures and words into conditions."""
    from retrieval.generation.conditions import make_conditioner

    return make_conditioner(
        root_of(args), BUILT_IN[args.dataset], args.composer, args.condition_scale
    )


def networks(args: Args, condition_dim: int) -> tuple[GanSpec, Any]:
    """A new generator with its specification; that of stage 2 with the trained stage 1 in it.

    Raises:
        ValueError: stage 1 was trained with other conditions or noise.
    """
    from retrieval.generation.checkpoints import generator_of, load_gan
    from retrieval.generation.models import GanSpec, build_generator

    if args.stage == 1:
        spec = GanSpec(1, condition_dim, args.width, args.nz, args.augmentation,
                       args.discriminator_norm)  # fmt: skip
        return spec, build_generator(spec)
    path = args.save_dir_GAN / args.bestmodel_gan
    before, first = generator_of(load_gan(path))
    if (before.stage, before.condition_dim, before.noise) != (1, condition_dim, args.nz):
        raise ValueError(
            f"{path} is of stage {before.stage} with conditions of {before.condition_dim} and "
            f"noise of {before.noise} numbers; expected stage 1 with {condition_dim} and {args.nz}"
        )
    spec = GanSpec(2, condition_dim, args.width, args.nz, args.augmentation,
                   args.discriminator_norm, before.width, before.form)  # fmt: skip
    generator = build_generator(spec)
    generator.first.load_state_dict(first.state_dict())
    return spec, generator


def validation_of(
    args: Args, spec: GanSpec, test: GanData, reader: SceneCNN, conditioner: Conditioner
) -> Validation:
    """What is measured of a generator while it learns; it leaves sample pictures too."""
    import numpy as np
    import torch

    from retrieval.generation.grid import save_samples
    from retrieval.generation.measuring import Judge, told
    from retrieval.generation.painter import Painter

    rows = np.linspace(0, len(test) - 1, min(args.watch, len(test))).astype(np.int64)
    condition = "target" if args.condition == "target" else "query"
    judge = Judge(reader, test)

    def validate(generator: Any) -> dict[str, float]:
        chance = torch.Generator().manual_seed(args.seed)
        painter = Painter(spec, generator, conditioner)
        pictures = painter.paint(told(test, condition, rows), chance)
        save_samples(args.image_folder / "samples.png", pictures[:DRAWN],
                     test.pictures[test.targets[rows[:DRAWN]]])  # fmt: skip
        return judge.measure(pictures, condition, rows)

    return validate


if __name__ == "__main__":
    main()
