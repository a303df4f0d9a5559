"""Make-up videos to frames and modifications: prepare_makeup --dataset_path YouMakeup/data"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from scripts.common import run, writable

if TYPE_CHECKING:
    from retrieval.datasets.youmakeup_steps import Step
    from retrieval.makeup.frames import ShownVideo


@dataclass(frozen=True)
class Args:
    """Ten frames of each step's end, and the files that the published baseline derives from them.

    An interrupted run goes on where it stopped; videos that are missing are left out, as
    published, and counted.
    """

    dataset_path: Path = Path(".")
    """YouMakeup's `data` folder: `train/train_steps.json`, `train/train_id`, and `valid` alike."""
    videos: tuple[Path, ...] = ()
    """Folders of videos, `{id}.mp4` or `{title}-{id}.mp4`; by default `train/videos` and
    `valid/videos` of the data."""
    out: Path | None = None
    """Receives `train_images`, `val_images` and the derived files; by default the data's folder."""
    splits: tuple[str, ...] = ("train", "test")
    """Which; `test` is the official validation split."""
    tensors: bool = False
    """Also write each frame as the published tensor, 0.6 MB each; nothing here reads them."""
    features: str | None = None
    """Also extract features: a torchvision ResNet or `efficientnet-lite0` (extra)."""
    weights: str = "none"
    """Of a ResNet: `none`, a torchvision weights name such as DEFAULT, or a path."""
    seed: int = 0
    """Of the modifications."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    run(lambda: prepare(args))


def prepare(args: Args) -> None:
    """Frames, derived files, features; say what was made and what was left out.

    Raises:
        ImportError: PyAV is not installed.
        FileNotFoundError: annotations are missing, or none of the videos is there.
        ValueError: an unknown split or encoder.
    """
    from retrieval.datasets.mod_data import INFO, MODS
    from retrieval.datasets.youmakeup_steps import read_steps
    from retrieval.makeup.derived import write_derived

    out = args.out or args.dataset_path
    steps = {split: read_steps(args.dataset_path, split) for split in args.splits}
    writable(out)
    shown = {split: extract(args, out, split, own) for split, own in steps.items()}
    if not any(shown.values()):
        raise FileNotFoundError(
            f"none of the videos of {', '.join(args.splits)} could be read; give their folders as "
            "--videos"
        )
    counts = write_derived(out, steps, shown, args.seed)
    for split, count in counts.items():
        print(f"{split}: {len(shown[split])} videos, {count} modifications")
    if args.features is not None:
        extract_features(args, out, [split for split, own in shown.items() if own])
    print(f"queries in {out / MODS}, images in {out / INFO}; train with train_composer --dataset "
          f"youmakeup --dataset_path {out} --mod_data_path {out}")  # fmt: skip


def extract(
    args: Args, out: Path, split: str, steps: dict[str, tuple[Step, ...]]
) -> dict[str, ShownVideo]:
    """Take the frames of a split's videos, in the order of its id list."""
    from tqdm import tqdm

    from retrieval.datasets.youmakeup_steps import SPLITS
    from retrieval.makeup.frames import extract_video, find_videos, image_folder

    folders = args.videos or (args.dataset_path / SPLITS[split] / "videos",)
    found: dict[str, Path] = {}
    for folder in folders:
        found = {**find_videos(folder, steps), **found}
    shown, broken = {}, []
    present = [video for video in steps if video in found]
    for video in tqdm(present, desc=f"{split} videos", unit="video", file=sys.stderr):
        try:
            shown[video] = extract_video(
                found[video], video, steps[video], image_folder(out, split), args.tensors
            )
        except ValueError as error:
            broken.append(str(error))
    if lost := len(steps) - len(present):
        print(f"left out of {split}: {lost} of {len(steps)} videos missing", file=sys.stderr)
    if broken:
        print(f"left out of {split}: {len(broken)} videos unreadable, the first: {broken[0]}",
              file=sys.stderr)  # fmt: skip
    return shown


def extract_features(args: Args, out: Path, splits: list[str]) -> None:
    """Run an encoder over the frames of some splits."""
    from retrieval.datasets.mod_data import read_mod_data
    from retrieval.datasets.youmakeup import features_part
    from retrieval.encoders.training import encoder_key, make_encoder
    from retrieval.makeup import features

    key = encoder_key(str(args.features), args.weights)
    model = make_encoder(str(args.features), args.weights)
    for split in splits:
        names = read_mod_data(out, out, split).names
        features.extract_features(out, names, features_part(split), key, model)
    print(f"features in {out / 'features' / key}; train with --image_encoder features --features "
          f"{key}")  # fmt: skip


if __name__ == "__main__":
    main()
