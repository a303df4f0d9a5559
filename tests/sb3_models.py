"""Small trackers and models of Stable-Baselines3 for the tests."""

from typing import Any

import torch

from agents.checkpoints import make_agent
from agents.sb3 import ALGORITHMS, Method, make_dialogs, make_model
from agents.tracker import DialogTracker
from envs.dialog import Dialog

ENVS = 3
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 8, "batch_size": 12, "n_epochs": 1},
    "a2c": {"n_steps": 4},
    "sac": {"batch_size": 8, "gradient_steps": 1},
    "recurrent-ppo": {"n_steps": 8, "batch_size": 12, "n_epochs": 1},
    "maskable-ppo": {"n_steps": 8, "batch_size": 12, "n_epochs": 1},
}
CASES = [
    (algorithm, action)
    for algorithm in ALGORITHMS
    for action in ("query", "candidate")
    if (algorithm, action) not in (("sac", "candidate"), ("maskable-ppo", "query"))
]


def tracker_for(dialog: Dialog, **spec: Any) -> tuple[DialogTracker, dict[str, Any]]:
    """A tracker with weights that nothing trained, some of them far from where they begin."""
    torch.manual_seed(1)
    spec = {"kind": "tracker", "dim": 12, "text_dim": 10, **spec}
    if spec["kind"] == "published":
        del spec["text_dim"]
    tracker = make_agent(spec, dialog.vocabulary, dialog.gallery.features.shape[1]).eval()
    with torch.no_grad():
        for parameter in tracker.parameters():
            if parameter.ndim == 2:
                parameter += 0.2 * torch.randn(parameter.shape)
    return tracker, spec


def method(algorithm: str, action: str, **changes: Any) -> Method:
    options = {**SMALL[algorithm], **changes.pop("options", {})}
    return Method(
        algorithm, action, candidates=6, num_envs=ENVS, buffer=100, patience=0, options=options,
        **changes,
    )  # fmt: skip


def model_for(dialog: Dialog, how: Method, **spec: Any) -> Any:
    tracker, made_from = tracker_for(dialog, **spec)
    return make_model(make_dialogs(dialog, tracker, how), tracker, made_from, how)
