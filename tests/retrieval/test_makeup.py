"""Make-up videos to frames, derived files, queries and features, on clips encoded here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from retrieval.datasets import youmakeup
from retrieval.datasets.mod_data import read_mod_data
from retrieval.datasets.youmakeup_steps import Step, read_steps, usable_steps
from retrieval.features import features_folder, load_named_features
from retrieval.makeup import features
from retrieval.makeup.derived import write_derived
from retrieval.makeup.frames import (
    choose_frames,
    decode_frames,
    extract_video,
    find_videos,
    image_folder,
    measure_video,
    read_shown,
)
from tests.clips import write_clip, write_steps


def step(start: int, end: int) -> Step:
    return Step(start, end, ("lip",), f"{start} to {end}")


# ---- which frames


def test_short_steps_give_their_last_frames_and_long_ones_every_fifth():
    (short, long) = choose_frames([step(2, 12), step(20, 31)], rate=30.0, count=2000)
    assert (short.number, short.start, short.end) == (0, 60, 360)  # ten seconds are not long
    assert short.frames == tuple(range(351, 361))
    assert (long.start, long.end) == (600, 930)
    assert long.frames == tuple(range(885, 931, 5))


def test_times_round_down_and_end_with_the_video():
    (only,) = choose_frames([step(1, 9)], rate=2.997, count=20)
    assert (only.start, only.end) == (2, 19)  # 26 would be beyond
    assert only.frames == tuple(range(10, 20))
    assert choose_frames([step(7, 9)], rate=2.997, count=20) == []  # both are its last frame


def test_steps_that_show_nothing_are_left_out_and_the_others_keep_their_numbers():
    shown = choose_frames([step(5, 5), step(6, 8), step(9, 7)], rate=10.0, count=100)
    assert [it.number for it in shown] == [1]


def test_a_frame_that_two_steps_claim_is_the_later_ones():
    first, second = choose_frames([step(0, 3), step(2, 4)], rate=4.0, count=50)
    # by hand: 12 down to 3, and 16 down to 7
    assert first.frames == (3, 4, 5, 6) and second.frames == tuple(range(7, 17))
    gone, kept = [step(0, 2), step(1, 2)], choose_frames([step(0, 2), step(1, 2)], 6.0, 50)
    assert len(gone) == 2 and [it.number for it in kept] == [1]  # all of the first one's


def test_there_are_no_frames_before_the_video():
    (only,) = choose_frames([step(0, 12)], rate=2.0, count=50)  # longer than int(10 * 2) frames
    assert only.frames == (4, 9, 14, 19, 24)


# ---- videos


def test_videos_are_found_by_their_ids(tmp_path):
    ids = ["-2FjMSPITn8", "a_b", "b", "plain"]
    for name in ("Easy_Routine_MakeupShayla--2FjMSPITn8.mp4", "title-a_b.mkv", "plain.webm",
                 "notes.txt", "plain.json", "other.mp4", "plain.mp4"):  # fmt: skip
        (tmp_path / name).touch()
    found = find_videos(tmp_path, ids)
    assert {video: path.name for video, path in found.items()} == {
        "-2FjMSPITn8": "Easy_Routine_MakeupShayla--2FjMSPITn8.mp4",
        "a_b": "title-a_b.mkv",  # not "b", though the name ends in it
        "plain": "plain.mp4",
    }
    with pytest.raises(FileNotFoundError, match="folder of videos"):
        find_videos(tmp_path / "none", ids)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_come_by_number(tmp_path, suffix):
    clip = write_clip(tmp_path / f"clip{suffix}", 40, rate=5)
    assert measure_video(clip) == (5.0, 40)
    frames = dict(decode_frames(clip, [3, 17, 39]))
    assert list(frames) == [3, 17, 39]
    for number, picture in frames.items():
        assert np.asarray(picture).mean() == pytest.approx(4 * number, abs=2)
    assert dict(decode_frames(clip, [38, 99])).keys() == {38}
    assert dict(decode_frames(clip, [])) == {}


def test_files_that_are_no_videos_are_named(tmp_path):
    pytest.importorskip("av", reason="PyAV (extra video) reads videos")
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"cannot read .*broken.mp4 as a video"):
        measure_video(path)


def shade_of(path: Path) -> float:
    with Image.open(path) as picture:
        return float(np.asarray(picture).mean())


def test_a_video_becomes_pictures_of_its_steps(tmp_path):
    clip = write_clip(tmp_path / "v_1.mkv", 60, rate=5, side=48)
    steps = [step(0, 4), step(4, 4), step(5, 11)]
    shown = extract_video(clip, "v_1", steps, tmp_path / "out", tensors=True)
    assert shown.rate == 5
    assert [it.folder("v_1") for it in shown.steps] == ["v_1_0_20", "v_1_25_55"]
    for it in shown.steps:
        files = sorted((tmp_path / "out" / it.folder("v_1")).glob("*.jpg"))
        assert len(files) == 10
        for frame in it.frames:
            path = tmp_path / "out" / it.folder("v_1") / f"v_1_{frame}.jpg"
            assert shade_of(path) == pytest.approx(4 * frame, abs=2)
            with Image.open(path) as picture:
                assert picture.size == (48, 48)
    tensor = torch.load(tmp_path / "out/v_1_25_55/v_1_50.pt", weights_only=True)
    assert tensor.shape == (3, 224, 224)
    grey = (200 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert tensor.mean((1, 2)).numpy() == pytest.approx(grey.numpy(), abs=0.04)
    assert read_shown(tmp_path / "out", ["v_1", "other"]) == {"v_1": shown}


def test_a_video_that_was_extracted_is_not_read_again(tmp_path):
    clip = write_clip(tmp_path / "v.mkv", 30, rate=5)
    shown = extract_video(clip, "v", [step(0, 4)], tmp_path / "out")
    clip.write_bytes(b"gone")
    assert extract_video(clip, "v", [step(0, 4)], tmp_path / "out") == shown
    (tmp_path / "out/v.json").unlink()
    with pytest.raises(ValueError, match="cannot read"):
        extract_video(clip, "v", [step(0, 4)], tmp_path / "out")


def test_a_video_that_ends_early_is_refused(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "v.mkv", 30, rate=5)
    monkeypatch.setattr("retrieval.makeup.frames.measure_video", lambda path: (5.0, 50))
    with pytest.raises(ValueError, match=r"ends before frame 31 of the 50 it announces"):
        extract_video(clip, "v", [step(4, 8)], tmp_path / "out")
    assert not (tmp_path / "out/v.json").exists()


# ---- derived files and queries

BOUNDS = {
    "long": [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 12)],
    "two": [(0, 3), (3, 3), (3, 6)],
    "one": [(1, 4)],
}
RATE = 5


@pytest.fixture(scope="module")
def makeup(tmp_path_factory) -> Path:
    """Clips with annotations, extracted: six steps, two and a void one, one."""
    root = tmp_path_factory.mktemp("makeup")
    for part, split in (("train", "train"), ("valid", "test")):
        write_steps(root, part, BOUNDS)
        for video, bounds in BOUNDS.items():
            clip = write_clip(root / f"videos/{video}.mkv", bounds[-1][1] * RATE + 1, RATE)
            steps = read_steps(root, split)[video]
            extract_video(clip, video, steps, image_folder(root, split))
    return root


def derived(makeup: Path, out: Path, seed: int = 0) -> dict[str, int]:
    steps = {split: read_steps(makeup, split) for split in ("train", "test")}
    shown = {split: read_shown(image_folder(makeup, split), own) for split, own in steps.items()}
    return write_derived(out, steps, shown, seed)


def test_derived_files_say_what_was_extracted(makeup, tmp_path):
    counts = derived(makeup, tmp_path)
    assert counts == {"train": 4 * 6 + 1, "test": 4 * 6 + 1}
    info = json.loads((tmp_path / "img_index2info.json").read_text())["train"]
    assert list(info) == [str(index) for index in range(len(info))]
    for video, number, frame, caption, path in info.values():
        assert list(BOUNDS)[number] == video
        folder, file = path.split("/")
        assert file == f"{video}_{frame}.pt"
        start, end = (RATE * second for second in BOUNDS[video][caption])
        assert folder == f"{video}_{start}_{end}"
        assert (makeup / "train_images" / folder / f"{video}_{frame}.jpg").is_file()
    videos = json.loads((tmp_path / "video_info.json").read_text())["train"]
    assert videos["two"]["captions"] == [0, 2]  # 1 is void
    assert videos["two"]["areas"] == [["area 0"], ["area 2"]]
    assert videos["one"]["frames"] == list(range(11, 21))
    assert json.loads((tmp_path / "fps.json").read_text())["test"] == [RATE] * 3
    assert np.load(tmp_path / "test_vids.npy").tolist() == list(BOUNDS)
    content = json.loads((tmp_path / "mod_data.json").read_text())["train"]
    assert content["mod_text_num"] == len(content["mods"]) == 25
    used = {index for mod in content["mods"] for index in mod["from"] + mod["to"]}
    assert content["img_num"] == len(used) == len({*content["from_imgs"], *content["to_imgs"]})
    (last,) = (mod for mod in content["mods"] if info[str(mod["to"][0])][0] == "two")
    assert last["step_gap"] == 2 and last["to_str"] == " apply product 2 on face"
    assert [info[str(index)][2] for index in last["from"]] == list(range(6, 16))


def test_queries_of_the_files_are_those_drawn_with_the_same_seed(makeup, tmp_path):
    derived(makeup, tmp_path, seed=5)
    from_files = youmakeup.load_composed(makeup, "train", size=8, mod_data=tmp_path)
    drawn = youmakeup.load_composed(makeup, "train", size=8, seed=5)

    def spelled(split):
        return [
            (split.names[query.reference], query.caption, split.names[query.target],
             [split.names[row] for row in fact["sources"]], fact["video"])
            for query, fact in zip(split.queries, split.facts, strict=True)
        ]  # fmt: skip

    assert spelled(from_files) == spelled(drawn)
    for name, picture in zip(from_files.names, from_files.pictures, strict=True):
        frame = int(name.rsplit("_", 1)[1].removesuffix(".jpg"))
        assert picture.mean() == pytest.approx(4 * frame, abs=2)
    other = read_mod_data(makeup, tmp_path, "test")
    assert other.texts == () and other.names[0].startswith("val_images/")


def test_steps_with_few_frames_are_drawn_from_their_first(makeup, tmp_path):
    derived(makeup, tmp_path)
    content = json.loads((tmp_path / "mod_data.json").read_text())
    mod = content["train"]["mods"][0]
    mod["from"] = mod["from"][-2:]  # two frames only
    content["train"]["mods"] = [mod]
    (tmp_path / "mod_data.json").write_text(json.dumps(content))
    split = youmakeup.load_composed(makeup, "train", size=8, mod_data=tmp_path)
    drawn = split.sample(np.random.default_rng(0), 200)
    pairs = {(mod["from"].index(one.reference), mod["to"].index(one.target)) for one in drawn}
    assert pairs == {(0, 5), (0, 6), (0, 7), (0, 8), (1, 9)}


def test_published_files_that_do_not_fit_are_named(makeup, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"img_index2info.json|mod_data.json"):
        youmakeup.load_composed(makeup, "train", mod_data=tmp_path / "none")
    derived(makeup, tmp_path)
    content = json.loads((tmp_path / "mod_data.json").read_text())
    content["train"]["mods"][0]["to"] = [10_000]
    (tmp_path / "mod_data.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected the image '10000'"):
        youmakeup.load_composed(makeup, "train", mod_data=tmp_path)


def test_the_ends_of_steps_in_order(makeup, tmp_path):
    derived(makeup, tmp_path)
    split = read_mod_data(makeup, tmp_path, "train")
    ends = [
        [split.names[row].split("/")[1:] for row in rows] for rows in youmakeup.step_ends(split)
    ]
    assert [file for _, file in ends[0]] == [
        f"long_{RATE * second}.jpg" for second in (2, 4, 6, 8, 10, 12)
    ]  # fmt: skip
    assert [len(rows) for rows in ends] == [6, 2, 1]


# ---- features


class Mean(nn.Module):
    """A stand-in for an encoder: the mean colour and a constant."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, pictures):
        self.seen += len(pictures)
        mean = pictures.mean((2, 3))[:, :1]
        return torch.cat([mean, 1 - mean], dim=1), torch.zeros(len(pictures), 1, 1)


def test_features_are_found_by_name_and_extracted_once(makeup, tmp_path, monkeypatch):
    derived(makeup, tmp_path)
    split = read_mod_data(makeup, tmp_path, "train")
    monkeypatch.setattr(features, "CHUNK", 16)
    monkeypatch.setattr(features, "AT_ONCE", 5)

    class Stopped(Mean):
        def forward(self, pictures):
            if self.seen >= 40:
                raise KeyboardInterrupt
            return super().forward(pictures)

    args = (makeup, split.names, youmakeup.features_part("train"), "mean")
    with pytest.raises(KeyboardInterrupt):
        features.extract_features(*args, Stopped(), size=8)
    model = Mean()
    whole = features.extract_features(*args, model, size=8)
    assert model.seen == len(split.names) - 32  # two chunks were there
    again = Mean()
    assert (features.extract_features(*args, again, size=8) == whole).all()
    assert not list(features_folder(makeup, "mean").glob(".*"))

    read = youmakeup.load_composed(makeup, "train", mod_data=tmp_path, encoder="mean")
    assert read.pictures is None and read.sample is not None
    for name, row in zip(read.names, read.features, strict=True):
        shade = 4 * int(name.rsplit("_", 1)[1].removesuffix(".jpg")) / 255
        expected = np.array([shade, 1 - shade]) / np.hypot(shade, 1 - shade)
        assert row == pytest.approx(expected, abs=0.02)
    names = list(split.names[::-1])[:3]
    part = youmakeup.features_part("train")
    assert load_named_features(makeup, part, "mean", names) == pytest.approx(
        read.features[::-1][:3]
    )
    with pytest.raises(ValueError, match="1 of 2 images .* have no mean features, the first is x"):
        load_named_features(makeup, part, "mean", [names[0], "x"])
    with pytest.raises(FileNotFoundError, match="no mean features of youmakeup_test"):
        youmakeup.load_composed(makeup, "test", mod_data=tmp_path, encoder="mean")


def test_usable_steps_are_those_with_frames(makeup):
    for split in ("train", "test"):
        steps = read_steps(makeup, split)
        shown = read_shown(image_folder(makeup, split), steps)
        for video, own in usable_steps(steps).items():
            assert [steps[video][it.number] for it in shown[video].steps] == list(own)
