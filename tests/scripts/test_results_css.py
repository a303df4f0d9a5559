"""`results_css`: which commands it runs, which it need not, and the table it makes of them."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import results_css, train_composer
from scripts.results_css import CUTS, LINES, Args, Line, difference, figures, reproduce, tables

PLAIN = Line("small-none", "none", "--dataset css3d", seeds=(0, 1), is_small=True)
OTHER = replace(PLAIN, name="small-ga", what="GA")


def finished(out: Path, name: str, seed: int, recall: float, time: str = "10-00-00") -> None:
    """A run's folder, as `train_composer` leaves it."""
    folder = out / f"2026-01-02_{time}{name}-seed{seed}"
    folder.mkdir(parents=True)
    report = {"rows": [{"recall": dict.fromkeys(CUTS, recall)}]}
    (folder / "evaluation.json").write_text(json.dumps({"report": report}))
    (folder / "metrics.json").write_text(json.dumps([{"minutes": 1.0}, {"minutes": 2.5}]))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be run."""
    commands: list[str] = []
    monkeypatch.setattr(results_css, "call", commands.append)
    return commands


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_every_line_is_a_valid_command(line: Line, tmp_path: Path) -> None:
    typed = shlex.split(line.command(tmp_path / "data", tmp_path / "out", 3))
    assert typed[0] == "train_composer"
    args = train_composer.read(typed[1:])
    train_composer.training_of(args)
    assert args.comment == f"{line.name}-seed3"
    assert args.seed == 3


def test_only_what_is_missing_is_trained(called: list[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    finished(tmp_path / "out", "tirg-3d", 0, 0.9)
    args = Args(
        tmp_path / "data", tmp_path / "small", tmp_path / "out", ("concat-3d", "tirg-3d"), (0, 1)
    )
    reproduce(args)
    concat, tirg = (next(line for line in LINES if line.name == name) for name in args.only)
    expected = [(concat, 0), (concat, 1), (tirg, 1)]
    assert called == [
        line.command(tmp_path / "data", tmp_path / "out", seed) for line, seed in expected
    ]


def test_data_is_made_once_and_small_for_a_quick_look(called: list[str], tmp_path: Path) -> None:
    results_css.train(LINES[0], Args(tmp_path / "a", tmp_path / "b", tmp_path, quick=True), 0)
    assert called[0].startswith(f"make_css --out {tmp_path / 'a'} --train-scenes 12 ")
    assert called[1].endswith(results_css.QUICK)
    called.clear()
    results_css.train(LINES[0], Args(tmp_path / "a", tmp_path / "b", tmp_path), 0)
    assert called[0] == f"make_css --out {tmp_path / 'a'} --published"
    called.clear()
    (tmp_path / "b").mkdir()
    results_css.train(PLAIN, Args(tmp_path / "a", tmp_path / "b", tmp_path), 0)
    assert called == [PLAIN.command(tmp_path / "b", tmp_path, 0)]


def test_a_quick_look_leaves_the_real_runs_alone(called: list[str], tmp_path: Path) -> None:
    data, small, out = (tmp_path / name for name in ("data", "small", "out"))
    finished(out, "tirg-3d", 0, 0.9)
    reproduce(Args(data, small, out, ("tirg-3d",), quick=True))
    made, trained = called
    assert shlex.split(made)[2] == f"{data}-quick"
    typed = shlex.split(trained)
    assert typed[typed.index("--dataset_path") + 1] == f"{data}-quick"
    assert typed[typed.index("--log_dir") + 1] == f"{out}-quick"


def test_a_line_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="concat-3d"):
        reproduce(Args(tmp_path, tmp_path, tmp_path, ("concat3d",)))


def test_the_newest_finished_run_counts(tmp_path: Path) -> None:
    assert figures(tmp_path, "tirg", 0) is None
    finished(tmp_path, "small-tirg", 0, 0.1)  # another line whose name ends alike
    assert figures(tmp_path, "tirg", 0) is None
    finished(tmp_path, "tirg", 0, 0.2)
    finished(tmp_path, "tirg", 0, 0.3, "11-00-00")
    (tmp_path / "2026-01-02_12-00-00tirg-seed0").mkdir()  # stopped before its evaluation
    assert figures(tmp_path, "tirg", 0) == {**dict.fromkeys(CUTS, 30.0), "minutes": 2.5}


def test_means_spreads_and_paired_differences(tmp_path: Path) -> None:
    for seed, (plain, other) in enumerate([(0.50, 0.53), (0.60, 0.61)]):
        finished(tmp_path, PLAIN.name, seed, plain)
        finished(tmp_path, OTHER.name, seed, other)
    made = tables([PLAIN, OTHER], tmp_path).splitlines()
    # by hand: deviations of +-5 and +-4 points, one degree of freedom: 5 sqrt 2 and 4 sqrt 2
    assert made[2] == "| none | 2 |" + " 55.0 ± 7.1 |" * 5 + " - | 2.5 |"
    assert made[3] == "| GA | 2 |" + " 57.0 ± 5.7 |" * 5 + " - | 2.5 |"
    assert made[4] == "GA - none: R@1 +2.0 (by seed +3.0, +1.0)"
    assert "no seed in common" in difference(OTHER, replace(PLAIN, name="x"), tmp_path)


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(RuntimeError, match="evaluate_composer failed"):
        results_css.call("evaluate_composer --checkpoint /nowhere/at/all.pt")
