"""The tables of users and of ablations: their commands, what is made again, the rows."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from scripts import (
    benchmark,
    results_ablation,
    results_dialogs,
    results_users,
    train_captioner,
    train_rl,
    train_sb3,
    train_sl,
)

ARGS: dict[str, Any] = {
    "benchmark": benchmark.Args, "train_captioner": train_captioner.Args,
    "train_rl": train_rl.Args, "train_sb3": train_sb3.Args, "train_sl": train_sl.Args,
}  # fmt: skip


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What would be run; what it leaves is there afterwards."""
    commands: list[tuple[str, Any]] = []

    def call(command: str) -> None:
        name, *words = shlex.split(command)
        commands.append((name, tyro.cli(ARGS[name], args=words)))
        if name in ("train_sl", "train_rl", "train_sb3"):
            args = commands[-1][1]
            args.model_folder.mkdir(parents=True, exist_ok=True)
            left = f"{args.algo}-0.zip" if name == "train_sb3" else f"{name[6:]}-0.pt"
            (args.model_folder / left).touch()

    for module in (results_ablation, results_dialogs, results_users):
        monkeypatch.setattr(module, "call", call)
        monkeypatch.setattr(module, "table", lambda *_: "", raising=False)
        monkeypatch.setattr(module, "tables", lambda *_: "", raising=False)
    monkeypatch.setattr(results_dialogs, "look_for_room", lambda *_: None)
    return commands


def test_every_agent_meets_every_user(called: list[tuple[str, Any]], tmp_path: Path) -> None:
    args = results_users.Args(map_out=tmp_path / "map", out=tmp_path, seeds=(4,))
    results_users.reproduce(args)
    assert called[0][0] == "train_captioner" and called[0][1].share == 0.5
    played = [one for name, one in called if name == "benchmark" and one.pairs == args.pairs]
    assert len(played) == len(results_users.USERS)
    heard = {(one.user, one.noise, one.patience, one.captioner) for one in played}
    assert len(heard) == len(results_users.USERS)
    trained = {str(one.model_folder) for name, one in called if name in ("train_sl", "train_rl")}
    for one in played:
        assert one.agents == played[0].agents
        assert {str(Path(agent.partition("=")[2]).parent) for agent in one.agents} <= trained
        assert len(set(one.agents)) == 6


def test_the_tables_of_users_by_hand(tmp_path: Path) -> None:
    args = results_users.Args(out=tmp_path, seeds=(0, 1))
    for place, user in enumerate(results_users.USERS):
        for seed in args.seeds:
            folder = results_users.folder(args, seed, user)
            folder.mkdir(parents=True)
            names = [f"{one}-{kind}" for one in results_users.TRAINED
                     for kind in results_users.KINDS]  # fmt: skip
            turned = names[::-1] if place == 1 else names  # this user likes the worst best
            agents = {name: {"found": [0.0, rank / 10 + seed / 100]}
                      for rank, name in enumerate(turned)}  # fmt: skip
            (folder / "benchmark.json").write_text(json.dumps({"agents": agents}))
    lines = results_users.tables(args).splitlines()
    assert lines[3].startswith("| plain-rl | 10.5 ± 0.7 | 40.5 ± 0.7 |")
    assert "| neural | 1.00 | -1.00 | 1.00 |" in lines[-7]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1, 2, 3], [2, 4, 9], 1), ([1, 2, 3], [3, 2, 1], -1), ([1, 1, 2], [1, 2, 3], 3**0.5 / 2)],
)
def test_rank_correlation(one: list[float], other: list[float], expected: float) -> None:
    found = results_users.spearman(np.array(one), np.array(other))
    assert found == pytest.approx(expected)
    assert math.isnan(results_users.spearman(np.array(one), np.ones(3)))


def test_ablations_train_with_one_thing_changed(
    called: list[tuple[str, Any]], tmp_path: Path
) -> None:
    results_ablation.reproduce(results_ablation.Args(out=tmp_path, seeds=(5,)))
    trained = [one for name, one in called if name == "train_sl" and one.pretrained_model is None]
    assert len(trained) == 7
    first = vars(trained[0])
    for one in trained[1:]:
        changed = {key for key, value in vars(one).items() if value != first[key]}
        assert changed - {"model_folder"} <= {"memory", "loss", "agent"}
    assert sum(name == "benchmark" for name, _ in called) == len(results_ablation.LINES) + 1


def test_who_goes_on_from_the_default_hears_as_many_captions(
    called: list[tuple[str, Any]], tmp_path: Path
) -> None:
    results_ablation.reproduce(results_ablation.Args(out=tmp_path, seeds=(5,)))
    later = [one for _, one in called if getattr(one, "pretrained_model", None)]
    assert {one.pretrained_model for one in later} == {tmp_path / "seed-5/gru/sl-0.pt"}
    heard = {}
    for one in later:
        name = one.model_folder.name
        if isinstance(one, train_sb3.Args):
            heard[name] = one.turns_per_epoch * one.epochs
            assert name == f"{one.algo}-sl" and one.seed == 5
            continue
        assert one.epochs == 1 and one.seed == 1005
        each = one.train_turns  # a caption for each turn that is played
        if isinstance(one, train_rl.Args) and one.method == "self-critical":
            each *= 1 + one.samples
        elif isinstance(one, train_rl.Args):  # from each of K candidates to the end, or one turn
            ahead = [max(1, one.train_turns - 1 - turn) for turn in range(one.train_turns)]
            each += one.top_k * sum(ahead)
        heard[name] = one.dialogs_per_epoch * each
    assert len(heard) == 8
    for name, captions in heard.items():
        share = 0.1 if name == "sac-sl" else 1  # as its row says
        assert 0.97 * share < captions / 102_400 <= share, name
    [scratch] = [one for name, one in called if name == "train_sb3" and not one.pretrained_model]
    assert (scratch.algo, scratch.turns_per_epoch) == ("ppo", 102_400)


def test_the_table_of_ablations_by_hand(tmp_path: Path) -> None:
    args = results_ablation.Args(out=tmp_path, seeds=(0, 1))
    for seed, value in ((0, 0.1), (1, 0.3)):
        for name in ("random", "gru"):
            folder = tmp_path / f"seed-{seed}" / name / "benchmark"
            folder.mkdir(parents=True)
            metrics = {column: [0.0, value] for column in results_ablation.COLUMNS}
            told = {"agents": {name: metrics}, "repeat_share": {name: value / 2}}
            (folder / "benchmark.json").write_text(json.dumps(told))
    last = results_ablation.table(["gru"], args).splitlines()[-1].split(" | ")
    assert last[0].startswith("| TIRG, GRU") and last[1] == "2"
    assert last[2] == "20.0 ± 14.1" and last[-2:] == ["0.2 ± 0.1", "10.0 ± 7.1 |"]


def test_unknown_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown line 'grus'. Did you mean 'gru'"):
        results_ablation.reproduce(results_ablation.Args(out=tmp_path, only=("grus",)))
