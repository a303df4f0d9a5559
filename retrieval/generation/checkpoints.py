"""Save and load what a training of a stage needs to go on, and what drawing needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from retrieval.files import atomic_write
from retrieval.generation.models import GanSpec, build_generator

LAST = "last.pt"
KIND = "gan"


@dataclass
class Progress:
    """Where a training stands, besides weights and optimisers.

    Args:
        step: batches seen.
        seconds: of training so far.
        processor_seconds: of these, what processors worked; less where others kept them busy.
        history: the numbers of every validation.
    """

    step: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save_gan(
    path: Path,
    spec: GanSpec,
    parts: Mapping[str, Any],
    chance: torch.Generator,
    progress: Progress,
    arguments: Mapping[str, Any],
) -> None:
    """Write networks and optimisers by name, chance and arguments; complete or not there."""
    content = {
        "kind": KIND,
        "spec": asdict(spec),
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "chance": chance.get_state(),
        "progress": asdict(progress),
        "arguments": dict(arguments),
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_gan(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, or of the last one in a run's folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is something else.
    """
    path = path / LAST if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train one with `train_gan`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["kind"] != KIND:
            raise KeyError(content["kind"])
        GanSpec(**content["spec"])
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint that train_gan saved ({type(error).__name__})"
        ) from error
    return dict(content)


def generator_of(content: Mapping[str, Any]) -> tuple[GanSpec, Any]:
    """The specification and the generator of a checkpoint, in eval mode.

    Where an average of the weights was kept, the generator has these.

    Raises:
        ValueError: the weights are not those of the specification.
    """
    spec = GanSpec(**content["spec"])
    generator = build_generator(spec)
    parts = content["parts"]
    try:
        generator.load_state_dict(parts.get("average", parts["generator"]))
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            "the checkpoint's weights do not fit its specification; it was written by another "
            "version: train again"
        ) from error
    return spec, generator.requires_grad_(False).eval()


def restore(
    parts: Mapping[str, Any], chance: torch.Generator, content: Mapping[str, Any]
) -> Progress:
    """Fill the parts of a run from a checkpoint; returns where it stood."""
    for name, part in parts.items():
        part.load_state_dict(content["parts"][name])
    chance.set_state(content["chance"])
    return Progress(**content["progress"])
