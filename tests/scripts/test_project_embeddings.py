"""`project_embeddings`: triplets of a composer and dialogs of an agent."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.evaluation import evaluation_pairs, run_dialogs
from agents.loading import load_agent
from envs.factory import make_dialog
from tests.command_line import do, refused


def metadata(folder: Path) -> list[dict[str, str]]:
    with open(folder / "00000/embeddings/metadata.tsv") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_triplets_of_a_composer(tiny_root: Path, tmp_path: Path) -> None:
    do("train_composer", "--dataset", "css3d", "--dataset_path", tiny_root, "--recipe", "fast",
       "--embed_dim", 16, "--batch_size", 8, "--epochs", 1, "--validation_share", 0.2,
       "--log_dir", tmp_path / "runs")  # fmt: skip
    (folder,) = (tmp_path / "runs").iterdir()
    told = do("project_embeddings", "--checkpoint", folder, "--count", 5, "--gallery", 20,
              "--methods", "pca", "--out", tmp_path / "points")  # fmt: skip
    assert "25 points: tensorboard --logdir" in told.out
    rows = metadata(tmp_path / "points")
    assert [row["role"] for row in rows].count("query") == 5
    assert all(bool(row["caption"]) == (row["role"] == "query") for row in rows)
    assert (tmp_path / "points/embeddings.png").is_file()


@pytest.fixture
def agent(tiny_root: Path, tmp_path: Path) -> Path:
    """A checkpoint of an agent that has learned nothing."""
    log = tmp_path / "models"
    do("train_sl", "--data-path", tiny_root, "--user", "attribute", "--epochs", 1,
       "--dialogs-per-epoch", 8, "--batch-size", 4, "--train-turns", 3, "--test-turns", 3,
       "--model-folder", log)  # fmt: skip
    return log / "sl-0.pt"


def test_the_path_of_a_dialog(tiny_root: Path, tmp_path: Path, agent: Path) -> None:
    do("project_embeddings", "--agent", agent, "--data-path", tiny_root, "--user", "attribute",
       "--count", 3, "--turns", 3, "--gallery", 10, "--methods", "pca", "--out", tmp_path / "p",
    )  # fmt: skip
    rows = metadata(tmp_path / "p")
    queries = [row for row in rows if row["role"] == "query"]
    with open(tmp_path / "p/00000/embeddings/tensors.tsv") as file:
        vectors = np.array([[float(it) for it in row] for row in csv.reader(file, delimiter="\t")])

    # the same dialogs, played without a recorder
    dialog = make_dialog(root=tiny_root, split="test", user="attribute", max_turns=3)
    tracker = load_agent(str(agent), dialog)
    size = len(dialog.gallery)
    target, reference = evaluation_pairs(size, 3, 0)
    played = run_dialogs(dialog, tracker, target, reference, 0, batch_size=3)
    told = [(row["name"], row["caption"], row["group"], row["turn"]) for row in queries]
    assert told == [
        (dialog.gallery.names[played.shown[group, turn]], played.captions[group][turn],
         str(group), str(turn + 1))
        for group in range(3) for turn in range(3)
    ]  # fmt: skip
    with torch.inference_mode():
        embeddings = tracker.index(dialog.gallery.features).embeddings
    row_of = {name: row for row, name in enumerate(dialog.gallery.names)}
    for row, vector in zip(rows, vectors, strict=True):
        if row["role"] != "query":
            assert vector == pytest.approx(embeddings[row_of[row["name"]]], abs=1e-5)
    targets = {row["name"] for row in rows if row["role"] == "target"}
    assert targets == {dialog.gallery.names[row] for row in target}
    # every query finds the image that was shown next
    scores = vectors[[at for at, row in enumerate(rows) if row["role"] == "query"]] @ embeddings.T
    shown = played.shown[:, 1:].reshape(-1)
    assert scores[np.arange(9), shown] == pytest.approx(scores.max(axis=1), abs=1e-5)


def test_mistakes_are_named(tiny_root: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path)
    assert "expected one of --checkpoint" in refused("project_embeddings", *out)
    told = refused("project_embeddings", "--agent", "oracle", "--methods", "umap", *out)
    assert "unknown way to flatten 'umap'" in told
    told = refused("project_embeddings", "--agent", "oracle", "--data-path", tiny_root, "--user",
                   "attribute", *out)  # fmt: skip
    assert "has no embedding space" in told
