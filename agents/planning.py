"""Think before showing: look ahead over the images that could be meant, with an imagined user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.belief import Belief, Heard, Weighing, finite_or, listed
from agents.look_ahead import Improvement, Players, look_ahead, propose
from agents.supervised import live_index
from agents.tracker import DialogTracker
from envs.actions import ActionMode
from envs.dialog import CAPTION_LENGTH, Dialog, DialogState, Observation
from envs.state import NOTHING
from retrieval.devices import to_host
from retrieval.index import Index, ScoreIndex, top_k
from user_simulator import NoisyUser, User
from user_simulator.base import UserModel

DIALOGS = 32  # planned together
LISTENINGS = 8  # how often the user is imagined beside the target itself


@dataclass(frozen=True)
class Plan:
    """How hard to think.

    Args:
        top_k: K images, or slates, that are looked ahead from; 1 looks ahead from none and shows
            the likeliest that was not on show, which tells what the looking ahead is worth.
        believed: M images that the target is thought to be among.
        depth: turns played on from each candidate.

    Raises:
        ValueError: numbers that leave nothing to compare or nothing to look at.
    """

    top_k: int = 4
    believed: int = 12
    depth: int = 1

    def __post_init__(self) -> None:
        if min(self.top_k, self.believed, self.depth) < 1:
            raise ValueError(
                "expected at least 1 candidate, 1 image to believe in and a depth of 1, got "
                f"{self.top_k}, {self.believed} and {self.depth}"
            )


class Remembered(NamedTuple):
    """What B dialogs carry from turn to turn."""

    memory: Tensor | None  # the tracker's own
    shown: np.ndarray  # (B, S) images that were on show, -1 where there are fewer
    known: np.ndarray  # (B,) the image that was recognised as the target, -1 where none was
    heard: Heard | None = None  # where a belief weighs the words


class PlanningAgent:
    r"""A tracker that shows what it expects to learn most from, and the likeliest at last.

    The tracker's softmax over the images not yet shown is the belief b: a user who still speaks
    has not seen the target. From each of K candidates c, and for each of the M images g that are
    likeliest to be meant, the dialog is played on with an imagined user, and shown is

    .. math:: argmin_c \sum_g b(g) \, (1 + \log_2(1 + rank(g | c))) \, [c \ne g]

    (at depth 1; deeper ones add up as the outcome "finding" of `agents.look_ahead` does). In the
    last turn there is nothing to learn for, and the likeliest image is shown.

    This is policy improvement while the dialog goes on, without training: Tesauro & Galperin,
    "On-line Policy Improvement using Monte-Carlo Search", NIPS 1996, with the hidden target
    imagined from a belief as in Silver & Veness, "Monte-Carlo Planning in Large POMDPs", NIPS
    2010; here the M likeliest with their weights in place of samples. It never sees the target.
    It does ask an imagined user, K x M captions a turn, who need not be the one it talks to, but
    has to talk as they do: with a stranger nothing is gained (RESULTS.md).

    Environments end a dialog that has found its target; benchmarks play on. For these the agent
    listens, with 8 captions more a turn, whether the user says what the imagined one would say of
    the image beside itself: then it is taken for the target and stays first as long as the user
    says so. A user who says the same of another image is misunderstood.

    With `weighing` the belief b is that of `agents.belief`, which weighs what was heard by how
    likely the imagined user would have said it, and looking ahead does likewise. Then an image
    that was on show is taken for the target, and shown again, where it is likelier than all
    others together: a slip of the tongue may hide a find for a turn.

    Every image is scored, which suits galleries of up to some 10^5: what is shown ranks first,
    the others as the tracker, or the belief, ranks them.

    Args:
        tracker: whose belief and answers these are.
        dialog: the rules, the gallery and the user to imagine. Users are imagined patient and
            without slips of the tongue: a slip tells nothing.
        plan: how hard to think.
        rng: of the imagined users' words and of slates.
        plays_on: whether dialogs go on once the target was on show.
        weighing: how to weigh what was heard; None leaves the belief to the tracker.

    Raises:
        ValueError: the tracker reads other features, the gallery is too small for the dialog, or
            words are to be weighed of a user without likelihoods, or ahead of slates or deep.
    """

    mode = ActionMode(observe_slate=True)
    slate_by = "greedy"  # what it puts first is its slate

    def __init__(
        self,
        tracker: DialogTracker,
        dialog: Dialog,
        plan: Plan,
        rng: np.random.Generator,
        plays_on: bool = False,
        weighing: Weighing | None = None,
    ):
        tracker.index(dialog.gallery.features[:2])  # refuses features of another size
        needed = dialog.slate * dialog.max_turns + plan.top_k
        if len(dialog.gallery) <= needed:
            raise ValueError(
                f"planning over {dialog.max_turns} turns with {plan.top_k} candidates needs a "
                f"gallery of more than {needed} images, got {len(dialog.gallery)}"
            )
        self.tracker = tracker.eval()
        self.plan = plan
        self.plays_on = plays_on
        features = tracker.here(dialog.gallery.features)
        imagined = dialog.with_(
            index=live_index(tracker, features),
            user=without_slips(dialog.user),
            slate_by="greedy",
            never_repeat=True,
            patience=None,
        )
        self._players = Players(tracker, tracker, imagined)
        self._embedded = tracker.searched(tracker.embed(features)).detach()
        self.index = OwnScores(imagined.index, to_host(self._embedded))
        self._row_of = {row.tobytes(): at for at, row in enumerate(dialog.gallery.features)}
        self._ahead = Improvement(
            top_k=max(2, plan.top_k), depth=plan.depth, outcome="finding",
            offer="slates" if dialog.slate > 1 else "images",
        )  # fmt: skip
        self._rng = rng
        self._belief = None
        if weighing is not None:
            if plan.top_k > 1 and (dialog.slate > 1 or plan.depth > 1):
                raise ValueError(
                    "looking ahead with words weighed plans one image at a time and one turn "
                    f"ahead, got slates of {dialog.slate} and a depth of {plan.depth}; plan "
                    "without weighing, or weigh without planning"
                )
            if not isinstance(imagined.user, UserModel):
                raise ValueError(
                    "weighing what was heard needs an imagined user whose words have a likelihood, "
                    f"as the neural one's have, got {type(imagined.user).__name__}; play with "
                    "--user neural, or imagine it (benchmark --plan-user neural)"
                )
            self._belief = Belief(imagined.user, len(dialog.gallery), weighing, rng)

    def predict(
        self,
        observation: Observation,
        state: Remembered | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Scores (B, N), and what to remember; see `agents.base.Agent`.

        Raises:
            ValueError: an image on show is none of the gallery's.
        """
        on_show = self._rows(observation["reference"])
        if (on_show == NOTHING).any():
            raise ValueError("an image on show is none of the gallery that was planned for")
        memory, shown, known, heard = self._recall(observation, on_show, state, episode_start)
        with torch.inference_mode():
            query, memory = self.tracker.respond(
                self.tracker.embed(self.tracker.here(observation["reference"])),
                self.tracker.here(observation["caption"]),
                memory,
            )
            asked = self.tracker.asked(query)
            scores = to_host(asked @ self._embedded.T)  # (B, N)
            sharpness = self.tracker.scale.exp().item()
        seen = listed(shown, self.index.size)  # (B, N)
        believed = sharpness * scores
        if self._belief is None:
            recognised = self._recognised(on_show, observation["caption"])
            known = np.where(recognised, on_show, np.where(known == on_show, NOTHING, known))
        else:
            vocabulary = self._players.ahead.vocabulary
            said = [vocabulary.decode(row) for row in observation["caption"].tolist()]
            heard = self._belief.hear(heard, on_show, said)
            # users pick the target from a slate: what they passed over it is not
            picked = heard.reference if self.plays_on else heard.reference[:, :0]
            may_be = listed(picked, self.index.size)
            possible = np.where(seen & ~may_be, -np.inf, believed.astype(np.float64))
            believed, heard = self._belief.weigh(possible, heard, picked)
            known = likelier_than_all(believed, may_be)
            scores = finite(believed, scores)
        believed = np.where(seen, -np.inf, believed)
        front = top_k(believed, self._players.ahead.slate)  # (B, k) what is shown
        front[:, 0] = np.where(known == NOTHING, front[:, 0], known)
        turn = observation["turn"][:, 0]
        planned = (turn < self._players.ahead.max_turns - 1) & (known == NOTHING)
        planned &= self.plan.top_k > 1
        for now in np.unique(turn[planned]):
            rows = np.flatnonzero((turn == now) & planned)
            for begin in range(0, len(rows), DIALOGS):
                some = rows[begin : begin + DIALOGS]
                front[some] = self._choose(
                    on_show[some], shown[some], int(now), to_host(asked[some]), believed[some],
                    None if memory is None else memory[self.tracker.here(some)],
                )  # fmt: skip
        first = scores.max(1, keepdims=True) + np.arange(front.shape[1], 0, -1)
        np.put_along_axis(scores, front, first.astype(np.float32), axis=1)
        return scores, Remembered(memory, shown, known, heard)

    def _recall(
        self,
        observation: Observation,
        on_show: np.ndarray,
        state: Remembered | None,
        episode_start: np.ndarray | None,
    ) -> Remembered:
        """What is remembered, with the images that are on show now."""
        now = on_show[:, None]
        if "slate" in observation:
            features = observation["slate"].reshape(len(now), -1, observation["reference"].shape[1])
            now = np.stack([self._rows(slate) for slate in features])  # (B, K)
            now[:, 0] = np.where(now[:, 0] == NOTHING, on_show, now[:, 0])
        if state is None:
            return Remembered(None, now, np.full(len(now), NOTHING))
        memory, shown, known, heard = state
        if episode_start is not None:
            begins = np.asarray(episode_start, dtype=bool)
            known = np.where(begins, NOTHING, known)
            shown = np.where(begins[:, None], NOTHING, shown)
            memory = None if memory is None else memory * self.tracker.here(~begins)[:, None]
            heard = None if heard is None else heard.forget(begins)
        shown = shown[:, (shown != NOTHING).any(0)]
        return Remembered(memory, np.concatenate([shown, now], axis=1), known, heard)

    def _rows(self, features: np.ndarray) -> np.ndarray:
        """Which images have features (B, F); -1 where none has, as in empty places of slates."""
        return np.array([self._row_of.get(row.tobytes(), NOTHING) for row in features])

    def _recognised(self, on_show: np.ndarray, caption: np.ndarray) -> np.ndarray:
        """Whether the users say (B, L) what they would say of the image on show beside itself."""
        ahead = self._players.ahead
        alike = np.zeros(len(on_show), dtype=bool)
        for _ in range(LISTENINGS if self.plays_on else 0):
            said = ahead.user.describe(on_show, on_show, self._rng)
            alike |= (ahead.vocabulary.encode(said, CAPTION_LENGTH) == caption).all(1)
        return alike

    def _choose(
        self,
        on_show: np.ndarray,
        shown: np.ndarray,
        turn: int,
        asked: np.ndarray,
        believed: np.ndarray,
        memory: Tensor | None,
    ) -> np.ndarray:
        """The images (B, k) to show, by the expected outcome."""
        ahead, dialogs = self._players.ahead, len(on_show)
        images = top_k(believed, self.plan.believed)  # (B, M)
        if self._belief is not None:
            logits = np.take_along_axis(believed, images, 1)
            candidates = images[:, : self.plan.top_k]
            expected = self._belief.expected(candidates, images, logits, self._rng)
            return candidates[np.arange(dialogs), expected.argmin(1), None]
        chance = torch.from_numpy(np.take_along_axis(believed, images, 1)).softmax(1).numpy()
        state = imagined_state(ahead, on_show, shown, turn)
        candidates = propose(self._players, state, asked, self._ahead, self._rng)  # (B, K, k)
        rows = np.repeat(np.arange(dialogs), images.shape[1])
        score = look_ahead(
            self._players,
            imagined_state(ahead, on_show[rows], shown[rows], turn, images.reshape(-1)),
            candidates[rows],
            asked[rows],
            None if memory is None else memory[self.tracker.here(rows)],
            ahead.max_turns - turn - 1,
            self._ahead,
            self._rng,
        )  # (B M, K)
        expected = np.einsum("bm,bmk->bk", chance, score.reshape(dialogs, images.shape[1], -1))
        chosen: np.ndarray = candidates[np.arange(dialogs), expected.argmin(1)]
        return chosen


class OwnScores(ScoreIndex):
    """Scores that the agent gives itself; before its first answer, those of its embeddings.

    Args:
        index: of the embeddings.
        embedded: these (N, D), as they are searched.
    """

    def __init__(self, index: Index, embedded: np.ndarray):
        super().__init__(index.size)
        self._index = index
        self._embedded = embedded

    def query_of(self, image: np.ndarray) -> np.ndarray:
        """How similar all images are to the images (B,) themselves: (B, N)."""
        own: np.ndarray = self._index.query_of(image) @ self._embedded.T
        return own


def likelier_than_all(logits: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The image (B,) of a mask (B, N) that is likelier meant than all others together, else -1.

    Args:
        logits: the belief (B, N).
        of: which images are asked about (B, N).
    """
    best, at = logits.argmax(1), np.arange(len(logits))
    most = finite_or(logits[at, best], 0.0)  # -infinity where all are ruled out
    others = np.exp(logits - most[:, None]).sum(1) - 1
    known = of[at, best] & np.isfinite(logits[at, best]) & (others < 1)
    told: np.ndarray = np.where(known, best, NOTHING)
    return told


def finite(logits: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Logits (B, N) as float32 scores; what they rule out comes last, by other scores (B, N).

    They are moved so that most of them lie near 0, where float32 tells them apart.
    """
    ruled_out = ~np.isfinite(logits)
    least = finite_or(np.where(ruled_out, np.inf, logits).min(1, keepdims=True), 0.0)
    last = least - 1 + scores - scores.max(1, keepdims=True)
    whole = np.where(ruled_out, last, logits)
    return (whole - np.median(whole, axis=1, keepdims=True)).astype(np.float32)


def imagined_state(
    dialog: Dialog,
    on_show: np.ndarray,
    shown: np.ndarray,
    turn: int,
    target: np.ndarray | None = None,
) -> DialogState:
    """Dialogs as they would stand if targets (B,) were meant; ranks are not known.

    Args:
        dialog: the rules.
        on_show: the references (B,).
        shown: all images shown so far (B, S), padded with -1.
        turn: how many replies were shown.
        target: (B,); none where nobody asks for it.
    """
    nothing = np.full(len(on_show), NOTHING)
    unknown = np.zeros(len(on_show))
    slate = np.full((len(on_show), dialog.slate), NOTHING)
    slate[:, 0] = on_show
    return DialogState(
        nothing if target is None else target, on_show, np.full(len(on_show), turn), unknown,
        unknown, ("",) * len(on_show), len(dialog.gallery), slate,
        # the dialog takes what was shown from the left of each row
        shown=np.take_along_axis(shown, np.argsort(shown == NOTHING, axis=1, kind="stable"), 1),
        nearest=unknown,
        stalled=np.zeros(len(on_show), dtype=np.int64),
    )  # fmt: skip


def without_slips(user: User) -> User:
    """The user who speaks through a `NoisyUser`."""
    return user.user if isinstance(user, NoisyUser) else user
