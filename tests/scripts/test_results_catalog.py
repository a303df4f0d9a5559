"""`results_catalog`: one recipe for all, what it need not run again, and the table it makes."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from retrieval.datasets import catalog
from scripts import results_catalog, train_composer
from scripts.results_catalog import (
    BASELINES,
    LINES,
    MODELS,
    QUICK,
    Args,
    gain,
    listener,
    reproduce,
    tables,
)
from scripts.results_css import CUTS, Line
from tests.tiny_catalog import make_shop


def finished(out: Path, name: str, seed: int, recall: float) -> None:
    """A run's folder, as `train_composer` leaves it."""
    folder = out / f"2026-01-02_10-00-00{name}-seed{seed}"
    folder.mkdir(parents=True)
    report = {"rows": [{"recall": dict.fromkeys(CUTS, recall)}]}
    (folder / "evaluation.json").write_text(json.dumps({"report": report}))
    (folder / "metrics.json").write_text(json.dumps([{"minutes": 2.5}]))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be run; the catalogue has its features."""
    commands: list[str] = []
    monkeypatch.setattr(results_catalog, "call", commands.append)
    monkeypatch.setattr("retrieval.datasets.catalog.open_catalogue", lambda root: root)
    monkeypatch.setattr("retrieval.datasets.catalog.is_extracted", lambda *_: True)
    monkeypatch.setattr(results_catalog, "listener", lambda root: {})
    return commands


def test_all_models_have_one_recipe_and_one_budget() -> None:
    """Typed as they are, the commands differ in model, comment and seed alone."""
    assert set(BASELINES) < set(MODELS)
    read = [
        asdict(train_composer.read(shlex.split(line.command(Path("a"), Path("b"), 7))[1:]))
        for line in LINES
    ]
    for args, name in zip(read, MODELS, strict=True):
        assert (args.pop("model"), args.pop("comment")) == (name, f"{name}-seed7")
        assert args == read[0]
    assert (read[0]["image_encoder"], read[0]["seed"]) == ("features", 7)


def test_what_is_there_is_not_trained_again(called: list[str], tmp_path: Path) -> None:
    finished(tmp_path / "out", "tirg", 0, 0.9)
    reproduce(Args(tmp_path, tmp_path / "out", ("concat", "tirg"), (0, 1)))
    concat, tirg = (
        next(line for line in LINES if line.name == name) for name in ("concat", "tirg")
    )
    assert called == [
        line.command(tmp_path, tmp_path / "out", seed)
        for line, seed in ((concat, 0), (concat, 1), (tirg, 1))
    ]


def test_a_quick_look_stays_away_from_the_figures(called: list[str], tmp_path: Path) -> None:
    finished(tmp_path, "tirg", 0, 0.9)
    reproduce(Args(tmp_path, tmp_path, ("tirg",), (0,), quick=True))
    (command,) = called
    assert f"--log_dir {tmp_path / 'quick'} " in command
    args = train_composer.read(shlex.split(command)[1:])
    assert (args.num_iters, args.embed_dim) == (4, 16)
    assert command.endswith(QUICK)


def test_features_are_extracted_once(
    called: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.datasets.catalog.is_extracted", lambda *_: False)
    results_catalog.prepare(tmp_path)
    (command,) = called
    assert command.startswith(f"extract_features --dataset catalog --dataset-path {tmp_path} ")
    assert command.endswith(f"--encoder {results_catalog.ENCODER}")
    assert all(f"--features {results_catalog.ENCODER} " in line.flags for line in LINES)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'imgonly'"):
        reproduce(Args(tmp_path, tmp_path, ("imageonly",)))


def test_means_spreads_and_gains_by_seed(tmp_path: Path) -> None:
    for seed, (image, text, tirg) in enumerate([(0.1, 0.20, 0.50), (0.1, 0.30, 0.56)]):
        finished(tmp_path, "imgonly", seed, image)
        finished(tmp_path, "textonly", seed, text)
        finished(tmp_path, "tirg", seed, tirg)
    lines = [Line("textonly", "text only", ""), Line("tirg", "TIRG", ""), Line("x", "none", "")]
    _, _, text_row, tirg_row = tables(lines, tmp_path, (0, 1, 2)).splitlines()
    # by hand: 20 and 30 are 25 +- 5 sqrt 2; gains over the text are 30 and 26, over images 40, 46
    assert text_row == "| text only |" + " 25.0 ± 7.1 |" * 5 + "  |  | 2.5 | 2 |"
    expected = " +43.0 (least +40.0) | +28.0 (least +26.0) | 2.5 | 2 |"
    assert tirg_row == "| TIRG |" + " 53.0 ± 4.2 |" * 5 + expected
    assert gain("tirg", "textonly", tmp_path, (2,)) == "no seed in common"


def test_who_knows_everything_and_picks_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By loops: each fitting product is equally likely at each place of the ranking."""
    monkeypatch.setenv("DIALOG_RETRIEVAL_CACHE", str(tmp_path / "cache"))
    make_shop(tmp_path / "shop", 40)
    catalogue = catalog.open_catalogue(tmp_path / "shop")
    codes = catalogue.codes[catalogue.part("test")]
    chances = []
    for reference, caption, target in catalog.relative_triplets(catalogue, "test"):
        others = [row for row in range(len(codes)) if row != reference]
        is_true = catalogue.language.reader.is_faithful
        fitting = [row for row in others if is_true(caption, codes[reference], codes[row])]
        assert target in fitting
        chances.append(sum(1 / len(fitting) for place in range(len(fitting)) if place < 5))
    found = listener(tmp_path / "shop")
    assert list(found) == list(CUTS)
    assert 5 < found["R@5"] == pytest.approx(100 * sum(chances) / len(chances))
    assert found["R@1"] < found["R@5"] < 100
