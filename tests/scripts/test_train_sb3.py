"""`train_sb3`: models, numbers, the same after a stop, played by the benchmark, refusals."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.sb3 import ALGORITHMS, read_model, tracker_of
from scripts.train_sb3 import Args, method_of
from tests.command_line import do, refused

TRAIN = ["--num-envs", 4, "--turns-per-epoch", 16, "--test-pairs", 12, "--dim", 8]


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
def supervised(world: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent after a moment of supervised training."""
    folder = tmp_path_factory.mktemp("models")
    do(
        "train_sl", *world, "--dialogs-per-epoch", 64, "--batch-size", 16, "--test-pairs", 0,
        "--warm-up-epochs", 1, "--epochs", 1, "--model-folder", folder,
    )  # fmt: skip
    return folder / "sl-0.pt"


def weights(path: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(path) as archive, archive.open("policy.pth") as file:
        return torch.load(file, weights_only=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_resumed_is_uninterrupted(algorithm: str, world: list[object], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    typed = ["--algo", algorithm, *TRAIN, *world, "--candidates", 5]
    outcome = do("train_sb3", *typed, "--epochs", 2, "--model-folder", whole)
    assert f"{algorithm}-0.zip ... {algorithm}-1.zip" in outcome.out
    do("train_sb3", *typed, "--epochs", 1, "--model-folder", parts)
    do("train_sb3", *typed, "--epochs", 2, "--model-folder", parts, "--resume")
    first, last = weights(whole / f"{algorithm}-0.zip"), weights(whole / f"{algorithm}-1.zip")
    assert any(not torch.equal(first[key], last[key]) for key in first)
    for key, value in weights(parts / f"{algorithm}-1.zip").items():
        assert torch.equal(value, last[key]), key  # to the last bit
    log = f"{algorithm}-metrics.json"
    assert (whole / log).read_bytes() == (parts / log).read_bytes()
    numbers = json.loads((whole / log).read_text())
    assert [one["epoch"] for one in numbers] == [0, 1]
    assert numbers[1]["turns"] >= 32
    assert list((whole / "logs").rglob("events*"))
    replays = {path.name for path in whole.glob("*.npz")}
    assert replays == ({"sac-1-replay.npz"} if algorithm == "sac" else set())


def test_it_begins_as_the_supervised_agent_and_is_benchmarked(
    supervised: Path, world: list[object], tmp_path: Path
) -> None:
    """With a learning rate of 0 the benchmark sees the supervised agent twice."""
    do(
        "train_sb3", *TRAIN, *world, "--pretrained-model", supervised, "--lr", 0, "--epochs", 1,
        "--model-folder", tmp_path,
    )  # fmt: skip
    out = tmp_path / "benchmark"
    do(
        "benchmark", *world, "--agents", f"sl={supervised}", f"ppo={tmp_path / 'ppo-0.zip'}",
        "random", "--pairs", 20, "--bootstrap", 10, "--out", out,
    )  # fmt: skip
    with np.load(out / "ranks.npz") as ranks:
        assert np.array_equal(ranks["sl"], ranks["ppo"])
        assert not np.array_equal(ranks["sl"], ranks["random"])


def test_from_scratch_takes_the_flags(world: list[object], tmp_path: Path) -> None:
    do(
        "train_sb3", *TRAIN, *world, "--memory", "none", "--composer", "text_only", "--epochs", 1,
        "--model-folder", tmp_path,
    )  # fmt: skip
    tracker = tracker_of(read_model(tmp_path / "ppo-0.zip"))
    assert tracker is not None
    assert tracker.dim == 8
    assert tracker.memory is None
    assert type(tracker.composer).__name__ == "TextOnly"


def test_mistakes(world: list[object], supervised: Path, tmp_path: Path) -> None:
    folder = ["--model-folder", tmp_path]
    assert "Did you mean 'sac'" in refused("train_sb3", "--algo", "sax", *world, *folder)
    message = refused("train_sb3", "--algo", "sac", "--action", "candidate", *world, *folder)
    assert "sac takes the action query" in message
    assert "nothing to resume" in refused("train_sb3", *world, *folder, "--resume")
    assert "works on the CPU" in refused("train_sb3", *world, *folder, "--device", "cuda")
    message = refused("train_sb3", *world, *folder, "--test-turns", 7)
    assert "dialogs of up to 5 turns, got --test-turns 7" in message
    message = refused("train_sb3", *world, *folder, "--pretrained-model", tmp_path / "no.pt")
    assert "no checkpoint at" in message
    assert not list(tmp_path.iterdir())
    shutil.copy(supervised, tmp_path / "ppo-0.zip")
    assert "already holds ppo-0.zip" in refused("train_sb3", *world, *folder)
    message = refused("train_sb3", *world, *folder, "--resume")
    assert "is not a model that Stable-Baselines3 saved" in message


def test_sac_without_its_memory(world: list[object], tmp_path: Path) -> None:
    typed = ["--algo", "sac", *TRAIN, *world, "--model-folder", tmp_path]
    do("train_sb3", *typed, "--epochs", 1)
    (tmp_path / "sac-0-replay.npz").unlink()
    message = refused("train_sb3", *typed, "--epochs", 2, "--resume", at_once=False)
    assert "goes on from its memory" in message


def test_what_a_policy_begins_with_settles_its_defaults() -> None:
    """One from scratch explores widely, learns fast and looks at the turn alone."""
    scratch = method_of(Args())
    pretrained = method_of(Args(pretrained_model=Path("sl-0.pt")))
    given = method_of(Args(gamma=0.9, lr=1e-2, noise=0.3))
    told = [(one.gamma, one.learning_rate, one.noise) for one in (scratch, pretrained, given)]
    assert told == [(0.0, 1e-3, 1.0), (0.5, 3e-5, 0.5), (0.9, 1e-2, 0.3)]
    careful = method_of(Args(algo="sac", pretrained_model=Path("sl-0.pt")))
    assert careful.learning_rate == 3e-6
