"""What SAC remembers, in a file of plain arrays (Stable-Baselines3's own is a pickle)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from retrieval.files import atomic_write

_TABLES = ("actions", "rewards", "dones", "timeouts")
_DICTS = ("observations", "next_observations")


def save_replay(model: OffPolicyAlgorithm, path: Path) -> None:
    """Write the transitions so far."""
    buffer = _buffer(model)
    filled = buffer.buffer_size if buffer.full else buffer.pos
    arrays: dict[str, Any] = {name: getattr(buffer, name)[:filled] for name in _TABLES}
    for name in _DICTS:
        for key, array in getattr(buffer, name).items():
            arrays[f"{name}/{key}"] = array[:filled]
    with atomic_write(path) as temporary:
        np.savez(temporary, place=np.array([buffer.pos, buffer.full]), **arrays)


def load_replay(model: OffPolicyAlgorithm, path: Path) -> None:
    """Put them back.

    Raises:
        FileNotFoundError: no such file.
        ValueError: they are of another environment, or more than the buffer holds.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"SAC goes on from its memory, which {path} holds no more; start anew with --overwrite"
        )
    buffer = _buffer(model)
    with np.load(path, allow_pickle=False) as arrays:
        place = arrays["place"]
        for name in arrays.files:
            if name == "place":
                continue
            table, _, key = name.partition("/")
            held = getattr(buffer, table)[key] if key else getattr(buffer, table)
            saved = arrays[name]
            if saved.shape[1:] != held.shape[1:] or len(saved) > len(held):
                raise ValueError(
                    f"{path} holds {name} of shape {saved.shape}, expected at most {held.shape}; "
                    "resume with the flags of the first run"
                )
            held[: len(saved)] = saved
    buffer.pos, buffer.full = int(place[0]), bool(place[1])


def _buffer(model: OffPolicyAlgorithm) -> DictReplayBuffer:
    assert isinstance(model.replay_buffer, DictReplayBuffer)
    return model.replay_buffer
