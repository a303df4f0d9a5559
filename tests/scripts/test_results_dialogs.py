"""The map of policy improvement: its commands, what it makes again, its table."""

import json
import math
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from agents.look_ahead import Improvement
from scripts import benchmark, results_dialogs, train_rl, train_sl
from scripts.dialog_map import BESIDE, DEFAULTS, GALLERIES, SETTINGS, USERS, Cell
from scripts.results_dialogs import Args, cells, fill

ARGS: dict[str, Any] = {"train_sl": train_sl.Args, "train_rl": train_rl.Args,
                        "benchmark": benchmark.Args}  # fmt: skip


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be run."""
    commands: list[str] = []
    monkeypatch.setattr(results_dialogs, "call", commands.append)
    monkeypatch.setattr(results_dialogs, "look_for_room", lambda *_: None)
    return commands


def leave(folder: Path, found: dict[str, list[int]], first: int = 4) -> None:
    """Ranks of agents who found their targets (numbers from `first` on) at last, or did not."""
    folder.mkdir(parents=True)
    count = len(next(iter(found.values())))
    tables: dict[str, Any] = {"gallery_size": 11, "target": np.arange(first, first + count)}
    for name, hits in found.items():
        shown = np.column_stack([np.zeros(count), hits])
        tables |= {name: np.where(shown > 0, 0.0, 10.0), f"found:{name}": shown}
    np.savez_compressed(folder / "ranks.npz", **tables)


def test_every_command_is_valid_and_both_go_on_alike(called: list[str], tmp_path: Path) -> None:
    args = Args(out=tmp_path, catalog_path=Path("photos"), seeds=(3,), beside=tuple(BESIDE))
    wanted = list(cells(args))
    assert len(wanted) == len(GALLERIES) * len(SETTINGS)
    for cell in wanted:
        called.clear()
        fill(cell, args)
        typed = []
        for command in called:
            name, *words = shlex.split(command)
            typed.append((name, tyro.cli(ARGS[name], args=words)))
        names = [name for name, _ in typed]
        beside = ["train_sl", "benchmark"] * 3 + ["train_rl", "benchmark"] * 7
        beside += ["benchmark"] * (2 if "slate" in cell.setting else 0) + ["train_rl", "benchmark"]
        assert names == ["train_sl", "train_sl", "train_rl", "benchmark", *beside]
        start, continued, improved, played = (each for _, each in typed[:4])
        longer, hard, gallery, blind, *others, by_chance, defaults = (
            each for name, each in typed[4:] if name != "benchmark"
        )
        assert start.dialogs_per_epoch == 12_800 and start.pretrained_model is None
        assert (start.noise, start.user) == (improved.noise, improved.user)
        assert (start.slate, start.never_repeat, start.patience) == (None, False, None)
        for one, other, change in (
            (hard, continued, {"loss": "hard_negatives"}),
            (gallery, continued, {"loss": "gallery"}),
            (blind, improved, {"outcome": "target"}),
            (others[0], improved, {"rollouts": 4}),
            (others[1], improved, {"depth": 1}),
            (others[2], improved, {"pool": 32}),
            (others[3], improved, {"top_k": 8}),
            (others[4], improved, {"weight": 3.0}),
            (
                by_chance,
                improved,
                {
                    "method": "self-critical",
                    "weight": None,
                    "images_rest": False,
                    "outcome": "turns",
                },
            ),
        ):
            assert one == replace(other, model_folder=one.model_folder, **change)
        rules = {"mmr", "medoids"}
        more = {each.out.name: each for name, each in typed[4:] if name == "benchmark"}
        shown = [name for name in BESIDE if "slate" in cell.setting or name not in rules]
        assert list(more) == [f"beside-{name}" for name in shown]
        for name in shown:
            one = more[f"beside-{name}"]
            assert one.slate_by == ((name,) if name in rules else ("greedy",))
            unlike = {"agents": played.agents, "out": played.out, "slate_by": ("greedy",)}
            assert replace(one, **unlike) == played
            [agent] = one.agents
            trained = "continued" if name in rules else name
            assert agent.split("=")[0] == name and f"/{trained}/" in agent
        asked = {"pretrained_model", "train_turns", "noise", "slate", "never_repeat", "patience",
                 "user", "env", "dataset", "dataset_path", "seed", "dialogs_per_epoch", "epochs",
                 "test_pairs"}  # fmt: skip
        for name, value in vars(train_rl.Args()).items():  # by its own defaults but for these
            if name != "model_folder":
                like = vars(improved)[name] if name in asked else value
                assert getattr(defaults, name) == like, name
        assert train_rl.steps_of(defaults, {}) == train_rl.steps_of(improved, {})
        if cell.gallery != "catalog":  # where the map's RL is RL as it comes
            steps = train_rl.steps_of(improved, {})._asdict()
            typed = {"weight": Improvement().weight, "model_folder": improved.model_folder}
            assert replace(defaults, **steps, **typed) == improved
        for one in (improved, longer):
            for name in ("pretrained_model", "batch_size", "lr", "schedule", "seed", "noise",
                         "slate", "never_repeat", "patience", "user", "train_turns", "env",
                         "dataset_path"):  # fmt: skip
                assert getattr(one, name) == getattr(continued, name), name
        assert continued.dialogs_per_epoch == improved.dialogs_per_epoch == 2_048
        assert (played.noise, played.slate, played.turns, played.user, played.patience) == (
            improved.noise, improved.slate, improved.train_turns, improved.user,
            improved.patience,
        )  # fmt: skip
        heard = {5: 5 + 4 * (4 + 3 + 2 + 1 + 1), 10: 10 + 4 * (45 + 1)}[improved.train_turns]
        assert longer.dialogs_per_epoch == 2_048 * math.ceil(heard / improved.train_turns)
        assert improved.top_k == 4
        assert improved.images_rest == (cell.gallery == "catalog")
        Improvement(improved.improvement, improved.top_k, weight=improved.weight,
                    outcome=improved.outcome)  # fmt: skip


def test_users_and_ways_of_showing_are_crossed(called: list[str], tmp_path: Path) -> None:
    """Each of five users with each of three settings; a user's cells share their start."""
    users = {"": [], "noisy": ["--noise", "0.3"], "impatient": ["--patience", "2"],
             "striking": ["--user", "striking"], "attribute": ["--user", "attribute"]}  # fmt: skip
    shows = {"": [], "slate": ["--slate", "4"], "no-repeat": ["--never-repeat"]}
    for user, spoken in users.items():
        for show, shown in shows.items():
            name = "-".join(filter(None, (user, show))) or "plain"
            assert SETTINGS[name].flags.split() == spoken + shown
            called.clear()
            fill(Cell("css-3d", name, 2), Args(out=tmp_path))
            starts = {shlex.split(one)[-1] for one in called if "pretrained" not in one}
            begins = user if user in ("noisy", "striking", "attribute") else "plain"
            assert f"{tmp_path}/css-3d/{begins}/seed-2/sl" in starts


def test_what_is_there_is_not_made_again(called: list[str], tmp_path: Path) -> None:
    args, cell = Args(out=tmp_path), Cell("css-2d", "slate", 1)
    for path in ("css-2d/plain/seed-1/sl/sl-0.pt", "css-2d/slate/seed-1/rl/rl-0.pt"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    fill(cell, args)
    assert [shlex.split(command)[0] for command in called] == ["train_sl", "benchmark"]
    (cell.folder(tmp_path) / "benchmark").mkdir()
    (cell.folder(tmp_path) / "benchmark/benchmark.json").touch()
    (cell.folder(tmp_path) / "continued").mkdir(exist_ok=True)
    (cell.folder(tmp_path) / "continued/sl-0.pt").touch()
    called.clear()
    fill(cell, args)
    assert called == []


def test_the_table_by_hand(tmp_path: Path) -> None:
    """Two seeds of three dialogs: four of six found by RL, one of six before, all by the oracle."""
    found = {"rl": [[1, 1, 0], [1, 1, 0]], "continued": [[1, 0, 0], [0, 0, 0]],
             "sl": [[0, 0, 0], [0, 0, 0]], "oracle": [[1, 1, 1], [1, 1, 1]]}  # fmt: skip
    for seed in (0, 1):
        folder = Cell("css-3d", "noisy", seed).folder(tmp_path) / "benchmark"
        leave(folder, {name: by_seed[seed] for name, by_seed in found.items()})
        (folder.parent / "room.json").write_text(json.dumps({"found": [0, 0.6 + seed * 0.3]}))
    wanted = [Cell("css-3d", "noisy", seed) for seed in (0, 1)]
    text = results_dialogs.table(wanted, tmp_path).splitlines()
    continued = text[2].split(" | ")
    assert continued[:4] == ["| css-3d", "words wrong with p = 0.3", "2", "continued"]
    assert continued[4].startswith("+50.0 [") and continued[4].endswith("(2 of 2)")  # percentile
    assert continued[8].startswith("+50.0 [")  # found: 4 of 6 less 1 of 6
    assert continued[9].startswith("-")  # the best log rank falls
    assert continued[10:] == ["16.7", "+83.3 (60 %)", "+58.3 (86 %) |"]
    assert text[3].split(" | ")[10:] == ["0.0", "+100.0 (67 %)", "+75.0 (89 %) |"]
    assert len(text) == 4
    assert (tmp_path / "table.json").is_file()


def test_other_dialogs_can_be_played_once_more(called: list[str], tmp_path: Path) -> None:
    """By the same agents; rows of their own: two of four found by RL, one by its start."""
    args, cell = Args(out=tmp_path, again=4, seeds=(3,)), Cell("css-2d", "impatient", 3)
    fill(cell, args)
    first, again = (
        tyro.cli(benchmark.Args, args=shlex.split(one)[1:]) for one in called[-2:]
    )  # fmt: skip
    assert again == replace(first, pairs=4, seed=5, out=cell.folder(tmp_path) / "again-4")
    for kind, hits in {"benchmark": [0, 0, 0], "again-4": [1, 1, 0, 0]}.items():
        found = {"rl": hits, "sl": [*hits[:1], *(0 for _ in hits[1:])]}
        found |= {"continued": hits, "oracle": [1] * len(hits)}
        leave(cell.folder(tmp_path) / kind, found, 0)
    rows = [row.split(" | ") for row in results_dialogs.table([cell], tmp_path, 4).splitlines()[2:]]
    named = ["continued", "sl", "continued, 4 other dialogs", "sl, 4 other dialogs"]
    assert [row[3] for row in rows] == named
    assert [row[8].split()[0] for row in rows] == ["+0.0", "+0.0", "+0.0", "+25.0"]
    assert len(results_dialogs.table([cell], tmp_path).splitlines()) == 4


def test_an_agent_played_beside_is_compared_on_the_same_dialogs(tmp_path: Path) -> None:
    """Played for one seed, of which RL finds one in three more. Other dialogs are refused."""
    for seed in (0, 1):
        folder = Cell("css-3d", "plain", seed).folder(tmp_path)
        for kind, found in {
            "benchmark": {"rl": [1, 1, 0], "continued": [0, 0, 0], "sl": [0, 0, 0],
                          "oracle": [1, 1, 1]},
            "beside-candidates": {"candidates": [1, 0, 0]},
        }.items():  # fmt: skip
            (folder / "room.json").parent.mkdir(parents=True, exist_ok=True)
            (folder / "room.json").write_text(json.dumps({"found": [0, 0.9 + seed * 0.1]}))
            if kind == "benchmark" or seed == 1:
                leave(folder / kind, found)
    wanted = [Cell("css-3d", "plain", seed) for seed in (0, 1)]
    rows = [row.split(" | ") for row in results_dialogs.table(wanted, tmp_path).splitlines()[2:]]
    assert [row[2:4] for row in rows] == [["2", "continued"], ["2", "sl"], ["1", "candidates"]]
    assert rows[2][5].startswith("+33.3 [")
    assert rows[0][10:] == ["0.0", "+100.0 (67 %)", "+95.0 (70 %) |"]
    assert rows[2][10:] == ["33.3", "+66.7 (50 %)", "+66.7 (50 %) |"]  # of the seed that was played
    shutil.rmtree(folder / "beside-candidates")
    leave(folder / "beside-candidates", {"candidates": [1, 0, 0]}, 5)
    with pytest.raises(ValueError, match="expected the same dialogs in"):
        results_dialogs.table(wanted, tmp_path)


def test_training_by_the_defaults_is_held_against_its_start(tmp_path: Path) -> None:
    """Of three dialogs the start finds two, RL of the map none, RL by the defaults one."""
    folder = Cell("catalog", "slate", 4).folder(tmp_path)
    for kind, found in {
        "benchmark": {"rl": [0, 0, 0], "continued": [0, 0, 1], "sl": [1, 1, 0],
                      "oracle": [1, 1, 1]},
        "beside-defaults": {"defaults": [1, 0, 0]},
        "beside-mmr": {"mmr": [1, 1, 1]},
    }.items():  # fmt: skip
        leave(folder / kind, found)
    cell = Cell("catalog", "slate", 4)
    rows = [row.split(" | ") for row in results_dialogs.table([cell], tmp_path).splitlines()[2:]]
    told = {row[3]: (row[8].split()[0], row[10]) for row in rows}
    assert told == {
        "continued": ("-33.3", "33.3"), "sl": ("-66.7", "66.7"), "mmr": ("-100.0", "100.0"),
        DEFAULTS: ("-33.3", "66.7"),
    }  # fmt: skip


def test_the_map_at_a_glance(tmp_path: Path) -> None:
    """Users by ways of showing; a row for each rival who was played, a dash where none was."""
    folder = Cell("css-2d", "noisy-slate", 0).folder(tmp_path)
    leave(folder / "benchmark", {"rl": [1, 1, 1, 0], "continued": [1, 0, 0, 0], "sl": [1] * 4,
                                 "oracle": [1] * 4})  # fmt: skip
    leave(folder / "beside-decodes", {"decodes": [1, 1, 0, 0]})
    args = Args(out=tmp_path, only=("css-2d", "noisy-slate"), seeds=(0,), table=True)
    short, _, whole = results_dialogs.reproduce(args).partition("\n\n")
    assert whole == results_dialogs.table([Cell("css-2d", "noisy-slate", 0)], tmp_path)
    head, _, *rows = [row.strip("| ").split(" | ") for row in short.splitlines()]
    assert head == ["gallery", "user", "as many", "one image", "slates of 4", "never repeats"]
    gains = {"dialogs": "+50.0 [", "captions": "+25.0 ["}
    assert len(rows) == len(gains)
    for row, (unit, gain) in zip(rows, gains.items(), strict=True):
        assert row[:4] == ["css-2d", "words wrong with p = 0.3", unit, "-"]
        assert row[4].startswith(gain) and row[4].endswith("(1 of 1)") and row[5] == "-"


def test_the_map_at_a_glance_names_every_user(tmp_path: Path) -> None:
    for user in USERS:
        leave(Cell("catalog", user, 0).folder(tmp_path) / "benchmark",
              {"rl": [1], "continued": [0], "sl": [0], "oracle": [1]})  # fmt: skip
    results_dialogs.table([Cell("catalog", user, 0) for user in USERS], tmp_path)
    rows = results_dialogs.glance(json.loads((tmp_path / "table.json").read_text())).splitlines()
    told = ["neural user", *(SETTINGS[user].what for user in USERS[1:])]
    assert [row.split(" | ")[1] for row in rows[2:]] == told
    assert all(row.split(" | ")[3].startswith("+100.0 [") for row in rows[2:])


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown agent 'candidate'. Did you mean 'candidates'"):
        results_dialogs.reproduce(Args(out=tmp_path, beside=("candidate",)))
    with pytest.raises(ValueError, match="unknown gallery or setting 'noise'. Did you mean 'noi"):
        results_dialogs.reproduce(Args(out=tmp_path, only=("noise",)))
