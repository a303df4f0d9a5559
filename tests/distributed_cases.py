"""Short trainings without dropout: by one process, by several as one, on another device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from agents.look_ahead import Improvement
from agents.policy_improvement import improve_epoch, target_copy
from agents.self_critical import SelfCritical, self_critical_epoch
from agents.supervised import Step, Training, pretrain_epoch, warm_up
from agents.tracker import AGENTS, DialogTracker
from envs.dialog import Dialog
from envs.factory import load_gallery, make_dialog
from retrieval import training as composed
from retrieval.datasets.base import ComposedSplit
from retrieval.devices import CPU, settle, to_host
from retrieval.gallery import Gallery, Triplet
from retrieval.models import ModelSpec, build_model
from retrieval.regularizers import GradientAugmentation
from user_simulator import NoisyUser
from user_simulator.training import fit_captioner

Outcome = dict[str, np.ndarray]
BATCH, TURNS = 8, 2
COLOURS = ("red", "green", "blue")


@contextmanager
def no_dropout() -> Iterator[None]:
    """Dropout keeps everything: its chances are each process's own."""
    forward = nn.Dropout.forward
    nn.Dropout.forward = lambda self, x: x  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Dropout.forward = forward  # type: ignore[method-assign]


def world(root: Path) -> Dialog:
    """Dialogs over one-hot scenes with a user who draws: words, slips and what about."""
    dialog = make_dialog(root=root, encoder="scene")
    return dialog.with_(user=NoisyUser(dialog.user, 0.3, len(dialog.gallery)))


def tracker(dialog: Dialog, kind: str = "tracker", device: torch.device = CPU) -> DialogTracker:
    torch.manual_seed(5)
    agent = AGENTS[kind](dialog.vocabulary, dialog.gallery.features.shape[1], 16)
    return settle(agent, device)


def outcome(model: nn.Module, steps: list[Step] | None = None, **numbers: object) -> Outcome:
    """Weights, statistics, and what was reported."""
    found = {f"weights/{key}": to_host(value).copy() for key, value in model.state_dict().items()}
    if steps is not None:
        found["ranks"] = np.concatenate([step.ranks for step in steps])
        found["losses"] = np.array([step.loss for step in steps])
        for part in steps[0].parts:
            found[part] = np.array([step.parts[part] for step in steps])
    return found | {key: np.asarray(value) for key, value in numbers.items()}


def supervised(
    root: Path, folder: Path, loss: str, kind: str = "tracker", device: torch.device = CPU
) -> Outcome:
    dialog = world(root)
    agent = tracker(dialog, kind, device)
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.1)
    how = Training(BATCH, 3 * BATCH, TURNS, loss, 0.5, seed=3)
    return outcome(agent, list(pretrain_epoch(agent, dialog, optimizer, 0, how)))


def warmed_up(root: Path, folder: Path, loss: str, device: torch.device = CPU) -> Outcome:
    gallery, triplets = load_gallery(root, encoder="scene")
    agent = tracker(world(root), device=device)
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.1)
    how = Training(turns=TURNS, loss=loss, seed=3)
    losses = list(warm_up(agent, gallery, triplets[:150], optimizer, 2, how))
    return outcome(agent, losses=losses)


def improved(root: Path, folder: Path, form: str, device: torch.device = CPU) -> Outcome:
    dialog = world(root)
    agent = tracker(dialog, "published" if form == "published" else "tracker", device)
    target = target_copy(agent)
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.05)
    how = Training(BATCH, 2 * BATCH, TURNS, "in_batch" if form == "improved" else "triplet", seed=3)
    policy = Improvement(form, top_k=4, pool=16, tau=5.0)
    steps = list(improve_epoch(agent, target, dialog, optimizer, 1, how, policy))
    return outcome(agent, steps)


def self_critical(root: Path, folder: Path, device: torch.device = CPU) -> Outcome:
    dialog = world(root)
    agent = tracker(dialog, device=device)
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.05)
    how = Training(BATCH, 2 * BATCH, TURNS, "hard_negatives", seed=3)
    policy = SelfCritical(4, 2)
    return outcome(agent, list(self_critical_epoch(agent, dialog, optimizer, 1, how, policy)))


def coloured() -> ComposedSplit:
    """Random pictures, and queries for other ones."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    queries = tuple(
        Triplet(int(a), COLOURS[int(c)], int(b))
        for a, c, b in zip(*(rng.integers(0, high, 40) for high in (24, 3, 24)), strict=True)
    )
    names = tuple(map(str, range(24)))
    return ComposedSplit("toy", "train", names, names, pictures, queries)


def composed_model(
    root: Path, folder: Path, model: str, loss: str, augmented: bool, device: torch.device = CPU
) -> Outcome:
    split = coloured()
    torch.manual_seed(5)
    net = build_model(ModelSpec(model, 16, "small-cnn", text_dim=12, words=COLOURS))
    net = settle(net, device)
    augmentation = GradientAugmentation(
        augmented, "noise" if augmented else None, explicit_weight=0.05
    )
    how = composed.Training(
        loss=loss, augmentation=augmentation, learning_rate=0.02, batch_size=BATCH,
        iterations=7, evaluate_every=0, clip=1.0, seed=2, matching_weight=0.1,
    )  # fmt: skip
    watched: list[int] = []

    def validate(net: nn.Module) -> dict[str, float]:
        watched.append(1)
        return {"score": 0.25}

    progress = composed.fit(net, split, how, folder, validate)
    return outcome(net, best=progress.best, waited=progress.waited)


def captioner(root: Path, folder: Path, device: torch.device = CPU) -> Outcome:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 6)).astype(np.float32)
    gallery = Gallery(
        tuple(map(str, range(12))), vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        grids=rng.normal(size=(12, 4, 5)).astype(np.float16),
    )  # fmt: skip
    said = ("make it red", "blue", "the third one is much larger than that", "no")
    triplets = [
        Triplet(int(a), said[int(c)], int(b))
        for a, c, b in zip(*(rng.integers(0, high, 30) for high in (12, 4, 12)), strict=True)
    ]
    return outcome(
        fit_captioner(gallery, triplets, 2, 10, 1e-3, hidden_size=16, seed=4, device=device)
    )


CASES: dict[str, Callable[..., Outcome]] = {
    "in_batch": partial(supervised, loss="in_batch"),
    "hard_negatives": partial(supervised, loss="hard_negatives"),
    "gallery": partial(supervised, loss="gallery"),
    "triplet": partial(supervised, loss="triplet"),
    "published": partial(supervised, loss="triplet", kind="published"),
    "warm_up": partial(warmed_up, loss="in_batch"),
    "warm_up_triplet": partial(warmed_up, loss="triplet"),
    "improved": partial(improved, form="improved"),
    "improved_published": partial(improved, form="published"),
    "self_critical": self_critical,
    "tirg": partial(composed_model, model="tirg", loss="soft_triplet", augmented=True),
    "tirg_last_conv": partial(
        composed_model, model="tirg_lastconv", loss="batch_based_classification", augmented=False
    ),
    "compose_ae": partial(
        composed_model, model="composeAE", loss="batch_based_classification", augmented=False
    ),
    "captioner": captioner,
}
