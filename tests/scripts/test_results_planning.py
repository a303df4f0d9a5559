"""The table of agents that plan: its commands, what is made again, the rows."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from scripts import benchmark, results_dialogs, results_planning
from scripts.dialog_map import GALLERIES, SETTINGS, Cell
from scripts.results_planning import AGAINST, STRANGERS, THINKERS, Args, cells, compared, reproduce


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The benchmarks that would be run, after the agents of the map were trained."""
    commands: list[Any] = []

    def call(command: str) -> None:
        name, *words = shlex.split(command)
        if name == "benchmark":
            commands.append(tyro.cli(benchmark.Args, args=words))

    for module in (results_dialogs, results_planning):
        monkeypatch.setattr(module, "call", call)
    monkeypatch.setattr(results_dialogs, "look_for_room", lambda *_: None)
    return commands


def test_every_cell_is_played_with_its_own_agents(played: list[Any], tmp_path: Path) -> None:
    args = Args(Path("photos"), out=tmp_path, seeds=(2,))
    reproduce(args)
    thinking = [one for one in played if any("plan=" in agent for agent in one.agents)]
    assert len(thinking) == len(GALLERIES) * (len(SETTINGS) + len(STRANGERS))
    by_folder = {one.out: one for one in thinking}
    for cell in cells(args):
        one = by_folder[results_planning.folder(cell, args)]
        setting = "plain" if cell.setting in STRANGERS else cell.setting
        models = tmp_path / cell.gallery / setting / "seed-2"
        given = dict(agent.split("=") for agent in one.agents if "=" in agent)
        assert given == {
            "continued": f"{models}/continued/sl-0.pt",
            "once": f"once:{models}/continued/sl-0.pt",
            "awake": f"once:{models}/rl/rl-0.pt",
            "plan": f"plan:{models}/rl/rl-0.pt",
        }
        trained = next(other for other in played if other.out == models / "benchmark")
        for name in ("noise", "slate", "never_repeat", "patience", "turns", "seed", "env"):
            assert getattr(one, name) == getattr(trained, name), name
        assert one.plan_user == ("neural" if cell.setting in STRANGERS else None)
        assert (one.user == trained.user) == (cell.setting not in STRANGERS)


@pytest.mark.parametrize("thinker", ["continued", "decodes"])
def test_who_thinks_can_be_chosen_and_nothing_is_played_twice(
    thinker: str, played: list[Any], tmp_path: Path
) -> None:
    args = Args(out=tmp_path, seeds=(0,), only=("css-3d", "slate"), thinker=thinker)
    reproduce(args)
    models = tmp_path / "css-3d/slate/seed-0"
    assert f"plan=plan:{models}/{thinker}/sl-0.pt" in played[-1].agents
    made = [agent for one in played[:-1] for agent in one.agents]  # by the map itself
    assert f"{thinker}={models}/{thinker}/sl-0.pt" in made
    (models / f"planning-{thinker}").mkdir(parents=True)
    (models / f"planning-{thinker}/benchmark.json").touch()
    played.clear()
    reproduce(args)
    assert played == []


def test_who_weighs_imagines_somebody_whose_words_have_a_likelihood(
    played: list[Any], tmp_path: Path
) -> None:
    args = Args(Path("photos"), out=tmp_path, seeds=(0,), weigh=True)
    reproduce(args)
    weighing = [one for one in played if "weighing-rl" in str(one.out)]
    assert len(weighing) == len(GALLERIES) * (len(SETTINGS) + len(STRANGERS))
    assert all("neural" in (one.plan_user, one.user) for one in weighing)
    unknown = {one.user for one in weighing if one.plan_user}
    assert unknown == {"attribute", "striking"}


@pytest.mark.parametrize("thinker", ["rl", "decodes"])
def test_who_weighs_what_was_heard_does_all_of_it(
    thinker: str, played: list[Any], tmp_path: Path
) -> None:
    """The thinker itself, weighing, and looking ahead so, which it does not with slates; and,
    beside another, the strongest that supervised training comes to."""
    args = Args(
        out=tmp_path, seeds=(0,), only=("css-3d", "slate", "noisy"), weigh=True, thinker=thinker
    )
    reproduce(args)
    for setting in ("slate", "noisy"):
        models = tmp_path / "css-3d" / setting / "seed-0"
        (one,) = (one for one in played if one.out == models / f"weighing-{thinker}")
        given = dict(agent.split("=") for agent in one.agents if "=" in agent)
        own = models / THINKERS[thinker]
        wanted = {
            "continued": f"{models}/continued/sl-0.pt",
            "once": f"once:{own}",
            "awake": f"bayes:{own}",
        }
        rival = ["supervised"] if thinker == "rl" else []
        if rival:
            wanted["supervised"] = f"bayes:{models}/decodes/sl-0.pt"
        if setting == "noisy":
            wanted["plan"] = f"plan-bayes:{own}"
        assert given == wanted
        assert any(other.out == models / "beside-decodes" for other in played)
        cell = Cell("css-3d", setting, 0)
        alone = [("awake", name) for name in ("continued", "once", *rival)]
        ahead = [("plan", name) for name in (*AGAINST, *rival)]
        assert compared(cell, args) == (alone if setting == "slate" else [*ahead, *alone])


@pytest.mark.parametrize("thinker", ["rl", "decodes"])
def test_other_dialogs_can_be_played_once_more_by_those_who_weigh(
    thinker: str, played: list[Any], tmp_path: Path
) -> None:
    """By the same agents but for those who do not weigh; in rows of their own."""
    args = Args(out=tmp_path, seeds=(3,), only=("css-2d", "impatient"), weigh=True,
                thinker=thinker, again=7)  # fmt: skip
    reproduce(args)
    first, again = played[-2:]
    models = tmp_path / "css-2d/impatient/seed-3"
    assert (first.pairs, first.seed) == (400, results_dialogs.PLAYED)
    assert (again.pairs, again.seed) == (7, results_dialogs.AGAIN)
    assert again.out == models / f"weighing-{thinker}-again-7"
    slower = ("continued", "once")
    assert again.agents == tuple(one for one in first.agents if one.split("=")[0] not in slower)
    assert (again.patience, again.user, again.turns) == (2, first.user, first.turns)
    for out, hits in ((first.out, [0, 0]), (again.out, [1, 1, 1, 0])):
        tables: dict[str, Any] = {"gallery_size": 11, "target": np.arange(len(hits))}
        shown = np.column_stack([np.zeros(len(hits)), hits])
        missed = np.zeros_like(shown)
        for agent in (*first.agents, "oracle"):
            name = agent.split("=")[0]
            seen = shown if name == "plan" else missed
            tables |= {name: np.where(seen > 0, 0.0, 10.0), f"found:{name}": seen}
        out.mkdir(parents=True)
        np.savez_compressed(out / "ranks.npz", **tables)
        (out / "benchmark.json").touch()
    played.clear()
    rows = [row.strip("| ").split(" | ") for row in reproduce(args).splitlines()[2:]]
    assert not [one for one in played if "weighing" in str(one.out)]
    cell = Cell("css-2d", "impatient", 3)
    repeated = [row for row in rows if row[1].endswith(", 7 other dialogs")]
    pairs = [("plan", "awake"), ("plan", "supervised"), ("awake", "supervised")]
    assert [(row[3], row[4]) for row in repeated] == (pairs if thinker == "rl" else pairs[:1])
    assert len(rows) == len(compared(cell, args)) + len(repeated)
    assert [row[9].split()[0] for row in repeated] == ["+75.0", "+75.0", "+0.0"][: len(repeated)]
    with pytest.raises(ValueError, match="give --weigh, too"):
        reproduce(Args(out=tmp_path, again=7))


def test_the_table_by_hand(tmp_path: Path) -> None:
    """Two seeds of two dialogs: planning finds three of four, the others one, one and none."""
    found = {"plan": [[1, 1], [1, 0]], "continued": [[1, 0], [0, 0]], "once": [[0, 0], [1, 0]],
             "awake": [[0, 0], [0, 0]], "oracle": [[1, 1], [1, 1]]}  # fmt: skip
    args = Args(out=tmp_path, seeds=(0, 1), only=("css-2d", "slate"), table=True)
    for seed in args.seeds:
        folder = results_planning.folder(Cell("css-2d", "slate", seed), args)
        folder.mkdir(parents=True)
        tables: dict[str, Any] = {"gallery_size": 11, "target": np.array([4, 5])}
        for name, by_seed in found.items():
            shown = np.column_stack([np.zeros(2), by_seed[seed]])
            tables |= {name: np.where(shown > 0, 0.0, 10.0), f"found:{name}": shown}
        np.savez_compressed(folder / "ranks.npz", **tables)
    rows = [row.strip("| ").split(" | ") for row in reproduce(args).splitlines()[2:]]
    assert [row[3:5] for row in rows] == [["plan", name] for name in AGAINST]
    assert [row[9].split(" ")[0] for row in rows] == ["+50.0", "+50.0", "+75.0"]
    assert [row[9][-8:] for row in rows] == ["(2 of 2)", "(1 of 2)", "(2 of 2)"]
    assert [row[-2:] for row in rows] == [["25.0", "75.0"], ["25.0", "75.0"], ["0.0", "75.0"]]
    kept = json.loads((tmp_path / "planning-rl.json").read_text())
    assert set(kept) == {f"css-2d slate plan {name}" for name in AGAINST}


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown gallery, setting or stranger 'slates'"):
        reproduce(Args(out=tmp_path, only=("slates",)))
    with pytest.raises(ValueError, match="unknown thinker 'sl'"):
        reproduce(Args(out=tmp_path, thinker="sl"))
