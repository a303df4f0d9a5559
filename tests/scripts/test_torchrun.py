"""The training commands under `torchrun`, against the same commands with the doubled batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.command_line import Outcome, do
from tests.distributed_cases import no_dropout

WORKER = Path(__file__).parents[1] / "torchrun_worker.py"
ROOT = Path(__file__).parents[2]
Command = Sequence[object]


def torchrun(commands: Sequence[Command], folder: Path, processes: int = 2) -> list[list[Outcome]]:
    """What each command came to, for every process."""
    folder.mkdir()
    (folder / "commands.json").write_text(json.dumps([[str(word) for word in c] for c in commands]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         f"--nproc-per-node={processes}", WORKER, folder / "commands.json", folder],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    told = [json.loads((folder / f"{number}.json").read_text()) for number in range(processes)]
    return [[Outcome(*outcome) for outcome in one] for one in told]


def trainings(world: Path, runs: Path, batch: int, name: str) -> list[list[object]]:
    """One command of each kind, whose batches are `batch` in all processes together.

    Policy improvement starts from the very weights that two processes learned: those of one are
    the same within what Adam makes of rounding, which is more than its own loss may differ.
    """
    data = ["--data-path", world, "--user", "attribute", "--noise", 0.2]
    watched = ["--test-pairs", 12, "--log-interval", 2, "--epochs", 1]
    return [
        ["train_captioner", "--data-path", world, "--out", runs / f"{name}.pt", "--epochs", 1,
         "--batch-size", 2 * batch, "--hidden-size", 16],
        ["train_sl", *data, *watched, "--dialogs-per-epoch", 64, "--batch-size", batch,
         "--warm-up-epochs", 1, "--model-folder", runs / name],
        ["train_rl", *data, *watched, "--dialogs-per-epoch", 32, "--batch-size", batch,
         "--pretrained-model", runs / "two" / "sl-0.pt", "--model-folder", runs / name],
        ["train_composer", "--dataset", "css3d", "--dataset_path", world, "--recipe", "fast",
         "--embed_dim", 16, "--batch_size", batch, "--epochs", 1, "--schedule", "constant",
         "--optimizer", "sgd", "--learning_rate", 0.01,
         "--train_queries", 32, "--together", 1, "--log_dir", runs / f"{name}-composer"],
    ]  # fmt: skip


def resumed(command: list[object], runs: Path, name: str) -> list[object]:
    """The command that goes on to a second epoch."""
    if command[0] == "train_composer":
        (folder,) = (runs / f"{name}-composer").iterdir()
        return ["train_composer", "--resume", folder, "--epochs", 2]
    at = command.index("--epochs") + 1
    return [*command[:at], 2, *command[at + 1 :], "--resume"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> tuple[Path, Any]:
    """The trainings by two processes, and by one with the doubled batch; both go on as one."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DIALOG_RETRIEVAL_CACHE", str(folder / "cache"))
        told = torchrun(trainings(tiny_root, folder, 8, "two"), folder / "told")
        assert [outcome.code for one in told for outcome in one] == 8 * [0], told
        plain = trainings(tiny_root, folder, 16, "one")
        with no_dropout():
            for command in plain:
                do(*command)
            # on another number of processes, one, with the same number of rows in all
            doubled = trainings(tiny_root, folder, 16, "two")
            for name, commands in (("one", plain), ("two", doubled)):
                for command in (commands[1], commands[3]):
                    do(*resumed(command, folder, name))
    return folder, told


def composer(runs: Path, name: str) -> Path:
    (folder,) = (runs / f"{name}-composer").iterdir()
    return folder


def test_two_processes_report_what_one_does(runs: tuple[Path, Any]) -> None:
    folder, _ = runs
    for part in ("sl", "rl"):
        one, two = (epochs(folder / name / f"{part}-metrics.json") for name in ("one", "two"))
        assert two[0]["train_loss"] == pytest.approx(one[0]["train_loss"], rel=1e-5)
        np.testing.assert_allclose(two[0]["percentile"], one[0]["percentile"], atol=0.02)
    one, two = (epochs(composer(folder, name) / "metrics.json") for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [2, 4]


def epochs(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_two_processes_learn_the_weights_of_one(runs: tuple[Path, Any]) -> None:
    """Within what Adam makes of rounding; a bias on keys of attention has no gradient but that."""
    folder, _ = runs
    for path in ("{}.pt", "{}/sl-0.pt", "{}/rl-0.pt"):
        one, two = (weights(folder / path.format(name)) for name in ("one", "two"))
        assert one.keys() == two.keys()
        for key in one.keys() - {"looks.0.key.bias", "looks.1.key.bias"}:
            np.testing.assert_allclose(two[key], one[key], atol=1e-3, err_msg=f"{path} {key}")


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["weights"]
    return found


def test_a_run_goes_on_with_another_number_of_processes(runs: tuple[Path, Any]) -> None:
    """The second epoch, by one process, of what two began: that of one that did both."""
    folder, _ = runs
    one, two = (epochs(folder / name / "sl-metrics.json") for name in ("one", "two"))
    assert [row["epoch"] for row in one] == [row["epoch"] for row in two] == [0, 1]
    assert two[1]["train_loss"] == pytest.approx(one[1]["train_loss"], rel=1e-4)
    one, two = (weights(composer(folder, name) / "last.pt") for name in ("one", "two"))
    for key in one:
        np.testing.assert_allclose(two[key], one[key], rtol=1e-3, atol=2e-3, err_msg=key)


def test_one_process_writes_and_speaks(runs: tuple[Path, Any]) -> None:
    folder, told = runs
    for outcome in told[0]:
        assert outcome.out
    assert "sl epoch 0" in told[0][1].err and "warm-up" in told[0][1].err
    assert [(outcome.out, outcome.err) for outcome in told[1]] == 4 * [("", "")]
    for name in ("one", "two"):
        events = sorted((folder / name / "logs" / "rl").iterdir())
        assert len(events) == 1
    scalars = [EventAccumulator(str(folder / name / "logs" / "rl")) for name in ("one", "two")]
    points = [log.Reload().Scalars("train/first_candidate_wins") for log in scalars]
    assert [(p.step, p.value) for p in points[0]] == [
        (p.step, pytest.approx(p.value, abs=0.03)) for p in points[1]
    ]
    assert not list(composer(folder, "two").glob(".*"))


def test_the_checkpoint_says_how_large_the_batch_was(runs: tuple[Path, Any]) -> None:
    folder, _ = runs
    content = torch.load(composer(folder, "two") / "last.pt", weights_only=True)
    assert content["arguments"]["batch_size"] == 16


def test_a_plain_command_joins_nothing(
    runs: tuple[Path, Any], tiny_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def joins(*_: object, **__: object) -> None:
        raise AssertionError("a process group was made")

    monkeypatch.setattr(torch.distributed, "init_process_group", joins)
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun --nproc-per-node=1
    command = trainings(tiny_root, tmp_path, 16, "plain")[0]
    do(*command)
