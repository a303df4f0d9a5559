"""The table of dialogs about products: its commands, its rows by hand."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from scripts import benchmark, results_catalog_dialogs, train_captioner, train_sl
from scripts.results_catalog_dialogs import AGENTS, Args, reproduce, table

ARGS: dict[str, Any] = {"benchmark": benchmark.Args, "train_captioner": train_captioner.Args,
                        "train_sl": train_sl.Args}  # fmt: skip


def test_all_agents_have_the_same_budget_and_play_the_same_dialogs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[tuple[str, Any]] = []

    def call(command: str) -> None:
        name, *words = shlex.split(command)
        commands.append((name, tyro.cli(ARGS[name], args=words)))
        if name == "train_captioner":
            commands[-1][1].out.with_suffix(".json").write_text('{"lighter": 0.9}')

    monkeypatch.setattr(results_catalog_dialogs, "call", call)
    monkeypatch.setattr(results_catalog_dialogs, "table", lambda _: "table")
    text = reproduce(Args(Path("photos"), tmp_path, seeds=(2, 5)))
    assert text.startswith("table") and '"lighter": 0.9' in text
    trained = [one for name, one in commands if name == "train_sl"]
    assert len(trained) == 2 * len(AGENTS)
    assert {(one.composer, one.memory) for one in trained} == {
        ("tirg", "gru"), ("text_only", "gru"), ("tirg", "none"), ("text_only", "none"),
    }  # fmt: skip
    same = ("dialogs_per_epoch", "batch_size", "lr", "user", "dataset_path", "dataset")
    assert len({tuple(getattr(one, name) for name in same) for one in trained}) == 1
    played = [one for name, one in commands if name == "benchmark"]
    assert [one.seed for one in played] == [played[0].seed] * 2
    for one in played:
        models = [Path(agent.partition("=")[2]).parent for agent in one.agents[:-1]]
        assert set(models) <= {it.model_folder for it in trained} and len(set(models)) == 4

    commands.clear()
    for one in trained:
        one.model_folder.mkdir(parents=True)
        (one.model_folder / "sl-0.pt").touch()
    for one in played:
        one.out.mkdir(parents=True)
        (one.out / "benchmark.json").touch()
    (tmp_path / "captioner.pt").touch()
    reproduce(Args(Path("photos"), tmp_path, seeds=(2, 5)))
    assert not commands  # what is there is not made again


def test_the_table_by_hand(tmp_path: Path) -> None:
    """Two seeds of the same four dialogs, two turns."""
    found = {"full": [[0, 1, 2], [0, 1, 4]], "text-only": [[0, 1, 1], [0, 1, 1]],
             "no-memory": [[0, 0, 0], [0, 0, 0]],
             "text-only-memory": [[0, 1, 2], [0, 1, 2]],
             "oracle": [[0, 4, 4], [0, 4, 4]]}  # fmt: skip
    for seed in (0, 1):
        folder = tmp_path / f"seed-{seed}" / "benchmark"
        folder.mkdir(parents=True)
        tables: dict[str, Any] = {"gallery_size": 50, "target": np.arange(4)}
        for name, by_seed in found.items():
            tables[name] = np.stack(
                [np.where(np.arange(4) < count, 3.0, 20.0) for count in by_seed[seed]], axis=1
            )
            tables[f"found:{name}"] = np.zeros((4, 3))
        np.savez_compressed(folder / "ranks.npz", **tables)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(Args(out=tmp_path, seeds=(0, 1))).splitlines()
    ]
    assert lines[0] == ["recall@10", "turn 0", "turn 1", "turn 2"]
    assert lines[2] == ["full", "0.0", "25.0", "75.0"]
    assert lines[6] == ["oracle", "0.0", "100.0", "100.0"]
    less = {line[0]: line[3].split(" [")[0] for line in lines[7:10]}
    assert less == {"full less no-memory": "+75.0", "full less text-only": "+50.0",
                    "full less text-only-memory": "+25.0"}  # fmt: skip
    assert lines[10][:2] == ["full, gain over the turn before", "-"]
    assert lines[10][2].startswith("+25.0 [") and lines[10][3].startswith("+50.0 [")
    few = table(Args(out=tmp_path, seeds=(0, 1), only=("text-only",)))
    assert [line.split(" | ")[0] for line in few.splitlines()[2:]] == [
        "| full", "| text-only", "| oracle", "| full less text-only",
        "| full, gain over the turn before",
    ]  # fmt: skip


def test_unknown_agents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown agent 'text only'. Did you mean 'text-only'"):
        reproduce(Args(out=tmp_path, only=("text only",)))
