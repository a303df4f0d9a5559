"""Turns per second of the batch environment, against its arithmetic and single environments.

    OMP_NUM_THREADS=1 python -m benchmarks.environment

The floor is the same arithmetic with nothing around it: for every look into the index that the
environment takes, one matrix product, the best image and the count of images above the target;
for every caption of the neural user, the captioner's decoding into word ids. (Captions of the
attribute user are no arithmetic; its floor is without them.) The calls are recorded in one
episode and played again, so both do the same number of everything.

The third is Gymnasium's SyncVectorEnv of B single environments, without wrappers. Its time grows
with B, so at most `singles` environments are made and their time is scaled up.

All three play whole dialogs, from reset to reset, interleaved in one process; medians of ratios.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from benchmarks.measuring import OUT, interleaved, median, ratio, table, write
from benchmarks.worlds import grown_dialog
from envs.dialog import Dialog
from envs.single import DialogRetrievalEnv
from envs.vector import DialogRetrievalVectorEnv

USERS = ("attribute", "neural")


@dataclass(frozen=True)
class Args:
    """What to play."""

    dialogs: tuple[int, ...] = (1, 16, 128, 256, 1024)
    """Dialogs advanced together (B)."""
    sizes: tuple[int, ...] = (10_000, 100_000)
    """Numbers N of images."""
    users: tuple[str, ...] = USERS
    """Who speaks."""
    turns: int = 5
    """Turns of a dialog (T)."""
    singles: int = 256
    """Single environments that are made at most."""
    least_turns: int = 160
    """Turns of a repeat at least: small batches play more than one dialog."""
    repeats: int = 3
    """Interleaved repeats; the median counts."""
    out: Path = OUT
    """Receives environment.json and environment.md."""


class Recorder:
    """An index and a user that note what they are asked.

    Args:
        dialog: whose index and user answer.
    """

    def __init__(self, dialog: Dialog):
        self._index, self._user = dialog.index, dialog.user
        self.looks: list[tuple[np.ndarray, np.ndarray, bool]] = []
        """Queries (B, D), targets (B,), whether the best image is wanted."""
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        """References and targets (B,) of captions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def rank(self, query: np.ndarray, target: np.ndarray) -> np.ndarray:
        """See `Index`."""
        self.looks.append((query, target, False))
        return self._index.rank(query, target)

    def look_up(self, query: np.ndarray, target: np.ndarray, k: int = 1) -> Any:
        """See `Index`."""
        self.looks.append((query, target, True))
        return self._index.look_up(query, target, k)

    def describe(self, reference: np.ndarray, target: np.ndarray, rng: Any) -> list[str]:
        """See `User`."""
        self.pairs.append((reference, target))
        return self._user.describe(reference, target, rng)


def play(env: Any, actions: np.ndarray) -> None:
    """Steps of an environment, one for each row of actions (S, B, D)."""
    for action in actions:
        env.step(action)


def record(dialog: Dialog, count: int, actions: np.ndarray) -> Recorder:
    """What index and user are asked while B dialogs play actions (S, B, D)."""
    recorder: Any = Recorder(dialog)
    env = DialogRetrievalVectorEnv(dialog.with_(index=recorder, user=recorder), count)
    env.reset(seed=0)
    recorder.looks.clear()
    recorder.pairs.clear()
    play(env, actions)
    return recorder  # type: ignore[no-any-return]


def floor(
    recorder: Recorder, embeddings: np.ndarray, captioner: Any = None, tables: Any = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The recorded arithmetic with nothing around it.

    Args:
        recorder: what to do.
        embeddings: (N, D).
        captioner: of the neural user; nothing is decoded without.
        tables: of the captioner.

    Returns:
        Best images and counts of images above the targets, in the order of the looks.
    """
    best, above = [], []
    widest = max(len(query) for query, _, _ in recorder.looks)
    scores = np.empty((widest, len(embeddings)), np.float32)
    for query, target, wanted in recorder.looks:
        found = np.matmul(query, embeddings.T, out=scores[: len(query)])  # (B, N)
        if wanted:
            best.append(found.argmax(1))
        own = found[np.arange(len(target)), target]
        above.append(np.count_nonzero(found > own[:, None], axis=1))
    if captioner is not None:
        import torch

        for reference, target in recorder.pairs:
            captioner.decode(tables, torch.from_numpy(reference), torch.from_numpy(target))
    return best, above


def single_environments(dialog: Dialog, count: int) -> SyncVectorEnv:
    """Gymnasium's vector environment of single ones."""
    return SyncVectorEnv(
        [partial(DialogRetrievalEnv, dialog) for _ in range(count)],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )


def compare(dialog: Dialog, user: str, count: int, args: Args) -> dict[str, Any]:
    """Turns per second of the three for one B, N and user."""
    rng = np.random.default_rng(0)
    size, dim = dialog.index.size, dialog.index.dim
    steps = args.turns * -(-args.least_turns // (args.turns * count))  # whole dialogs
    asked = dialog.gallery.features[rng.integers(size, size=(steps, count))]  # (S, B, D)
    actions = (asked + 0.3 * rng.standard_normal(asked.shape) / dim**0.5).astype(np.float32)
    made = min(count, args.singles)
    batch = DialogRetrievalVectorEnv(dialog, count)
    singles = single_environments(dialog, made)
    batch.reset(seed=0)
    singles.reset(seed=0)
    recorder = record(dialog, count, actions)
    speaker: Any = dialog.user
    neural = (speaker.captioner, speaker._tables) if user == "neural" else ()
    embeddings = dialog.gallery.features
    jobs = {
        "batch": partial(play, batch, actions),
        "floor": partial(floor, recorder, embeddings, *neural),
        "singles": partial(play, singles, actions[: args.turns, :made]),
    }
    seconds = interleaved(jobs, args.repeats)
    more = steps / args.turns * count / made
    seconds["singles"] = [time * more for time in seconds["singles"]]
    turns = steps * count
    return {
        "user": user,
        "size": size,
        "dialogs": count,
        "turns_per_second": {name: turns / median(times) for name, times in seconds.items()},
        "of_floor": ratio(seconds, "floor", "batch"),
        "over_singles": ratio(seconds, "singles", "batch"),
        "floor_over_singles": ratio(seconds, "singles", "floor"),
    }


def main() -> None:
    """Measure, print and keep."""
    args = tyro.cli(Args, description=__doc__)
    lines = []
    for size in args.sizes:
        for user in args.users:
            dialog = grown_dialog(user, size, max_turns=args.turns)
            for count in args.dialogs:
                lines.append(compare(dialog, user, count, args))
                print(lines[-1], flush=True)
            del dialog  # the captioner's tables of 10^5 images are 4 GB
    rows = [
        (line["user"], f"{line['size']:,}", line["dialogs"],
         *(round(line["turns_per_second"][name]) for name in ("batch", "floor", "singles")),
         line["of_floor"], line["over_singles"], line["floor_over_singles"])
        for line in lines
    ]  # fmt: skip
    head = ("user", "N", "B", "turns/s", "the floor's", "single ones'", "of the floor", "times "
            "single ones", "floor, times single ones")  # fmt: skip
    text = (
        table(rows, head) + "\n\nTo reach: 0.7 of the floor (neural user, B = 128, N = 10,000); 20 "
        "times the single ones (attribute user, B = 256)."
    )
    write("environment", "Environment", {"lines": lines}, text, args.out)


if __name__ == "__main__":
    main()
