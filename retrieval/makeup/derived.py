"""The files that the YouMakeup VQA baseline derives from videos, written.

    img_index2info.json  {split: {index: [video, number of video, frame, step,
                          "{video}_{start}_{end}/{video}_{frame}.pt"]}}
    video_info.json      {split: {video: {frames, captions, areas}}}
    fps.json             {split: [frames a second of each video]}
    train_vids.npy, test_vids.npy   ids of the videos that are there
    mod_data.json        {split: {mods [{to_str, from, to, step_gap}], img_num, mod_text_num,
                          from_imgs, to_imgs}}

"test" is the official validation split. `retrieval.datasets.mod_data` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.datasets.mod_data import INFO, MODS
from retrieval.datasets.youmakeup import modifications
from retrieval.datasets.youmakeup_steps import Step
from retrieval.files import atomic_write
from retrieval.makeup.frames import ShownVideo

VIDEOS = {"train": "train_vids.npy", "test": "test_vids.npy"}

Steps = Mapping[str, Sequence[Step]]
Shown = Mapping[str, ShownVideo]


def write_derived(
    out: Path, steps: Mapping[str, Steps], shown: Mapping[str, Shown], seed: int = 0
) -> dict[str, int]:
    """Write all derived files of some splits; returns how many modifications each split has.

    Modifications are drawn as `youmakeup.modifications` does, with a generator of its own for
    each split, so `load_composed` without these files finds the same ones under the same seed
    where all videos are complete. Departures: the published draws had no seed; its texts had the
    captions of steps that show nothing among the others; its list of areas lacked the last step.

    Args:
        out: receives the files.
        steps: for each split every step of its videos.
        shown: for each split the videos whose frames were taken.
        seed: of the modifications.
    """
    info: dict[str, Any] = {}
    videos: dict[str, Any] = {}
    mods: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    for split, own in shown.items():
        info[split], index_of = _image_table(own)
        videos[split] = {
            video: {
                "frames": sorted(frame for step in it.steps for frame in step.frames),
                "captions": [step.number for step in it.steps],
                "areas": [steps[split][video][step.number].areas for step in it.steps],
            }
            for video, it in own.items()
        }
        rates[split] = [it.rate for it in own.values()]
        mods[split] = _mod_data(steps[split], own, index_of, np.random.default_rng(seed))
        with atomic_write(out / VIDEOS[split]) as temporary:
            np.save(temporary, np.array(list(own), dtype=np.str_))
    for name, value in ((INFO, info), ("video_info.json", videos), ("fps.json", rates),
                        (MODS, mods)):  # fmt: skip
        with atomic_write(out / name) as temporary:
            temporary.write_text(json.dumps(value))
    return {split: len(it["mods"]) for split, it in mods.items()}


def _image_table(shown: Shown) -> tuple[dict[str, Any], dict[tuple[str, int], int]]:
    """The images of a split by index, and the index of each (video, frame)."""
    table: dict[str, Any] = {}
    index_of: dict[tuple[str, int], int] = {}
    for number, (video, own) in enumerate(shown.items()):
        frames = sorted((frame, step) for step in own.steps for frame in step.frames)
        for frame, step in frames:
            index_of[video, frame] = len(table)
            path = f"{step.folder(video)}/{video}_{frame}.pt"
            table[str(len(table))] = [video, number, frame, step.number, path]
    return table, index_of


def _mod_data(
    steps: Steps,
    shown: Shown,
    index_of: Mapping[tuple[str, int], int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """The modifications of a split in the published layout."""
    usable = {
        video: [steps[video][step.number] for step in own.steps] for video, own in shown.items()
    }
    mods: list[dict[str, Any]] = []
    for made in modifications(usable, rng):
        before, after = (shown[made.video].steps[at] for at in (made.source, made.target))
        mods.append(
            {
                "to_str": made.caption,
                "from": [index_of[made.video, frame] for frame in before.frames],
                "to": [index_of[made.video, frame] for frame in after.frames],
                "step_gap": after.number - before.number,
            }
        )
    from_images = sorted({index for mod in mods for index in mod["from"]})
    to_images = sorted({index for mod in mods for index in mod["to"]})
    return {
        "mods": mods,
        "img_num": len({*from_images, *to_images}),
        "mod_text_num": len(mods),
        "from_imgs": from_images,
        "to_imgs": to_images,
    }
