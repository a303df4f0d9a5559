"""Train a Stable-Baselines3 model epoch by epoch: progress, evaluation, models saved, resume."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from tqdm import tqdm

from agents.evaluation import evaluation_pairs, run_dialogs
from agents.sb3.agent import SB3Agent
from agents.sb3.replay import load_replay, save_replay
from envs.dialog import Dialog
from retrieval.files import atomic_write
from retrieval.metrics import rank_percentile, recall_at_k

_PASSING = (
    "ep_info_buffer", "ep_success_buffer", "_last_obs", "_last_original_obs",
    "_last_episode_starts", "_last_lstm_states", "tensorboard_log",
)  # fmt: skip


def saved_models(folder: Path, algorithm: str) -> dict[int, Path]:
    """The models `{algorithm}-{epoch}.zip` of a folder."""
    pattern = re.compile(rf"{re.escape(algorithm)}-(\d+)\.zip")
    found = {}
    for path in folder.glob(f"{algorithm}-*.zip"):
        if match := pattern.fullmatch(path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def last_model(folder: Path, algorithm: str, resume: bool, overwrite: bool) -> Path | None:
    """The model to go on from, or None for a new run (which then replaces older ones).

    Raises:
        ValueError: the folder holds models and neither `resume` nor `overwrite` was asked for,
            or `resume` finds none.
    """
    saved = list(saved_models(folder, algorithm).values())
    if resume:
        if not saved:
            raise ValueError(
                f"nothing to resume: {folder} holds no {algorithm}-*.zip; start without"
            )
        return saved[-1]
    if saved and not overwrite:
        raise ValueError(
            f"{folder} already holds {saved[-1].name}; go on with --resume, start anew with "
            "--overwrite, or choose another --model-folder"
        )
    return None


def learn_epochs(
    model: BaseAlgorithm,
    algorithm: str,
    epochs: range,
    turns: int,
    seed: int,
    folder: Path,
    test: Dialog | None,
    test_pairs: int = 512,
) -> None:
    """Train for some epochs, saving `{algorithm}-{epoch}.zip` after each.

    Every epoch begins with new dialogs and with chances of its own, so that a run that was
    stopped and taken up again comes to the numbers of one that was not.

    Args:
        model: with its environment; trained in place.
        algorithm: its name, which its files get.
        epochs: their numbers, from the first one not yet done.
        turns: agent's turns in an epoch, over all dialogs; PPO finishes its last round of play.
        seed: of the run.
        folder: receives models, `{algorithm}-metrics.json` and TensorBoard's `logs`.
        test: held-out dialogs played after each epoch, or None.
        test_pairs: how many of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if epochs.start == 0:  # a new run, now that all arguments have proved good
        for path in saved_models(folder, algorithm).values():
            path.unlink()
    model.tensorboard_log = str(folder / "logs")
    log = _load_log(folder / f"{algorithm}-metrics.json", epochs.start)
    for epoch in epochs:
        model.set_random_seed((seed * 1_000_003 + epoch) % 2**31)
        model._last_obs = None  # the environment is started anew
        with _Bar(turns, f"{algorithm} epoch {epoch}") as bar:
            model.learn(turns, bar, tb_log_name=algorithm, reset_num_timesteps=False)
        numbers: dict[str, Any] = {"epoch": epoch, "turns": model.num_timesteps}
        if test is not None:
            numbers |= _test(model, test, test_pairs)
            print(_line(algorithm, numbers), file=sys.stderr)
        log.append(numbers)
        # The model last: a run stopped in between plays this epoch again.
        with atomic_write(folder / f"{algorithm}-metrics.json") as temporary:
            temporary.write_text(json.dumps(log, indent=1))
        if isinstance(model, OffPolicyAlgorithm):
            save_replay(model, folder / f"{algorithm}-{epoch}-replay.npz")
        with atomic_write(folder / f"{algorithm}-{epoch}.zip") as temporary:
            model.save(temporary, exclude=_PASSING)
        (folder / f"{algorithm}-{epoch - 1}-replay.npz").unlink(missing_ok=True)


def restore_replay(model: BaseAlgorithm, path: Path) -> None:
    """Give a resumed SAC what it remembers; other algorithms remember nothing.

    Raises:
        FileNotFoundError: the memory is missing.
    """
    if isinstance(model, OffPolicyAlgorithm):
        load_replay(model, path.with_name(f"{path.stem}-replay.npz"))


class _Bar(BaseCallback):
    """The turns played so far, as a progress bar."""

    def __init__(self, turns: int, title: str):
        super().__init__()
        self.bar = tqdm(total=turns, desc=title, unit="turn", file=sys.stderr, mininterval=1.0)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def _on_step(self) -> bool:
        self.bar.update(self.training_env.num_envs)
        return True


def _test(model: BaseAlgorithm, dialog: Dialog, pairs: int, seed: int = 12345) -> dict[str, Any]:
    """What the fixed held-out dialogs come to, turn by turn."""
    target, reference = evaluation_pairs(len(dialog.gallery), pairs, seed)
    agent = SB3Agent(model, len(dialog.gallery))
    ranks = run_dialogs(dialog, agent, target, reference, seed, depth=1).ranks
    numbers = {"percentile": rank_percentile(ranks, len(dialog.gallery)).mean(0).tolist()}
    for k in (1, 5, 10):
        numbers[f"recall@{k}"] = recall_at_k(ranks, k).mean(0).tolist()
    return numbers


def _load_log(path: Path, first: int) -> list[dict[str, Any]]:
    """The numbers of the epochs before the first one to come."""
    if first == 0 or not path.is_file():
        return []
    return [numbers for numbers in json.loads(path.read_text()) if numbers["epoch"] < first]


def _line(algorithm: str, numbers: dict[str, Any]) -> str:
    percentile = " ".join(f"{100 * value:.1f}" for value in numbers["percentile"])
    recall = " ".join(f"{100 * value:.1f}" for value in numbers["recall@1"])
    return (
        f"{algorithm}-{numbers['epoch']}: {numbers['turns']} turns | percentile by turn "
        f"{percentile} | Recall@1 {recall}"
    )
