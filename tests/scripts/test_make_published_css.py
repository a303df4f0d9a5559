"""`make_css --published`: splits of the published size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from retrieval.rendering import build as building
from scripts.make_css import main


def made(monkeypatch: pytest.MonkeyPatch, *typed: str) -> building.BuildSpec:
    """What the command would make."""
    specs: list[building.BuildSpec] = []
    monkeypatch.setattr(building, "build", lambda _root, spec: specs.append(spec))
    monkeypatch.setattr(sys, "argv", ["make_css", "--out", "/nowhere", *typed])
    main()
    return specs[0]


def test_the_published_size(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = made(monkeypatch, "--published")
    for bases, edits in (spec.train, spec.test):
        assert 18_900 <= bases * (1 + edits) <= 19_100  # pictures; published 19,012
        assert 17_900 <= bases * edits <= 18_100  # queries; published about 18,000


def test_the_rest_is_as_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = made(monkeypatch, "--published", "--seed", "7", "--size", "128")
    assert (spec.seed, spec.size) == (7, 128)
    assert made(monkeypatch) == building.BuildSpec()


def test_a_small_split_of_that_form(tmp_path: Path) -> None:
    """Every query of a family starts from its base scene."""
    from retrieval.datasets.css import load_composed

    spec = building.BuildSpec(train=(3, 18), test=(2, 18), train_captions=5, test_pairs=5)
    building.build(tmp_path / "css", spec, workers=1)
    split = load_composed(tmp_path / "css", "test")
    assert (len(split), len(split.queries)) == (2 * 19, 2 * 18)
    assert {query.reference for query in split.queries} == {0, 19}
    assert len(set(split.labels)) == len(split)
