"""`train_gan`, `evaluate_gan`, `generate` and `results_gan` as a person types them."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval.generation.checkpoints import load_gan
from retrieval.generation.models import GanSpec, build_generator
from scripts import results_gan, train_gan
from scripts.results_gan import LINES, Line
from tests.command_line import call, do, refused

NARROW = ("--width", 1, "--nepochs", 2, "--save_epoch", 1, "--watch", 3, "--rep_intv", 1)


@pytest.fixture(scope="module")
def composer(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composer on the scene encoder's features, trained for a moment."""
    folder = tmp_path_factory.mktemp("composer")
    do("train_composer", "--dataset_path", tiny_root, "--recipe", "fast", "--image_encoder",
       "features", "--features", "scene-cnn", "--embed_dim", 8, "--batch_size", 4, "--epochs", 1,
       "--validation_share", 0, "--log_dir", folder)  # fmt: skip
    return next(folder.glob("*/best.pt"))


@pytest.fixture(scope="module")
def readers(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Readers, trained for a moment."""
    from retrieval.generation.readers import load_reader

    folder = tmp_path_factory.mktemp("readers")
    load_reader(folder, tiny_root, "3d", seed=1, epochs=1)
    return folder


@pytest.fixture(scope="module")
def first(tiny_root: Path, composer: Path, readers: Path, tmp_path_factory: Any) -> Path:
    """A stage 1 with every remedy, on a mix of conditions."""
    folder: Path = tmp_path_factory.mktemp("first")
    do("train_gan", "--stage=1", "--batch_size=8", "--dataset_path", tiny_root,
       "--save_dir_GAN", folder, "--readers", readers, "--composer", composer,
       "--condition", "mix", "--attribute_weight", 1, "--ema", 0.9, *NARROW)  # fmt: skip
    return folder


def test_a_run_leaves_what_the_flags_say(first: Path) -> None:
    assert {path.name for path in first.iterdir() if not path.name.startswith("events")} == {
        "last.pt", "metrics.json", "model_epoch_1.pth", "model_epoch_2.pth", "samples.png"
    }  # fmt: skip
    rows = json.loads((first / "metrics.json").read_text())
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) >= {"occupied", "all", "changed", "nearest", "fid", "minutes"}
    content = load_gan(first)
    assert content["arguments"]["batch_size"] == 8
    assert content["progress"]["step"] == 2 * (48 // 8)
    assert "average" in content["parts"]
    with Image.open(first / "samples.png") as picture:
        assert picture.size == (3 * 64, 2 * 64)


def test_published_defaults() -> None:
    one, two = train_gan.read([]), train_gan.read(["--stage=2"])
    assert (one.batch_size, two.batch_size) == (64, 8)
    how = train_gan.training_of(one)
    assert (how.epochs, how.generator_rate, how.discriminator_rate) == (125, 2e-4, 2e-4)
    assert (how.beta1, how.decay_every, how.save_every, how.kl_weight) == (0.5, 600, 10, 2.0)
    assert (how.loss, how.condition, how.average) == ("bce", "target", 0)
    assert (how.attribute_weight, how.pixel_weight, how.r1_weight) == (0, 0, 0)
    assert (one.width, one.nz, one.augmentation, one.discriminator_norm) == (
        96, 100, "relu", "batch"
    )  # fmt: skip
    assert one.bestmodel_gan == "model_epoch_120.pth"
    published = (
        "--stage 1 --rep_intv 2 --nc 3 --nz 100 --ngf 64 --ndf 64 --beta1 0.5 --save_epoch 10 "
        "--LR_DECAY_EPOCH 600 --DISCRIMINATOR_LR 2e-4 --GENERATOR_LR 2e-4 --nepochs 125 "
        "--batch_size 64 --dataset css3d --bestmodel_gan model_epoch_120.pth "
        "--loader_num_workers 4"
    )
    assert train_gan.read(shlex.split(published)) == one


def test_resuming_goes_on_to_the_same_weights(
    first: Path, tiny_root: Path, composer: Path, readers: Path, tmp_path: Path
) -> None:
    same = ("--batch_size=8", "--dataset_path", tiny_root, "--readers", readers, "--composer",
            composer, "--condition", "mix", "--attribute_weight", 1, "--ema", 0.9)  # fmt: skip
    do("train_gan", *same, "--save_dir_GAN", tmp_path, *NARROW, "--max_minutes", 0)
    assert load_gan(tmp_path)["progress"]["step"] == 0
    assert "holds a run already" in refused("train_gan", *same, "--save_dir_GAN", tmp_path)
    words = refused("train_gan", "--save_dir_GAN", tmp_path, "--resume", "--ema", 0.5)
    assert "was trained with --ema 0.9, got 0.5" in words
    do("train_gan", "--save_dir_GAN", tmp_path, "--resume", "--max_minutes", 5)
    whole, cut = load_gan(first)["parts"], load_gan(tmp_path)["parts"]
    for part in ("generator", "discriminator", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, cut[part][name]), (part, name)


def test_measuring_prints_drawn_pictures_and_baselines(first: Path, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    said = do("evaluate_gan", "--checkpoint", first, "--out", path, "--count", 10).out
    found = json.loads(path.read_text())
    assert found["queries"] == 10
    assert set(found["conditions"]) == {"target", "query"}
    for part in found["conditions"].values():
        assert set(part["drawn"]) == {"judge", "loss"}
        assert set(part["baselines"]) == {"background", "reference", "nearest", "true target"}
        assert part["baselines"]["background"]["occupied"] == 0
    for words in ("drawn from target, judge reads", "drawn from query, loss reads", "background",
                  "reference", "nearest", "true target"):  # fmt: skip
        assert words in said
    again = do("evaluate_gan", "--checkpoint", first / "last.pt", "--out", path, "--count", 10,
               "--conditions", "query")  # fmt: skip
    assert json.loads(path.read_text())["conditions"]["query"] == found["conditions"]["query"]
    assert "drawn from target" not in again.out


def test_second_stage_and_the_grid_of_both(
    first: Path, tiny_root: Path, composer: Path, readers: Path, tmp_path: Path
) -> None:
    run = ("train_gan", "--stage=2", "--dataset_path", tiny_root, "--readers", readers,
           "--composer", composer, "--save_dir_GAN", first, "--save_dir_GAN2", tmp_path / "two",
           "--nepochs", 1, "--width", 1, "--watch", 0, "--save_epoch", 1)  # fmt: skip
    assert "no checkpoint at" in refused(*run, at_once=False)  # epoch 120 was never reached
    do(*run, "--bestmodel_gan", "model_epoch_2.pth")
    content = load_gan(tmp_path / "two")
    assert content["arguments"]["batch_size"] == 8
    kept = load_gan(first / "model_epoch_2.pth")["parts"]["average"]
    for name, value in kept.items():
        assert torch.equal(content["parts"]["generator"][f"first.{name}"], value)

    grid = tmp_path / "grid.png"
    do("generate", "--checkpoint", tmp_path / "two", "--queries", 3, 5, "--out", grid,
       "--side", 64)  # fmt: skip
    with Image.open(grid) as picture:
        pixels = np.asarray(picture)
    step = 64 + 8
    assert pixels.shape == (22 + 8 + 2 * step + 8, 8 + 6 * step, 3)
    from retrieval.datasets import css
    from scripts.painting import load_painter

    queries, gallery = css.load_queries(tiny_root, "test"), css.load_pictures(tiny_root, "test")
    asked = [queries[number] for number in (3, 5)]
    painter, _ = load_painter(tmp_path / "two")
    conditions = painter.conditioner.queries(
        gallery, [query.reference for query in asked], [query.caption for query in asked]
    )
    drawn = painter.stages(conditions, torch.Generator().manual_seed(0))
    for row, number in enumerate((3, 5)):
        top = 30 + row * step

        def shown(place: int, top: int = top) -> np.ndarray:
            return pixels[top : top + 64, 8 + place * step : 8 + place * step + 64]

        assert np.array_equal(shown(0), gallery[queries[number].reference])
        assert np.array_equal(shown(5), gallery[queries[number].target])
        assert (gallery == shown(2)).all((1, 2, 3)).sum() == 1  # the nearest is of the gallery
        assert not np.array_equal(shown(2), shown(0))
        assert np.array_equal(shown(3), drawn[1][row])
        assert np.array_equal(shown(4), drawn[2][row][::2, ::2]) or np.array_equal(
            shown(4), drawn[2][row][1::2, 1::2]
        )  # shrunk by the nearest pixel
        assert (shown(1) < 100).any() and (shown(1) > 200).mean() > 0.5  # words on white


def test_a_picture_and_words_of_ones_own(first: Path, tiny_root: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.fromarray(np.full((90, 60, 3), 130, dtype=np.uint8)).save(own)
    grid = tmp_path / "grid.png"
    run = ("generate", "--checkpoint", first, "--out", grid)
    do(*run, "--reference", own, "--text", "make it red", "add large blue circle")
    with Image.open(grid) as picture:
        assert picture.size == (8 + 5 * 136, 30 + 2 * 136 + 8)
        last = np.asarray(picture)[30:158, 8 + 4 * 136 : 8 + 4 * 136 + 128]
    assert (last == 255).all()  # nobody knows the true target
    assert "go together" in refused(*run, "--reference", own)
    assert "--condition target needs" in refused(
        *run, "--reference", own, "--text", "a", "--condition", "target", at_once=False
    )
    assert "expected queries between 0 and 23, got 99" in refused(
        *run, "--queries", 99, at_once=False
    )
    (tmp_path / "no.png").write_text("no picture")
    assert "is not a picture" in refused(
        *run, "--reference", tmp_path / "no.png", "--text", "a", at_once=False
    )


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--stage", 3], "expected --stage 1 or 2, got 3"),
        (["--nc", 1], "3 channels"),
        (["--dataset", "css2"], "Did you mean"),
        (["--condition", "quer"], "Did you mean 'query'"),
        (["--adversarial", "bbce"], "Did you mean 'bce'"),
        (["--mix", 2], "mix of at most 1"),
        (["--dataset_path", "/nowhere"], "no folder /nowhere"),
    ],
)
def test_mistakes_are_one_sentence(typed: list[Any], words: str, tmp_path: Path) -> None:
    assert words in refused("train_gan", "--save_dir_GAN", tmp_path / "run", *typed)


def test_queries_without_a_composer_are_refused(tiny_root: Path, tmp_path: Path) -> None:
    words = refused("train_gan", "--save_dir_GAN", tmp_path, "--dataset_path", tiny_root,
                    "--condition", "query", at_once=False)  # fmt: skip
    assert "give --composer" in words
    assert "no checkpoint at" in refused("generate", "--checkpoint", tmp_path / "none.pt")


# results_gan


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_every_line_is_a_valid_command(line: Line) -> None:
    args = train_gan.read([*shlex.split(line.flags), "--stage", str(line.stage)])
    how = train_gan.training_of(args)
    GanSpec(args.stage, 256, args.width, args.nz, args.augmentation, args.discriminator_norm)
    assert how.batch_size == {"stage1": 32, "stage2": 8}.get(line.name, 64)


def test_only_what_is_missing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []
    monkeypatch.setattr(results_gan, "call", commands.append)
    composer = tmp_path / "2026-01-01composer"
    composer.mkdir()
    (composer / "evaluation.json").write_text("{}")
    row = {"occupied": 0.5, "all": 0.75, "changed": 0.25, "nearest": 0.1, "fid": 12.0}
    drawn = {"judge": row, "loss": {**row, "occupied": 0.625}}
    done = tmp_path / "published"
    done.mkdir()
    (done / "evaluation.json").write_text(json.dumps({"conditions": {"target": {"drawn": drawn}}}))
    (done / "metrics.json").write_text(
        json.dumps([{"minutes": 9, "processor_minutes": 3.25, "step": 468}])
    )
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "last.pt").write_text("")  # stopped half way

    said = do("results_gan", "--out", tmp_path, "--only", "published", "read").out
    line = next(line for line in LINES if line.name == "read")
    paths = f"--save_dir_GAN {tmp_path / 'read'} --readers {tmp_path / 'readers'}"
    assert commands == [
        f"train_gan --stage 1 --composer {composer} {line.flags} {paths} --resume",
        f"evaluate_gan --checkpoint {tmp_path / 'read'} --count 1000",
    ]
    cells = "| 50.0 | 75.0 | 25.0 | 62.5 | 12 | - | 468 | 3.2 |"
    assert cells in said
    assert json.loads((tmp_path / "table.json").read_text())["read"] is None
    assert "Did you mean 'both-ema'" in refused("results_gan", "--only", "both-em")


# the dialog


def test_a_drawn_dialog_shows_what_the_agent_believes(
    first: Path, tiny_root: Path, tmp_path: Path
) -> None:
    from agents.evaluation import evaluation_pairs, run_dialogs
    from agents.loading import load_agent
    from envs.factory import make_dialog
    from retrieval.generation.painter import Imagination
    from scripts.painting import load_painter

    run = ("draw_dialog", "--data-path", tiny_root, "--user", "attribute", "--turns", 2,
           "--height", 64, "--dialog", 1, "--agent", "random")  # fmt: skip
    do(*run, "--out", tmp_path / "plain.png")
    do(*run, "--out", tmp_path / "strip.png", "--imagine", first)
    plain, strip = (np.asarray(Image.open(tmp_path / name)) for name in ("plain.png", "strip.png"))
    assert strip.shape[0] >= plain.shape[0] + 64 and strip.shape[1] == plain.shape[1]

    dialog = make_dialog(root=tiny_root, split="test", user="attribute", max_turns=2)
    target, reference = (pair[1:2] for pair in evaluation_pairs(32, 32, 0))
    played = run_dialogs(dialog, load_agent("random", dialog), target, reference, 0)
    imagine = Imagination(load_painter(first)[0], dialog.gallery.pictures)  # type: ignore[arg-type]
    for turn in (1, 2):
        picture = imagine(played.candidates[0, turn, :8])
        assert found_in(strip, picture)
        assert not found_in(plain, picture)

    words = refused("draw_dialog", "--env", "dialog/CSS2D-v0", "--data-path", tiny_root, "--user",
                    "attribute", "--encoder", "scene", "--imagine", first, "--out",
                    tmp_path / "no.png", at_once=False)  # fmt: skip
    assert "leave --imagine out" in words


def found_in(strip: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a picture stands somewhere in a strip, pixel by pixel."""
    height, width, _ = picture.shape
    corners = np.argwhere((strip == picture[0, 0]).all(-1))
    return any(
        np.array_equal(strip[top : top + height, left : left + width], picture)
        for top, left in corners
    )


def test_spec_of_a_checkpoint_builds_its_generator(first: Path) -> None:
    content = load_gan(first)
    spec = GanSpec(**content["spec"])
    assert asdict(spec) == content["spec"]
    build_generator(spec).load_state_dict(content["parts"]["generator"])
    assert call("evaluate_gan", "--checkpoint", first, "--conditions", "both").code == 2
