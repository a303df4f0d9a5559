"""Play a fixed list of dialogs with an agent and note the targets' ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from agents.base import Agent
from envs.actions import ActionMode
from envs.dialog import Dialog, DialogState
from retrieval.index import Ties


class Played(NamedTuple):
    """What E dialogs of T turns came to."""

    ranks: np.ndarray  # (E, T + 1)
    candidates: np.ndarray  # (E, T + 1, K) the best images at each turn
    shown: np.ndarray  # (E, T + 1) the reference on show at each turn
    captions: list[list[str]]  # E lists of T + 1 captions, the last ""
    slates: np.ndarray  # (E, T + 1, K) all images on show, -1 where there are fewer
    left: np.ndarray  # (E, T + 1) whether the user has lost patience and gone


def evaluation_pairs(size: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A fixed list of (targets, first references), (E,) each.

    Targets are drawn without replacement as far as the gallery goes; no reference is its target.
    """
    rng = np.random.default_rng([seed, 7])
    rounds = -(-count // size)
    target = np.concatenate([rng.permutation(size) for _ in range(rounds)])[:count]
    return target, (target + 1 + rng.integers(size - 1, size=count)) % size


class PairDraws:
    """Chances that depend on seed, turn and dialog alone, whatever an agent did before.

    So agents hear the same words where their dialogs coincide.
    """

    def __init__(self, seed: int, turn: int, rows: np.ndarray, dialogs: int):
        self._key = [seed, 11, turn]
        self._rows = rows
        self._dialogs = dialogs

    def random(self, size: tuple[int, int]) -> np.ndarray:
        """(B, M) uniform numbers, the same for the same dialogs at the same turn."""
        assert size[0] == len(self._rows)
        return np.random.default_rng(self._key).random((self._dialogs, size[1]))[self._rows]


def run_dialogs(
    dialog: Dialog,
    agent: Agent,
    target: np.ndarray,
    reference: np.ndarray,
    seed: int = 0,
    depth: int = 10,
    batch_size: int = 256,
    ties: Ties = "half",
) -> Played:
    """Play E dialogs to all T turns, also those that have found their target.

    A dialog whose user loses patience stands still from then on: nothing more is shown or said,
    and it keeps its last rank (which is not a find: `found_by_turn` in `agents.report`).

    Args:
        dialog: the rules; its index serves agents that bring none (`agent.index`), its rule for
            slates those that bring none (`agent.slate_by`).
        agent: who answers; by queries, unless its `mode` says that actions are images,
            candidates or K queries. Its own `index`, if it has one, is searched.
        target: (E,).
        reference: (E,).
        seed: of the users' words.
        depth: K, how many of the best images to note.
        batch_size: dialogs played together.
        ties: how ranks count ties, for agents that bring their index.
    """
    own = getattr(agent, "index", None)
    if own is not None:
        index = own(dialog.gallery.features) if callable(own) else own
        index.ties = ties
        dialog = dialog.with_(index=index)
    dialog = dialog.with_(slate_by=getattr(agent, "slate_by", dialog.slate_by))
    parts = []
    for begin in range(0, len(target), batch_size):
        rows = np.arange(begin, min(begin + batch_size, len(target)))
        parts.append(_play(dialog, agent, target, reference, rows, seed, depth))
    return Played(
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.candidates for part in parts]),
        np.concatenate([part.shown for part in parts]),
        [captions for part in parts for captions in part.captions],
        np.concatenate([part.slates for part in parts]),
        np.concatenate([part.left for part in parts]),
    )


def _play(
    dialog: Dialog,
    agent: Agent,
    target: np.ndarray,
    reference: np.ndarray,
    rows: np.ndarray,
    seed: int,
    depth: int,
) -> Played:
    """Play the dialogs `rows` together."""
    state = dialog.start(target[rows], reference[rows])
    mode: ActionMode = getattr(agent, "mode", ActionMode())
    memory = None
    history = [state]
    best = [dialog.index.search(dialog.index.query_of(state.reference), depth)]
    for turn in range(dialog.max_turns):
        state = _heard(dialog, state, PairDraws(seed, turn, rows, len(target)))
        history[-1] = state
        begins = np.full(len(rows), turn == 0)
        action, memory = agent.predict(
            mode.observe(dialog, state), state=memory, episode_start=begins, deterministic=True
        )
        after = mode.apply(dialog, state, np.asarray(action))
        offered = dialog.index.search(mode.asked(dialog, action, after), depth)
        gone = np.flatnonzero(dialog.left(state))
        if len(gone):  # nobody is there to see it
            after = after.with_rows(gone, state.rows(gone))
            offered[gone] = best[-1][gone]
        history.append(after)
        best.append(offered)
        state = after
    return Played(
        np.stack([state.rank for state in history], axis=1),
        np.stack(best, axis=1),
        np.stack([state.reference for state in history], axis=1),
        [list(said) for said in zip(*(state.captions for state in history), strict=True)],
        np.stack([state.slate for state in history], axis=1),
        np.stack([dialog.left(state) for state in history], axis=1),
    )


def _heard(dialog: Dialog, state: DialogState, draws: PairDraws) -> DialogState:
    """The state once the users have spoken, but those who left."""
    said = dialog.listen(state, draws)
    gone = dialog.left(state)
    if not gone.any():
        return said
    words = zip(said.captions, gone, strict=True)
    return replace(said, captions=tuple("" if mute else caption for caption, mute in words))
