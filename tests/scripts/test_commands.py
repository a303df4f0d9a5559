"""The commands as typed: files written, the same numbers after a stop, mistakes told in a line."""

import csv
import gzip
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
import torch
from ir_measures import RR, R
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import session
from agents.checkpoints import load_checkpoint
from agents.look_ahead import Improvement
from agents.policy_improvement import freeze_images, improve_epoch, target_copy
from agents.supervised import Training
from envs.factory import make_dialog
from retrieval.index import ExactIndex
from tests.command_line import call, do, refused
from user_simulator.captioner import RelativeCaptioner

TRAIN = ["--dialogs-per-epoch", 64, "--batch-size", 16, "--test-pairs", 12, "--log-interval", 2]
SL = [*TRAIN, "--warm-up-epochs", 1]
RL = ["--dialogs-per-epoch", 24, "--batch-size", 8, "--test-pairs", 12, "--log-interval", 2]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(autouse=True, scope="module")
def nowhere_else(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is made in the user's own cache, and errors are told as to users."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.delenv("DIALOG_RETRIEVAL_DEBUG", raising=False)
        yield


@pytest.fixture(scope="module")
def world(tiny_root: Path) -> list[object]:
    return ["--data-path", tiny_root, "--user", "attribute"]


@pytest.fixture(scope="module")
def models(world: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two epochs of supervised training."""
    folder = tmp_path_factory.mktemp("models")
    outcome = do("train_sl", *SL, *world, "--epochs", 2, "--model-folder", folder)
    assert "sl-0.pt ... sl-1.pt" in outcome.out
    return folder


@pytest.fixture
def own_root(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the data that may be harmed."""
    root = tmp_path / "data" / "css"
    shutil.copytree(tiny_root, root, ignore=shutil.ignore_patterns("captioners"))
    return root


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["weights"]


def assert_same_checkpoint(a: Path, b: Path) -> None:
    one, two = torch.load(a, weights_only=True), torch.load(b, weights_only=True)
    assert one["epoch"] == two["epoch"]
    assert one["weights"].keys() == two["weights"].keys()
    for key, value in one["weights"].items():
        assert torch.equal(value, two["weights"][key]), key  # to the last bit
    for one_state, two_state in zip(
        one["optimizer"]["state"].values(), two["optimizer"]["state"].values(), strict=True
    ):
        assert all(torch.equal(one_state[key], two_state[key]) for key in one_state)


# training


def test_train_sl_leaves_checkpoints_numbers_and_logs(models: Path, tiny_root: Path) -> None:
    assert {path.name for path in models.iterdir()} == {
        "sl-0.pt",
        "sl-1.pt",
        "sl-metrics.json",
        "logs",
    }
    dialog = make_dialog(root=tiny_root)
    checkpoint = load_checkpoint(models / "sl-1.pt", dialog.vocabulary)
    assert checkpoint.epoch == 1
    assert checkpoint.arguments["batch_size"] == 16
    assert checkpoint.arguments["user"] == "attribute"
    first, second = weights(models / "sl-0.pt"), weights(models / "sl-1.pt")
    assert any(not torch.equal(first[key], second[key]) for key in first)

    log = json.loads((models / "sl-metrics.json").read_text())
    assert [numbers["epoch"] for numbers in log] == [0, 1]
    for numbers in log:
        assert set(numbers) == {
            "epoch", "train_loss", "percentile", "recall@1", "recall@5", "recall@10",
        }  # fmt: skip
        assert numbers["train_loss"] > 0
        for key in ("percentile", "recall@1", "recall@5", "recall@10"):
            assert len(numbers[key]) == 6
            assert all(0 <= value <= 1 for value in numbers[key])
        assert numbers["recall@1"] <= numbers["recall@5"] <= numbers["recall@10"]

    # TensorBoard: loss, every turn's percentile and recall, dialogs as pictures.
    events = EventAccumulator(str(models / "logs" / "sl"), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    for turn in range(6):
        for metric in ("percentile", "recall@1", "recall@5", "recall@10"):
            start, *logged = events.Scalars(f"test/{metric}/turn_{turn}")
            assert start.step == 0
            np.testing.assert_allclose(
                [point.value for point in logged],
                [numbers[metric][turn] for numbers in log],
                rtol=1e-5,
            )
    loss = events.Scalars("train/loss")
    assert [point.step for point in loss] == [0, 2, 4, 6]  # every second of four batches
    assert "dialog/0" in tags["images"]
    pictures = events.Images("dialog/0")
    assert [picture.step for picture in pictures] == [0, 4, 8]  # the start, then each epoch
    picture = np.asarray(Image.open(io.BytesIO(pictures[0].encoded_image_string)))
    assert picture.ndim == 3
    assert len(np.unique(picture)) > 20  # something is drawn on it


def test_the_same_seed_the_same_numbers(models: Path, world: list[object], tmp_path: Path) -> None:
    """In underscores what `models` was made with in hyphens."""
    typed = [str(argument).replace("-", "_") for argument in SL]
    typed = [f"--{word[2:]}" if word.startswith("__") else word for word in typed]
    assert "--batch_size" in typed
    do("train_sl", *typed, *world, "--epochs", 2, "--model_folder", tmp_path / "a")
    assert_same_checkpoint(tmp_path / "a" / "sl-1.pt", models / "sl-1.pt")
    other = [*SL, *world, "--epochs", 1, "--seed", 1, "--model-folder", tmp_path / "b"]
    do("train_sl", *other)
    assert not torch.equal(
        weights(tmp_path / "b" / "sl-0.pt")["image.weight"],
        weights(models / "sl-0.pt")["image.weight"],
    )


@pytest.mark.parametrize(
    "options", [[], ["--agent", "published", "--loss", "triplet"], ["--memory", "none"]]
)
def test_train_sl_resumed_is_train_sl_uninterrupted(
    options: list[str], world: list[object], tmp_path: Path
) -> None:
    arguments = [*SL, *world, *options]
    do("train_sl", *arguments, "--epochs", 2, "--model-folder", tmp_path / "whole")
    do("train_sl", *arguments, "--epochs", 1, "--model-folder", tmp_path / "parts")
    do("train_sl", *arguments, "--epochs", 2, "--model-folder", tmp_path / "parts", "--resume")
    for epoch in range(2):
        assert_same_checkpoint(
            tmp_path / "whole" / f"sl-{epoch}.pt", tmp_path / "parts" / f"sl-{epoch}.pt"
        )
    whole, parts = ((tmp_path / at / "sl-metrics.json").read_text() for at in ("whole", "parts"))
    assert whole == parts


def test_a_run_that_was_stopped_half_way_goes_on(
    models: Path, world: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the numbers of epoch 1 are written and before its checkpoint is."""
    save = session.save_checkpoint

    def stop(path: Path, *rest: Any) -> None:
        if path.name == "sl-1.pt":
            raise KeyboardInterrupt
        save(path, *rest)

    arguments = [*SL, *world, "--epochs", 2, "--model-folder", tmp_path]
    monkeypatch.setattr(session, "save_checkpoint", stop)
    stopped = call("train_sl", *arguments)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1] == "stopped; what was saved stays"
    monkeypatch.setattr(session, "save_checkpoint", save)
    do("train_sl", *arguments, "--resume")
    assert_same_checkpoint(tmp_path / "sl-1.pt", models / "sl-1.pt")
    assert (tmp_path / "sl-metrics.json").read_text() == (models / "sl-metrics.json").read_text()


def rl_by_hand(models: Path, world: list[object], form: str, loss: str) -> dict[str, torch.Tensor]:
    """Two epochs as the command must play them: synced before each, or never if published."""
    root = world[1]
    assert isinstance(root, Path)
    dialog = make_dialog(root=root)
    agent = load_checkpoint(models / "sl-1.pt").agent
    target = target_copy(agent)
    if form == "published":
        freeze_images(agent)
    trained = [parameter for parameter in agent.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.001)
    how, policy = Training(8, 24, 5, loss, seed=7771), Improvement(form, tau=0.2)
    for epoch in range(2):
        if form == "improved":
            target = target_copy(agent)
        list(improve_epoch(agent, target, dialog, optimizer, epoch, how, policy))
    return agent.state_dict()


def test_train_rl_resumed_is_train_rl_uninterrupted(
    models: Path, world: list[object], tmp_path: Path
) -> None:
    arguments = [*RL, *world, "--pretrained-model", models / "sl-1.pt", "--lr", 0.001]
    arguments += ["--schedule", "constant"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    do("train_rl", *arguments, "--epochs", 2, "--save-folder", whole)  # the original's README
    do("train_rl", *arguments, "--epochs", 1, "--model-folder", parts)
    do("train_rl", *arguments, "--epochs", 2, "--model_folder", parts, "--resume")
    assert {path.name for path in whole.iterdir()} == {
        "rl-0.pt", "rl-1.pt", "rl-metrics.json", "logs",
    }  # fmt: skip
    for epoch in range(2):
        assert_same_checkpoint(whole / f"rl-{epoch}.pt", parts / f"rl-{epoch}.pt")
    assert (whole / "rl-metrics.json").read_text() == (parts / "rl-metrics.json").read_text()

    start, after = weights(models / "sl-1.pt"), weights(whole / "rl-1.pt")
    assert not torch.equal(after["image.weight"], start["image.weight"])
    by_hand = rl_by_hand(models, world, "improved", "in_batch")
    assert all(torch.equal(after[key], by_hand[key]) for key in after)
    events = EventAccumulator(str(whole / "logs" / "rl")).Reload()
    assert "train/first_candidate_wins" in events.Tags()["scalars"]


def test_a_falling_rate_resumed_is_one_uninterrupted(
    models: Path, world: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default: what was not typed is the run's own, and the rate cannot jump."""
    arguments = [*RL, *world, "--pretrained-model", models / "sl-1.pt", "--lr", 0.001]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    do("train_rl", *arguments, "--epochs", 2, "--save-folder", whole)
    save = session.save_checkpoint

    def stop(path: Path, *rest: Any) -> None:
        save(path, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "save_checkpoint", stop)
    assert call("train_rl", *arguments, "--epochs", 2, "--save-folder", parts).code == 130
    monkeypatch.setattr(session, "save_checkpoint", save)
    bare = list(map(str, arguments))
    del bare[bare.index("--batch-size") : bare.index("--batch-size") + 2]
    for other in (["--epochs", 3], ["--epochs", 2, "--schedule", "linear"]):
        message = refused("train_rl", *bare, *other, "--save-folder", parts, "--resume")
        assert "began with --schedule cosine --epochs 2" in message
    do("train_rl", *bare, "--epochs", 2, "--save-folder", parts, "--resume")
    for epoch in range(2):
        assert_same_checkpoint(whole / f"rl-{epoch}.pt", parts / f"rl-{epoch}.pt")
    assert load_checkpoint(parts / "rl-1.pt").arguments["batch_size"] == 8  # as it began
    constant = ["--epochs", 3, "--schedule", "constant"]
    do("train_rl", *bare, *constant, "--save-folder", parts, "--resume")
    falling = [*SL, *world, "--schedule", "cosine", "--model-folder", tmp_path]
    do("train_sl", *falling, "--epochs", 1)
    assert "--epochs 1, got" in refused("train_sl", *falling, "--epochs", 2, "--resume")


def test_where_it_started_stands_beside_what_comes(
    models: Path, world: list[object], tmp_path: Path
) -> None:
    """What training on held-out dialogs comes to is read against the start's own figures."""
    arguments = [*RL, *world, "--pretrained-model", models / "sl-1.pt", "--epochs", 1]
    told = do("train_rl", *arguments, "--save-folder", tmp_path).err.splitlines()
    before = json.loads((models / "sl-metrics.json").read_text())[-1]  # the same dialogs
    (start,) = (line for line in told if line.startswith("start: "))
    shown = " ".join(f"{100 * value:.1f}" for value in before["percentile"])
    assert start.startswith(f"start: percentile by turn {shown} | Recall@1 ")
    events = EventAccumulator(str(tmp_path / "logs" / "rl")).Reload()
    first, second = events.Scalars("test/percentile/turn_5")
    assert first.step == 0 and first.value == pytest.approx(before["percentile"][5])
    assert second.step == 3
    again = do("train_rl", *arguments, "--save-folder", tmp_path, "--resume")
    assert "start:" not in again.err


def test_the_defaults_of_a_form(models: Path, world: list[object], tmp_path: Path) -> None:
    """The published form steps as it was published, unless told otherwise."""
    start = ["--pretrained-model", models / "sl-1.pt", "--loss", "triplet", "--test-pairs", 0]
    start += ["--epochs", 1, "--dialogs-per-epoch", 64, *world]
    published = ["--improvement", "published"]
    for folder, typed, expected in (
        ("improved", [], (2e-4, 64, "cosine")),
        ("self-critical", ["--method", "self-critical"], (2e-4, 64, "cosine")),
        ("published", published, (1e-4, 8, "constant")),
        ("typed", [*published, "--batch-size", 16, "--schedule", "cosine"], (1e-4, 16, "cosine")),
    ):
        do("train_rl", *start, *typed, "--save-folder", tmp_path / folder)
        kept = load_checkpoint(tmp_path / folder / "rl-0.pt").arguments
        assert (kept["lr"], kept["batch_size"], kept["schedule"]) == expected


def test_the_published_form_keeps_the_images(
    models: Path, world: list[object], tmp_path: Path
) -> None:
    arguments = [*RL, *world, "--pretrained-model", models / "sl-1.pt", "--lr", 0.001]
    arguments += ["--improvement", "published", "--tau", 0.2, "--loss", "triplet"]
    do("train_rl", *arguments, "--epochs", 2, "--save-folder", tmp_path / "whole")
    do("train_rl", *arguments, "--epochs", 1, "--save-folder", tmp_path / "parts")
    do("train_rl", *arguments, "--epochs", 2, "--save-folder", tmp_path / "parts", "--resume")
    start, after = weights(models / "sl-1.pt"), weights(tmp_path / "whole" / "rl-1.pt")
    assert torch.equal(after["image.weight"], start["image.weight"])
    assert not torch.equal(after["recall.weight"], start["recall.weight"])
    assert_same_checkpoint(tmp_path / "whole" / "rl-1.pt", tmp_path / "parts" / "rl-1.pt")

    by_hand = rl_by_hand(models, world, "published", "triplet")
    assert all(torch.equal(after[key], by_hand[key]) for key in after)


def test_supervised_training_goes_on_from_a_checkpoint(
    models: Path, world: list[object], tmp_path: Path
) -> None:
    """Without another warm-up: one epoch at learning rate 0 leaves the weights as they were."""
    arguments = [*SL, *world, "--epochs", 1, "--pretrained-model", models / "sl-1.pt"]
    do("train_sl", *arguments, "--lr", 0, "--model-folder", tmp_path / "still")
    still, start = weights(tmp_path / "still" / "sl-0.pt"), weights(models / "sl-1.pt")
    trained = [key for key in start if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(still[key], start[key]) for key in trained)
    do("train_sl", *arguments, "--model-folder", tmp_path / "on")
    on = weights(tmp_path / "on" / "sl-0.pt")
    assert not torch.equal(on["image.weight"], start["image.weight"])


def test_the_original_command_lines_run_as_typed(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing but the data and smaller sizes added."""
    monkeypatch.chdir(tmp_path)
    small = [f"--data-path={tiny_root}", "--user=attribute", "--test-pairs=8", "--epochs=1"]
    small.append("--dialogs-per-epoch=100")
    typed = "--log-interval=50 --lr=0.001 --batch-size=128 --model-folder=models/"
    do("train_sl", *typed.split(), *small)
    os.rename("models/sl-0.pt", "models/sl-10.pt")
    typed = (
        "--log-interval=10 --lr=0.0001 --top-k=4 --batch-size=128 --tau=0.2 "
        "--pretrained-model=models/sl-10.pt --save-folder=models/"
    )
    do("train_rl", *typed.split(), *small)
    arguments = load_checkpoint(tmp_path / "models" / "rl-0.pt").arguments
    assert (arguments["lr"], arguments["tau"], arguments["top_k"]) == (0.0001, 0.2, 4)
    assert arguments["log_interval"] == 10


def test_on_scenes_without_pictures(tiny_root: Path, tmp_path: Path) -> None:
    """The environment that needs no vision model has its own user and features."""
    arguments = ["--env", "dialog/CSS-Scene-v0", "--data-path", tiny_root]
    do("train_sl", *SL, *arguments, "--epochs", 1, "--model-folder", tmp_path)
    content = torch.load(tmp_path / "sl-0.pt", weights_only=True)
    assert content["feature_dim"] == 144


# mistakes


def test_an_older_run_is_not_overwritten(models: Path, world: list[object]) -> None:
    before = contents(models)
    told = refused("train_sl", *SL, *world, "--epochs", 1, "--model-folder", models)
    assert "already holds sl-1.pt; go on with --resume, start anew with --overwrite" in told
    assert contents(models) == before
    nothing = models.parent / "nothing"
    told = refused("train_sl", *SL, *world, "--model-folder", nothing, "--resume")
    assert f"nothing to resume: {nothing} holds no sl-*.pt" in told


def test_overwriting_loses_nothing_before_it_can_begin(
    models: Path, world: list[object], tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    before = contents(folder)
    arguments = [*SL, *world, "--epochs", 1, "--model-folder", folder, "--overwrite"]
    refused("train_sl", *arguments, "--pretrained-model", tmp_path / "none.pt")
    refused("train_sl", *arguments, "--agent", "published")  # in_batch needs unit norm
    refused("train_sl", *arguments, "--composer", "trig")
    assert contents(folder) == before
    # It may start from what it replaces; then only the new run is there.
    do("train_sl", *arguments, "--pretrained-model", folder / "sl-1.pt")
    assert {path.name for path in folder.glob("*.pt")} == {"sl-0.pt"}
    assert len(json.loads((folder / "sl-metrics.json").read_text())) == 1


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("train_sl", ["--env", "dialog/CSS-v9"], "unknown environment 'dialog/CSS-v9'. Did you"),
        ("train_rl", ["--env", "CartPole-v1"], "unknown environment 'CartPole-v1'."),
        ("benchmark", ["--env", "dialog/Shoe"], "unknown environment 'dialog/Shoe'."),
        ("benchmark", ["--env", "dialog/CSS-OneTurn-v0"], "has dialogs of 1 turn, got 5"),
        ("train_sl", ["--agent", "traker"], "unknown agent 'traker'. Did you mean 'tracker'?"),
        ("train_sl", ["--composer", "trig"], "unknown composer 'trig'. Did you mean 'tirg'?"),
        ("train_sl", ["--loss", "tripplet"], "unknown loss 'tripplet'. Did you mean 'triplet'?"),
        ("train_sl", ["--user", "nural"], "unknown user 'nural'. Did you mean 'neural'?"),
        ("train_sl", ["--pretrained-model", "none.pt"], "no checkpoint at none.pt; train one"),
        ("train_rl", ["--improvement", "publish"], "unknown improvement 'publish'. Did you mean"),
        ("train_rl", ["--top-k", "1"], "expected at least 2 candidates"),
        ("train_rl", ["--pretrained-model", "none.pt"], "no checkpoint at none.pt; train one"),
        ("benchmark", ["--agents", "nobody"], "unknown agent 'nobody'"),
        ("benchmark", ["--agents", "none.pt"], "no checkpoint at none.pt"),
        ("benchmark", ["--agents", "none.zip"], "no saved model at none.zip"),
        ("benchmark", ["--agents", "no.such:Agent"], "cannot import agent 'no.such:Agent'"),
        ("benchmark", ["--agents", "json:__name__"], "'json:__name__' has no predict()"),
        ("benchmark", ["--agents", "random", "random"], "two agents have the same name"),
        ("benchmark", ["--split", "val"], "unknown split 'val'"),
        ("benchmark", ["--turns", "0"], "expected at least 1 turn"),
        ("benchmark", ["--noise", "2"], "expected a probability in [0, 1], got 2"),
        ("train_sl", ["--captioner", "none.pt", "--user", "neural"], "none.pt"),
    ],
)
def test_mistakes_are_one_sentence(
    command: str,
    arguments: list[str],
    told: str,
    world: list[object],
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if command == "train_rl" and "--pretrained-model" not in arguments:
        arguments = [*arguments, "--pretrained-model", str(models / "sl-1.pt")]
    assert told in refused(command, *world, *arguments)
    assert not contents(tmp_path)


def test_a_checkpoint_of_another_vocabulary(
    models: Path, world: list[object], tmp_path: Path
) -> None:
    content = torch.load(models / "sl-1.pt", weights_only=True)
    content["words"] = content["words"][::-1]
    other = tmp_path / "other.pt"
    torch.save(content, other)
    for command, option in (
        ("train_rl", "--pretrained-model"),
        ("train_sl", "--pretrained-model"),
        ("benchmark", "--agents"),
    ):
        told = refused(command, *world, option, other)
        assert f"{other} knows another vocabulary" in told


def test_a_checkpoint_of_other_features(models: Path, tiny_root: Path, tmp_path: Path) -> None:
    arguments = ["--env", "dialog/CSS-v0", "--encoder", "scene", "--data-path", tiny_root]
    arguments += ["--user", "attribute"]
    for command, option in (
        ("train_rl", "--pretrained-model"),
        ("train_sl", "--pretrained-model"),
        ("benchmark", "--agents"),
    ):
        folder = "--out" if command == "benchmark" else "--model-folder"
        told = refused(command, *arguments, option, models / "sl-1.pt", folder, tmp_path / "new")
        assert "expects features of size 256, got 144" in told


def test_a_damaged_checkpoint(models: Path, world: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    whole = (folder / "sl-1.pt").read_bytes()
    (folder / "sl-1.pt").write_bytes(whole[: len(whole) // 3])
    before = contents(folder)
    for command, option in (
        ("train_rl", ["--pretrained-model", folder / "sl-1.pt", "--save-folder", folder]),
        ("train_sl", ["--resume", "--model-folder", folder]),
        ("benchmark", ["--agents", folder / "sl-1.pt", "--out", folder]),
    ):
        assert "sl-1.pt is not a checkpoint" in refused(command, *world, *option)
    assert contents(folder) == before


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def fewer_rows(path: Path) -> None:
    np.save(path, np.load(path)[:-3])


def no_picture(root: Path) -> None:
    (root / "pictures" / "3d_train.npy").unlink()  # the decoded cache
    (root / "images" / "css_train_000007.png").unlink()


def half_a_picture(root: Path) -> None:
    (root / "pictures" / "3d_train.npy").unlink()
    cut(root / "images" / "css_train_000007.png")


FEATURES = Path("features") / "scene-cnn"
HARM: dict[str, tuple[Any, str]] = {
    "vectors cut": (lambda root: cut(root / FEATURES / "3d_train_vectors.npy"), "extract them"),
    "grids cut": (lambda root: cut(root / FEATURES / "3d_train_grids.npy"), "extract them"),
    "vectors too few": (
        lambda root: fewer_rows(root / FEATURES / "3d_train_vectors.npy"),
        "expected features of 64 images",
    ),
    "decoded pictures cut": (lambda root: cut(root / "pictures" / "3d_train.npy"), "3d_train.npy"),
    "a picture missing": (no_picture, "1 of 64 pictures are missing"),
    "half a picture": (half_a_picture, "cannot decode the picture"),
    "captions cut": (
        lambda root: cut(root / "relative_captions_3d_train.json"),
        "relative_captions_3d_train.json is incomplete",
    ),
    "archive cut": (
        lambda root: cut(root / "css_toy_dataset_novel2_small.dup.npy"),
        "css_toy_dataset_novel2_small.dup.npy",
    ),
    "archive missing": (
        lambda root: (root / "css_toy_dataset_novel2_small.dup.npy").unlink(),
        "css_toy_dataset_novel2_small.dup.npy is missing",
    ),
}


@pytest.mark.parametrize("name", HARM)
def test_a_truncated_gallery(name: str, own_root: Path, tmp_path: Path) -> None:
    harm, told = HARM[name]
    harm(own_root)
    before = contents(own_root)
    arguments = ["--data-path", own_root, "--user", "attribute"]
    assert told in refused("train_sl", *arguments, "--model-folder", tmp_path / "models")
    assert told in refused("benchmark", *arguments, "--split", "train", "--out", tmp_path / "b")
    assert contents(own_root) == before
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "b").exists()


def test_a_folder_that_cannot_be_written(models: Path, world: list[object], tmp_path: Path) -> None:
    """Below a regular file, where not even root can write."""
    blocker = tmp_path / "file"
    blocker.write_text("mine")
    inside = blocker / "inside"
    refused("train_sl", *SL, *world, "--epochs", 1, "--model-folder", inside)
    start = ["--pretrained-model", models / "sl-1.pt"]
    refused("train_rl", *TRAIN, *world, *start, "--epochs", 1, "--save-folder", inside)
    arguments = [*world, "--agents", "random", "--pairs", 5, "--out", inside]
    refused("benchmark", *arguments)
    assert "played" not in call("benchmark", *arguments).out  # told before the work, not after
    refused("train_captioner", *world[:2], "--out", inside / "captioner.pt")
    assert blocker.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(models: Path, world: list[object], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    before = contents(folder)
    folder.chmod(0o555)
    try:
        refused("train_sl", *SL, *world, "--resume", "--epochs", 3, "--model-folder", folder)
        refused("benchmark", *world, "--agents", "random", "--out", folder)
        assert contents(folder) == before
    finally:
        folder.chmod(0o755)


def test_debugging_shows_the_traceback(
    world: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIALOG_RETRIEVAL_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown loss"):
        call("train_sl", *world, "--loss", "none")


# the benchmark

AGENT = '''
import numpy as np

class Made:
    """Made from the dialog; searches for the opposite of what is on show."""
    def __init__(self, dialog):
        self.size = len(dialog.gallery)
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return -observation["reference"], state

class Instance:
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return observation["reference"], state

ready = Instance()
nothing = lambda dialog: dialog
'''


@pytest.fixture(scope="module")
def bench(
    models: Path, world: list[object], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[object], str]:
    """A finished benchmark of all kinds of agents: folder, arguments and table."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "my_own_agent.py").write_text(AGENT)
    arguments = [*world, "--pairs", 40, "--bootstrap", 60, "--run-depth", 32, "--agents"]
    arguments += ["random", "image-only", "oracle", models / "sl-1.pt"]
    arguments += ["mine=my_own_agent:Made", "my_own_agent:ready"]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        outcome = do("benchmark", *arguments, "--out", folder / "out")
    return folder, arguments, outcome.out


NAMES = ["random", "image-only", "oracle", "sl-1", "mine", "my_own_agent:ready"]


def test_the_benchmark_writes_its_schema(bench: tuple[Path, list[object], str]) -> None:
    folder, _, table = bench
    content = json.loads((folder / "out" / "benchmark.json").read_text())
    agents = content["agents"]
    assert list(agents) == NAMES
    for name, metrics in agents.items():
        assert {"percentile", "recall@1", "recall@5", "recall@10", "mrr", "median_rank",
                "success@1", "bri"} <= set(metrics)  # fmt: skip
        assert all(len(values) == 6 for values in metrics.values()), name
        intervals = content["intervals"][name]["percentile"]
        for low, value, high in zip(
            intervals["low"], metrics["percentile"], intervals["high"], strict=True
        ):
            assert low - 1e-9 <= value <= high + 1e-9
    pairs = {(row["a"], row["b"]) for row in content["comparisons"]}
    assert len(pairs) == len(NAMES) * (len(NAMES) - 1) // 2
    for row in content["comparisons"]:
        assert {"a", "b", "metric", "turn", "difference", "low", "high"} <= set(row)
        a, b = (agents[row[side]][row["metric"]][row["turn"]] for side in ("a", "b"))
        assert row["difference"] == pytest.approx(a - b, abs=1e-9)
        assert row["low"] <= row["difference"] + 1e-9
        assert row["high"] >= row["difference"] - 1e-9
    assert (content["dialogs"], content["clusters"]) == (40, 32)  # eight targets come twice
    protocol = content["protocol"]
    gallery_hash = protocol.pop("gallery_hash")
    assert len(gallery_hash) == 12
    assert protocol == {
        "environment": "dialog/CSS-v0", "split": "test", "gallery_size": 32, "user": "attribute",
        "noise": 0.0, "encoder": "scene-cnn", "pairs": 40, "turns": 5, "seed": 0, "ties": "half",
        "reference_excluded": False, "bootstrap": 60,
    }  # fmt: skip
    assert {limit["label"].split()[0] for limit in content["limits"]} == {
        "counting", "indistinguishability", "version-space",
    }  # fmt: skip
    for name in NAMES:
        assert name in table
    assert "40 dialogs over 32 test images, user attribute, seed 0" in table

    # What must be so of these agents.
    assert agents["image-only"]["mrr"] == agents["my_own_agent:ready"]["mrr"]
    assert agents["oracle"]["percentile"][5] > 0.95
    assert agents["oracle"]["percentile"][5] > agents["random"]["percentile"][5] + 0.2
    assert agents["mine"] != agents["image-only"]


def test_the_benchmark_writes_tables_and_pictures(bench: tuple[Path, list[object], str]) -> None:
    folder = bench[0] / "out"
    content = json.loads((folder / "benchmark.json").read_text())
    with (folder / "benchmark.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        value = content["agents"][row["agent"]][row["metric"]][int(row["turn"])]
        assert float(row["value"]) == value
    assert len(rows) == sum(len(m) * 6 for m in content["agents"].values())
    for name in ("benchmark.png", "dialog.png"):
        picture = np.asarray(Image.open(folder / name).convert("RGB"))
        assert min(picture.shape[:2]) > 200
        assert len(np.unique(picture)) > 50
    ranks = np.load(folder / "ranks.npz")
    for name in NAMES:
        percentile = 1 - ranks[name].mean(axis=0) / 31
        np.testing.assert_allclose(percentile, content["agents"][name]["percentile"])


def test_ranks_and_recalls_agree_with_ir_measures(bench: tuple[Path, list[object], str]) -> None:
    """Another program scores the run files, written to the depth of the gallery."""
    folder = bench[0] / "out"
    content = json.loads((folder / "benchmark.json").read_text())
    with gzip.open(folder / "qrels.gz", "rt") as file:
        qrels = list(ir_measures.read_trec_qrels(file.read()))
    assert len(qrels) == 40 * 6
    for name in NAMES:
        with gzip.open(folder / f"{name}.run.gz", "rt") as file:
            run = list(ir_measures.read_trec_run(file.read()))
        assert len(run) == 40 * 6 * 32
        found = list(ir_measures.iter_calc([R @ 1, R @ 5, R @ 10, RR], qrels, run))
        # Turn 0 of agents that score images themselves is a one-hot query: the rest ties.
        for turn in range(1 if name in ("random", "oracle") else 0, 6):
            for measure, key in ((R @ 1, "recall@1"), (R @ 5, "recall@5"), (R @ 10, "recall@10"),
                                 (RR, "mrr")):  # fmt: skip
                values = [
                    one.value for one in found
                    if one.measure == measure and one.query_id.endswith(f"#t{turn}")
                ]  # fmt: skip
                assert len(values) == 40
                assert np.mean(values) == pytest.approx(content["agents"][name][key][turn]), (
                    name, key, turn,
                )  # fmt: skip


def test_the_same_benchmark_again(
    bench: tuple[Path, list[object], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, arguments, _ = bench
    monkeypatch.chdir(folder)
    do("benchmark", *arguments, "--out", tmp_path / "again")
    first, again = contents(folder / "out"), contents(tmp_path / "again")
    assert first.keys() == again.keys()
    for name in first:
        if not name.endswith(".npz"):  # zip archives carry the time
            assert first[name] == again[name], name
    do("benchmark", *arguments, "--out", tmp_path / "other", "--seed", 1)
    other = json.loads((tmp_path / "other" / "benchmark.json").read_text())
    content = json.loads(first["benchmark.json"])
    assert other["agents"]["sl-1"] != content["agents"]["sl-1"]
    assert other["protocol"]["gallery_hash"] == content["protocol"]["gallery_hash"]


def test_a_benchmark_is_not_overwritten(
    bench: tuple[Path, list[object], str], world: list[object]
) -> None:
    folder = bench[0] / "out"
    before = contents(folder)
    told = refused("benchmark", *world, "--agents", "random", "--out", folder)
    assert "holds a benchmark; choose another --out or --overwrite" in told
    assert contents(folder) == before


def test_a_benchmark_that_is_overwritten(world: list[object], tmp_path: Path) -> None:
    arguments = [*world, "--bootstrap", 10, "--out", tmp_path, "--agents", "random"]
    do("benchmark", *arguments, "--pairs", 4)
    do("benchmark", *arguments, "--pairs", 6, "--overwrite")
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["protocol"]["pairs"] == 6


def test_an_agent_without_predict(
    bench: tuple[Path, list[object], str], world: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench[0])
    told = refused("benchmark", *world, "--agents", "my_own_agent:nothing")
    assert "'my_own_agent:nothing' has no predict()" in told


@pytest.mark.parametrize("ties", ["half", "optimistic"])
def test_ties_by_flag(
    ties: str, world: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collapsed embedding scores chance, or looks perfect under the published count."""

    class Collapsed:
        index = ExactIndex(np.ones((32, 2), np.float32))

        def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, Any]:
            return np.ones((len(observation["turn"]), 2), np.float32), None

    module = type(sys)("collapsed_agent")
    module.it = Collapsed()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "collapsed_agent", module)
    arguments = [*world, "--pairs", 6, "--bootstrap", 10, "--ties", ties]
    do("benchmark", *arguments, "--agents", "c=collapsed_agent:it", "--out", tmp_path)
    content = json.loads((tmp_path / "benchmark.json").read_text())
    expected = 0.5 if ties == "half" else 1.0
    assert content["agents"]["c"]["percentile"] == [expected] * 6
    assert content["protocol"]["ties"] == ties


# features and the neural user


def test_extract_features_and_use_them(own_root: Path, tmp_path: Path) -> None:
    told = do("extract_features", "--encoder", "resnet18", "--data-path", own_root).out
    assert "use them with --encoder resnet18" in told
    vectors = np.load(own_root / "features" / "resnet18" / "3d_test_vectors.npy")
    assert vectors.shape == (32, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    arguments = ["--data-path", own_root, "--user", "attribute", "--encoder", "resnet18"]
    arguments += ["--agents", "image-only", "--pairs", 6, "--bootstrap", 10]
    do("benchmark", *arguments, "--out", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert content["protocol"]["encoder"] == "resnet18"

    before = contents(own_root)
    told = refused("extract_features", "--encoder", "resnet19", "--data-path", own_root)
    assert "resnet19" in told
    assert contents(own_root) == before


def test_extract_features_trains_the_scene_encoder(own_root: Path) -> None:
    shutil.rmtree(own_root / "features")
    do("extract_features", "--data-path", own_root, "--epochs", 1)
    features = own_root / "features" / "scene-cnn"
    assert np.load(features / "3d_train_vectors.npy").shape[0] == 64
    assert np.load(features / "3d_test_grids.npy").shape[0] == 32
    made = contents(own_root)
    do("extract_features", "--data-path", own_root, "--epochs", 1)  # once is enough
    assert contents(own_root) == made


def test_train_captioner(tiny_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "captioner.pt"
    arguments = ["--data-path", tiny_root, "--epochs", 1, "--hidden-size", 16, "--out", path]
    told = do("train_captioner", *arguments)
    assert f"captioner in {path}, its report in {path.with_suffix('.json')}" in told.out
    report = json.loads(path.with_suffix(".json").read_text())
    assert {f"bleu_{n}" for n in (1, 2, 3, 4)} <= set(report)
    assert {"cider_d", "faithfulness", "discrimination", "distinct_captions"} <= set(report)
    assert len(RelativeCaptioner.load(path).vocabulary) > 20

    small = ["--epochs", 1, "--dialogs-per-epoch", 16, "--batch-size", 16, "--test-pairs", 4]
    world = ["--data-path", tiny_root, "--captioner", path]
    do("train_sl", *small, *world, "--warm-up-epochs", 0, "--model-folder", tmp_path / "m")
    assert load_checkpoint(tmp_path / "m" / "sl-0.pt").arguments["captioner"] == str(path)


def test_a_dialog_with_the_neural_user_end_to_end(
    tiny_root: Path, tiny_captioner: Path, tmp_path: Path
) -> None:
    """The default user, found where `train_captioner` puts it: train, improve, compare."""
    world = ["--data-path", tiny_root]
    small = ["--epochs", 1, "--dialogs-per-epoch", 32, "--batch-size", 16, "--test-pairs", 8]
    small += ["--model-folder", tmp_path / "models", *world]
    before = tiny_captioner.read_bytes()
    do("train_sl", *small)
    sl, rl = tmp_path / "models" / "sl-0.pt", tmp_path / "models" / "rl-0.pt"
    do("train_rl", *small, "--pretrained-model", sl, "--lr", 0.001)
    arguments = [*world, "--pairs", 10, "--bootstrap", 10, "--agents", "random", "oracle", sl, rl]
    do("benchmark", *arguments, "--out", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert content["protocol"]["user"] == "neural"
    assert set(content["agents"]) == {"random", "oracle", "sl-0", "rl-0"}
    assert tiny_captioner.read_bytes() == before

    do("benchmark", *arguments, "--user", "attribute", "--out", tmp_path / "attribute")
    other = json.loads((tmp_path / "attribute" / "benchmark.json").read_text())
    assert other["agents"]["sl-0"] != content["agents"]["sl-0"]  # others' words
    assert other["agents"]["oracle"]["mrr"][5] > content["agents"]["oracle"]["mrr"][5]


def test_a_missing_captioner_is_trained_first(own_root: Path, tmp_path: Path) -> None:
    arguments = ["--data-path", own_root, "--agents", "random", "--pairs", 4, "--bootstrap", 10]
    outcome = do("benchmark", *arguments, "--out", tmp_path / "out")
    assert "no captioner yet: training one first (once)" in outcome.err
    assert (own_root / "captioners" / "3d-scene-cnn.pt").is_file()
    outcome = do("benchmark", *arguments, "--out", tmp_path / "again")
    assert "no captioner yet" not in outcome.err


# making data, drawing, and the demo


def test_make_css(tmp_path: Path) -> None:
    small = ["--train-scenes", 2, "--test-scenes", 2, "--edits", 1, "--captions", 5]
    do("make_css", "--out", tmp_path / "css", *small)
    assert len(list((tmp_path / "css" / "images").glob("*.png"))) == 8
    made = contents(tmp_path / "css")
    assert len(json.loads(made["relative_captions_3d_train.json"])) == 5
    do("make_css", "--out", tmp_path / "css", *small)  # it is there: nothing is done
    assert contents(tmp_path / "css") == made
    assert "at least 64 pixels" in refused("make_css", "--out", tmp_path / "s", "--size", 32)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "is not empty" in refused("make_css", "--out", tmp_path / "full", *small)
    assert contents(tmp_path / "full") == {"mine.txt": b"mine"}


def test_draw_dialog(world: list[object], models: Path, tmp_path: Path) -> None:
    for agent in ("oracle", models / "sl-1.pt"):
        path = tmp_path / "strip.png"
        told = do("draw_dialog", *world, "--agent", agent, "--out", path, "--dialog", 3).out
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert picture.shape[1] > picture.shape[0]
        assert len(np.unique(picture)) > 50
        assert "css_test_" in told
    assert "between 0 and 31, got 32" in refused("draw_dialog", *world, "--dialog", 32)


def test_the_demo_compares_all_it_promises(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scripts.demo

    def in_process(command: str, options: list[str], threads: int | None) -> None:
        calls.append(command)
        do(command, *options, *(["--bootstrap", 10] if command == "benchmark" else []))

    calls: list[str] = []
    monkeypatch.setattr(scripts.demo, "_call", in_process)
    arguments = ["--data-path", tiny_root, "--user", "attribute", "--out", tmp_path / "demo"]
    arguments += ["--sl-dialogs", 32, "--rl-dialogs", 16, "--pairs", 12, "--warm-up-epochs", 1]
    arguments += ["--parallel", 1]
    told = do("demo", *arguments).out
    content = json.loads((tmp_path / "demo" / "benchmark.json").read_text())
    assert set(content["agents"]) == {
        "random", "image-only", "text-only", "text-only-memory", "sl-triplet",
        "sl-triplet-continued", "rl-triplet", "sl", "sl-continued", "rl", "oracle",
    }  # fmt: skip
    assert calls.count("train_rl") == 2
    assert f"tensorboard --logdir {tmp_path / 'demo'}" in told
    calls.clear()
    do("demo", *arguments)  # what is trained is not trained again
    assert calls == ["benchmark"]


def test_the_demo_pools_its_seeds(tmp_path: Path) -> None:
    """Means over both seeds' dialogs, and paired intervals of what was improved over what not."""
    from scripts.demo import Args, pool_seeds

    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 32, size=(2, 20, 6)).astype(float)
    for seed in (0, 1):
        (tmp_path / f"seed-{seed}").mkdir()
        np.savez(
            tmp_path / f"seed-{seed}" / "ranks.npz",
            **{"gallery_size": 32, "target": np.arange(20), "sl": ranks[seed]},
            **{"sl-continued": ranks[seed], "rl": ranks[seed] - 1, "text-only": ranks[seed]},
        )
    told = pool_seeds(Args(tmp_path, seeds=(0, 1)))
    content = json.loads((tmp_path / "pooled.json").read_text())
    percentile = content["agents"]["sl"]["percentile"]
    np.testing.assert_allclose(percentile, 1 - ranks.mean(axis=(0, 1)) / 31)
    assert {(row["a"], row["b"]) for row in content["comparisons"]} == {
        ("rl", "sl"), ("rl", "sl-continued"), ("sl", "text-only"),
    }  # fmt: skip
    for row in content["comparisons"]:
        if row["metric"] == "percentile" and row["a"] == "rl":
            assert row["difference"] == pytest.approx(1 / 31)
            assert row["low"] == pytest.approx(1 / 31)
    assert content["recall@1_spread_over_seeds"]["sl"] == [0] * 6  # no rank is 0
    assert "2 seeds pooled" in told
    assert "rl - sl-continued percentile turn 5: +3.23 [+3.23, +3.23]" in told


def test_the_demo_stops_where_a_step_fails(world: list[object]) -> None:
    """A process of its own, whose exit code counts."""
    from scripts.demo import _call

    with pytest.raises(RuntimeError, match="train_sl failed; see the message above"):
        _call("train_sl", [*map(str, world), "--loss", "none"], threads=1)
