"""Turns per second of the environment in tensors, against its arithmetic and the NumPy one.

    python -m benchmarks.on_device --device cuda

The floor is the arithmetic of a turn with nothing around it: one matrix product, the best image,
the count of images above the target, and the captioner's decoding to its last word. On a GPU both
are queued without waiting and the clock stops when the GPU is done; floor over environment is then
the share of the time that the GPU spends on what has to be done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.measuring import OUT, interleaved, median, ratio, table, write
from benchmarks.worlds import grown_dialog
from envs.dialog import Dialog
from envs.on_device import DeviceDialogVectorEnv
from envs.vector import DialogRetrievalVectorEnv
from retrieval.devices import device_of
from user_simulator.captioner import NeuralUser


@dataclass(frozen=True)
class Args:
    """What to play, and where."""

    device: str = "cpu"
    """`cpu` or `cuda`."""
    dialogs: tuple[int, ...] = (128, 1024)
    """Dialogs advanced together (B)."""
    size: int = 10_000
    """Number N of images."""
    steps: int = 12
    """Turns of a repeat."""
    repeats: int = 3
    """Interleaved repeats; the median counts."""
    out: Path = OUT
    """Receives on_device.json and on_device.md."""


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def play(env: Any, actions: Any, device: torch.device) -> None:
    """Steps of an environment, one for each row of actions (S, B, D)."""
    for action in actions:
        env.step(action)
    finish(device)


@torch.no_grad()
def floor(
    user: NeuralUser, embeddings: torch.Tensor, actions: torch.Tensor, pairs: torch.Tensor
) -> None:
    """The arithmetic of as many turns; pairs (2, B) are what is spoken about."""
    reference, target = pairs
    for action in actions:
        scores = action @ embeddings.T  # (B, N)
        scores.argmax(1)
        (scores > scores.gather(1, target[:, None])).sum(1)
        user.speak(reference, target)
    finish(embeddings.device)


def compare(dialog: Dialog, count: int, args: Args) -> dict[str, Any]:
    """Turns per second of the three for one B."""
    device = device_of(args.device)
    small: Any = dialog.user
    user = NeuralUser(small.captioner, dialog.gallery, device=device)
    env = DeviceDialogVectorEnv(dialog.with_(user=user), count)
    rng = np.random.default_rng(0)
    asked = dialog.gallery.features[rng.integers(args.size, size=(args.steps, count))]
    actions = torch.from_numpy(asked).to(device)
    pairs = torch.from_numpy(rng.integers(args.size, size=(2, count))).to(device)
    env.reset(seed=0)
    jobs = {
        "tensors": partial(play, env, actions, device),
        "floor": partial(floor, user, env.embeddings, actions, pairs),
    }
    seconds = interleaved(jobs, args.repeats, now=time.perf_counter)
    host = DialogRetrievalVectorEnv(grown_dialog("neural", args.size, dialog), count)
    host.reset(seed=0)
    cpu = torch.device("cpu")
    alone = interleaved({"arrays": partial(play, host, asked, cpu)}, 1, now=time.perf_counter)
    turns = args.steps * count
    return {
        "dialogs": count,
        "turns_per_second": {
            name: turns / median(times) for name, times in {**seconds, **alone}.items()
        },
        "of_floor": ratio(seconds, "floor", "tensors"),
    }


def main() -> None:
    """Measure, print and keep."""
    args = tyro.cli(Args, description=__doc__)
    dialog = grown_dialog("neural", args.size)
    lines = [compare(dialog, count, args) for count in args.dialogs]
    rows = [
        (line["dialogs"],
         *(round(line["turns_per_second"][name]) for name in ("tensors", "floor", "arrays")),
         line["of_floor"])
        for line in lines
    ]  # fmt: skip
    head = ("B", "turns/s", "the floor's", "NumPy environment on the CPU", "of the floor")
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else "the CPU"
    text = f"On {where}, N = {args.size:,}, neural user.\n\n{table(rows, head)}"
    write("on_device", "The environment in tensors", {"lines": lines}, text, args.out)


if __name__ == "__main__":
    main()
