"""Save agents with all that made them, and load them back safely."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from agents.tracker import AGENTS, DialogTracker
from retrieval.errors import unknown
from retrieval.files import atomic_write
from retrieval.text import Vocabulary


class Checkpoint(NamedTuple):
    """What a file holds besides the weights."""

    agent: DialogTracker
    spec: dict[str, Any]
    epoch: int
    optimizer: dict[str, Any]
    arguments: dict[str, Any]


def make_agent(spec: dict[str, Any], vocabulary: Vocabulary, feature_dim: int) -> DialogTracker:
    """An agent by its specification: {"kind": "tracker", "composer": "tirg", ...}.

    Raises:
        ValueError: an unknown kind or option.
    """
    options = dict(spec)
    kind = options.pop("kind", "tracker")
    if kind not in AGENTS:
        raise unknown("agent", kind, AGENTS)
    return AGENTS[kind](vocabulary, feature_dim, **options)


def save_checkpoint(
    path: Path,
    agent: DialogTracker,
    spec: dict[str, Any],
    epoch: int,
    optimizer: torch.optim.Optimizer,
    arguments: Any,
) -> None:
    """Write weights, optimiser, words and arguments; the file is complete or not there."""
    plain = asdict(arguments) if is_dataclass(arguments) and not isinstance(arguments, type) else {}
    content = {
        "weights": agent.state_dict(),
        "spec": spec,
        "words": list(agent.vocabulary.words[3:]),
        "feature_dim": agent.feature_dim,
        "epoch": epoch,
        "optimizer": optimizer.state_dict(),
        "arguments": {key: _plain(value) for key, value in plain.items()},
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path, vocabulary: Vocabulary | None = None) -> Checkpoint:
    """An agent as it was saved, in eval mode.

    Args:
        path: the file.
        vocabulary: the environment's words; an agent of other words is refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a checkpoint of this project, or of another vocabulary.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train one with `train_sl`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        agent = make_agent(content["spec"], Vocabulary(content["words"]), content["feature_dim"])
        agent.load_state_dict(content["weights"])
        spec, epoch, optimizer, arguments = (
            content[key] for key in ("spec", "epoch", "optimizer", "arguments")
        )
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint that train_sl or train_rl saved ({type(error).__name__})"
        ) from error
    if vocabulary is not None and agent.vocabulary != vocabulary:
        raise ValueError(
            f"{path} knows another vocabulary ({len(agent.vocabulary)} words) than the "
            f"environment ({len(vocabulary)} words); train it on this environment"
        )
    return Checkpoint(agent.eval(), spec, epoch, optimizer, arguments)


def _plain(value: Any) -> Any:
    """Arguments as `weights_only` can load them."""
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
