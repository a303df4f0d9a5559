"""The tiny world: a small CSS data set made for real, with features, users and dialogs."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; threads would fight
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import pytest

from envs.dialog import Dialog
from envs.factory import make_dialog
from retrieval.gallery import Gallery
from retrieval.rendering.build import BuildSpec, build

TINY = BuildSpec(train=(16, 3), test=(8, 3), train_captions=300, test_pairs=40)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSS folder of 64 train and 32 test pictures with features of a briefly trained encoder."""
    from retrieval.encoders.training import extract_css

    root = tmp_path_factory.mktemp("data") / "css"
    build(root, TINY, workers=1)
    extract_css(root, "3d", epochs=1)
    return root


@pytest.fixture(scope="session")
def tiny_captioner(tiny_root: Path) -> Path:
    """A captioner trained for a moment, where commands look for it."""
    from envs.factory import captioner_path
    from user_simulator.quality import train_and_report

    path = captioner_path(tiny_root)
    train_and_report(tiny_root, "3d", "scene-cnn", path, epochs=2, batch_size=32, hidden_size=32)
    return path


@pytest.fixture(scope="session")
def tiny_dialog(tiny_root: Path) -> Dialog:
    """Dialogs of 5 turns on the 64 train pictures with the attribute user."""
    return make_dialog(root=tiny_root)


@pytest.fixture(scope="session")
def tiny_gallery(tiny_dialog: Dialog) -> Gallery:
    """The 64 train pictures."""
    return tiny_dialog.gallery
