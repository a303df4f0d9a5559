"""Captions of the neural user's look-ahead against the straightforward decoding.

    OMP_NUM_THREADS=1 python -m benchmarks.captioning

A look-ahead over K candidates in dialogs of T turns asks for K T (T + 1) / 2 captions a dialog:
60 by default. The project decodes those of all dialogs and candidates of one turn in one batch;
the plain version (`benchmarks/plain_captioner.py`) goes candidate by candidate. All pairs differ,
so that nothing is gained from captions asked for twice. The words must be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.measuring import OUT, interleaved, median, ratio, table, write
from benchmarks.plain_captioner import decode_ahead_plainly
from envs.factory import make_dialog
from user_simulator.captioner import NeuralUser
from user_simulator.decoding import Decoder


@dataclass(frozen=True)
class Args:
    """What to say."""

    dialogs: int = 16
    """Dialogs that look ahead together (B)."""
    top_k: int = 4
    """Candidates of each (K)."""
    turns: int = 5
    """Turns of a dialog (T)."""
    repeats: int = 3
    """Interleaved repeats; the median counts."""
    out: Path = OUT
    """Receives captioning.json and captioning.md."""


def pairs(images: int, args: Args) -> list[tuple[Tensor, Tensor]]:
    """For every turn of every roll-out the candidates (B, K) on show and the targets (B,)."""
    rng = np.random.default_rng(0)
    count = args.turns * (args.turns + 1) // 2
    drawn = rng.integers(images, size=(count, args.dialogs, args.top_k + 1))
    return [(torch.from_numpy(one[:, 1:]), torch.from_numpy(one[:, 0])) for one in drawn]


def decode_ahead(
    decoder: Decoder, tables: Any, candidates: Tensor, target: Tensor, how: torch.dtype | None
) -> Tensor:
    """Words (B, K, 16) about candidates (B, K) and targets (B,), all in one batch."""
    count = candidates.shape[1]
    with torch.autocast("cpu", dtype=how, enabled=how is not None):
        said = decoder.decode(tables, candidates.flatten(), target.repeat_interleave(count))
    return said.unflatten(0, (-1, count))


def compare(user: NeuralUser, vectors: Tensor, grids: Tensor, args: Args) -> dict[str, Any]:
    """Seconds of the ways to decode, and whether they say the same."""
    load = pairs(len(vectors), args)
    decoder, tables = Decoder(user.captioner), user._tables
    plainly = partial(decode_ahead_plainly, user.captioner, vectors, grids)
    ways: dict[str, Any] = {
        "batch": partial(decode_ahead, decoder, tables, how=None),
        "bfloat16": partial(decode_ahead, decoder, tables, how=torch.bfloat16),
        "plain": plainly,
        "kept": partial(plainly, keep_projections=True),
    }
    said: dict[str, Tensor] = {}

    def speak(name: str) -> None:
        said[name] = torch.cat(_all(ways[name], load))

    seconds = interleaved({name: partial(speak, name) for name in ways}, args.repeats)
    different = {
        name: int((said[name] != said["plain"]).any(-1).sum()) for name in ("batch", "bfloat16")
    }
    count = args.dialogs * args.top_k * len(load)
    return {
        "captions": count,
        "microseconds": {name: 1e6 * median(times) / count for name, times in seconds.items()},
        "plain_over_batch": ratio(seconds, "plain", "batch"),
        "kept_over_batch": ratio(seconds, "kept", "batch"),
        "batch_over_bfloat16": ratio(seconds, "batch", "bfloat16"),
        "different": different,
    }


def _all(way: Any, load: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [way(candidates=candidates, target=target) for candidates, target in load]


def main() -> None:
    """Measure, print and keep."""
    args = tyro.cli(Args, description=__doc__)
    dialog = make_dialog(user="neural")
    user, gallery = dialog.user, dialog.gallery
    assert isinstance(user, NeuralUser) and gallery.grids is not None
    grids = torch.from_numpy(gallery.grids.astype(np.float32))
    found = compare(user, torch.from_numpy(gallery.features), grids, args)
    spent = found["microseconds"]
    rows = [
        ("the project's: one batch a turn", spent["batch"], "", 0),
        ("plain", spent["plain"], found["plain_over_batch"], found["different"]["batch"]),
        ("plain, places projected once a call", spent["kept"], found["kept_over_batch"], ""),
        ("the project's in bfloat16 (autocast)", spent["bfloat16"],
         1 / found["batch_over_bfloat16"], found["different"]["bfloat16"]),
    ]  # fmt: skip
    head = ("decoding", "µs a caption", "times the project's", "captions that differ")
    text = (
        f"{found['captions']:,} greedy captions: the look-ahead of {args.dialogs} dialogs with "
        f"K = {args.top_k}, T = {args.turns}.\n\n{table(rows, head)}\n\nTo reach: plain at least "
        "5 times the project's, no caption that differs."
    )
    write("captioning", "Captions of a look-ahead", found, text, args.out)


if __name__ == "__main__":
    main()
